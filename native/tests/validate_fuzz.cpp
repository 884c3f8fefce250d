// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Bends valid calls at random and hands them to the loader. Built with sanitizers it looks for overflow and wild reads in the
 * validation and in the reference pack's workspace sizes; in any build it checks that a refusal is an invalid argument whose
 * text names the operator, and that a workspace size is not negative.
 *
 * usage: validate_fuzz REFERENCE_PACK.so FAKE_PACK.so [iterations per operator] [seed]
 *
 * Run-phase calls go to the fake pack, which computes nothing: the loader cannot know how much memory is behind a pointer. For
 * the same reason the number of entries of host arrays (`sequences`, `count`) is never raised, and `size` never above the real
 * one.
 */
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <type_traits>

#include "expect.h"
#include "qlora4j/operators.h"
#include "valid_calls.h"

namespace {

using q4j::test::ValidCalls;

class Bender {
 public:
  Bender(ValidCalls& calls, uint64_t seed) : calls_(calls), random_(seed) {}

  /** Replaces one to three fields of a struct of 8-byte aligned words. */
  template <typename Struct>
  void bend(Struct& target) {
    static_assert(sizeof(Struct) % 4 == 0, "a struct of 4-byte words");
    const uint64_t changes = 1 + random_() % 3;
    for (uint64_t i = 0; i < changes; ++i) {
      const std::size_t word = random_() % (sizeof(Struct) / 4);
      if (word == 0) {
        target.size = static_cast<uint32_t>(random_() % (sizeof(Struct) + 1) &
                                            ~uint64_t{random_() % 2 == 0 ? 7u : 0u});  // often a multiple of 8
        continue;
      }
      bend_word(reinterpret_cast<unsigned char*>(&target), word, sizeof(Struct) / 4);
    }
  }

  uint64_t next() { return random_(); }

 private:
  void bend_word(unsigned char* bytes, std::size_t word, std::size_t words) {
    const std::size_t even = word & ~std::size_t{1};
    if (even + 2 <= words) {
      uint64_t both;
      std::memcpy(&both, bytes + even * 4, 8);
      const uint64_t begin = reinterpret_cast<uint64_t>(&calls_);
      if (both == 0 || (both >= begin && both < begin + sizeof calls_)) {
        // A pointer, or a NULL (or an integer 0, which then becomes a large number).
        const uint64_t pointer =
            random_() % 2 == 0 ? 0 : reinterpret_cast<uint64_t>(calls_.at(random_() % 12)) + random_() % 256;
        std::memcpy(bytes + even * 4, &pointer, 8);
        return;
      }
    }
    switch (random_() % 4) {
      case 0: {
        static constexpr int32_t values[] = {0,
                                             1,
                                             -1,
                                             2,
                                             3,
                                             7,
                                             8,
                                             32,
                                             63,
                                             64,
                                             100,
                                             256,
                                             4096,
                                             65537,
                                             1 << 30,
                                             std::numeric_limits<int32_t>::max(),
                                             std::numeric_limits<int32_t>::min()};
        const int32_t value = values[random_() % std::size(values)];
        std::memcpy(bytes + word * 4, &value, 4);
        return;
      }
      case 1: {
        static constexpr float values[] = {0.0f,
                                           -0.0f,
                                           1.0f,
                                           -1.0f,
                                           0.999f,
                                           1e-45f,
                                           3e38f,
                                           std::numeric_limits<float>::infinity(),
                                           std::numeric_limits<float>::quiet_NaN()};
        const float value = values[random_() % std::size(values)];
        std::memcpy(bytes + word * 4, &value, 4);
        return;
      }
      case 2: {
        const uint32_t value = static_cast<uint32_t>(random_());
        std::memcpy(bytes + word * 4, &value, 4);
        return;
      }
      default: {
        if (even + 2 > words) return;
        static constexpr int64_t values[] = {0,
                                             1,
                                             -1,
                                             5,
                                             64,
                                             65,
                                             97,
                                             int64_t{1} << 24,
                                             int64_t{1} << 31,
                                             (int64_t{1} << 48) - 1,
                                             int64_t{1} << 48,
                                             int64_t{1} << 62,
                                             std::numeric_limits<int64_t>::max(),
                                             std::numeric_limits<int64_t>::min()};
        const int64_t value = values[random_() % std::size(values)];
        std::memcpy(bytes + even * 4, &value, 8);
        return;
      }
    }
  }

  ValidCalls& calls_;
  std::mt19937_64 random_;
};

// Lengths of host arrays: a caller who overstates them cannot be found out.
template <typename Params>
void keep_host_arrays(Params&, ValidCalls&) {}
void keep_host_arrays(q4j_gradient_norm_params& p, ValidCalls& c) {
  p.count = std::min(p.count, 2);
  if (p.tensors != nullptr) p.tensors = c.pointers.data();
  if (p.lengths != nullptr) p.lengths = c.lengths.data();
}
void keep_host_arrays(q4j_adamw_params& p, ValidCalls& c) {
  p.count = std::min(p.count, 2);
  if (p.lengths != nullptr) p.lengths = c.lengths.data();
  if (p.weight_decays != nullptr) p.weight_decays = c.weight_decays.data();
  if (p.parameters != nullptr) p.parameters = c.pointers.data();
  if (p.gradients != nullptr) p.gradients = c.pointers2.data();
  if (p.first_moments != nullptr) p.first_moments = c.pointers3.data();
  if (p.second_moments != nullptr) p.second_moments = c.pointers4.data();
}
void keep_host_arrays(q4j_adamw_8bit_params& p, ValidCalls& c) {
  p.count = std::min(p.count, 2);
  if (p.lengths != nullptr) p.lengths = c.lengths.data();
  if (p.weight_decays != nullptr) p.weight_decays = c.weight_decays.data();
  if (p.parameters != nullptr) p.parameters = c.pointers.data();
  if (p.gradients != nullptr) p.gradients = c.pointers2.data();
  if (p.first_moment_codes != nullptr) p.first_moment_codes = c.pointers3.data();
  if (p.first_moment_absmax != nullptr) p.first_moment_absmax = c.pointers4.data();
  if (p.second_moment_codes != nullptr) p.second_moment_codes = c.pointers5.data();
  if (p.second_moment_absmax != nullptr) p.second_moment_absmax = c.pointers6.data();
}
void keep_host_arrays(q4j_attention_forward_params& p, ValidCalls& c) {
  p.sequences = std::min(p.sequences, 2);
  if (p.cu_q != nullptr) p.cu_q = c.cu_q.data();
  if (p.cu_k != nullptr) p.cu_k = c.cu_k.data();
}

struct Outcome {
  int64_t accepted = 0;
  int64_t refused = 0;
};

/** Host structs a call points to are read as such, so their pointers become NULL or stay. */
template <typename Params>
void keep_structs(Params& p, ValidCalls& c) {
  (void)p;
  (void)c;
  if constexpr (std::is_same_v<Params, q4j_dequantize_4bit_params> || std::is_same_v<Params, q4j_linear_forward_params> ||
                std::is_same_v<Params, q4j_linear_backward_input_params> || std::is_same_v<Params, q4j_pack_weight_params>) {
    if (p.weight != nullptr) p.weight = &c.weight;
  }
  if constexpr (std::is_same_v<Params, q4j_linear_forward_params> || std::is_same_v<Params, q4j_linear_backward_input_params> ||
                std::is_same_v<Params, q4j_lora_weight_gradient_params>) {
    if (p.lora != nullptr) p.lora = &c.lora;
  }
  if constexpr (std::is_same_v<Params, q4j_unpack_weight_params>) {
    if (p.weight != nullptr) p.weight = &c.packed_weight;
  }
  if constexpr (std::is_same_v<Params, q4j_attention_backward_params>) {
    if (p.forward != nullptr) p.forward = &c.attention_forward;
  }
}

void check(const char* operation, q4j_status status, Outcome& outcome) {
  if (status == Q4J_OK) {
    ++outcome.accepted;
    return;
  }
  ++outcome.refused;
  if (status != Q4J_INVALID_ARGUMENT || std::strncmp(q4j_last_error(), operation, std::strlen(operation)) != 0) {
    EXPECT(status == Q4J_INVALID_ARGUMENT);
    EXPECT_ERROR_TEXT(operation);
  }
}

// Which operators have a workspace function, as a list of overloads; the template serves the others.
template <typename Params>
void measure(q4j_context*, const Params&, Outcome&) {}
#define Q4J_MEASURE(name)                                                                   \
  void measure(q4j_context* context, const q4j_##name##_params& params, Outcome& outcome) { \
    int64_t bytes = -1;                                                                     \
    const q4j_status status = q4j_##name##_workspace_size(context, &params, &bytes);        \
    check(#name, status, outcome);                                                          \
    if (bytes < 0) EXPECT(bytes >= 0);                                                      \
  }
Q4J_FOR_EACH_WORKSPACE(Q4J_MEASURE)
#undef Q4J_MEASURE

template <typename Params>
void fuzz(const char* operation, q4j_status (*call)(q4j_context*, const Params*), Params ValidCalls::*member,
          q4j_context* reference, q4j_context* fake, ValidCalls& calls, Bender& bender, int64_t iterations) {
  Outcome outcome;
  Params& params = calls.*member;
  for (int64_t i = 0; i < iterations; ++i) {
    calls.reset_parameters();
    const uint64_t choice = bender.next() % 8;
    if (choice != 1) bender.bend(params);
    if (choice == 1 || choice == 2) bender.bend(calls.weight);
    if (choice == 1 || choice == 3) bender.bend(calls.lora);
    if (choice == 1 || choice == 4) bender.bend(calls.attention_forward);
    if (choice == 5) calls.cu_q[bender.next() % 3] = static_cast<int32_t>(bender.next());
    if (choice == 6) calls.lengths[bender.next() % 2] = static_cast<int64_t>(bender.next());
    keep_structs(params, calls);
    keep_host_arrays(params, calls);
    keep_host_arrays(calls.attention_forward, calls);
    measure(reference, params, outcome);
    check(operation, call(fake, &params), outcome);
  }
  std::printf("%-26s %lld accepted, %lld refused\n", operation, static_cast<long long>(outcome.accepted),
              static_cast<long long>(outcome.refused));
  // Neither side may be empty, or the fuzzing reaches nothing.
  EXPECT(outcome.accepted > 0);
  EXPECT(outcome.refused > 0);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: validate_fuzz REFERENCE_PACK.so FAKE_PACK.so [iterations per operator] [seed]\n");
    return 2;
  }
  const int64_t iterations = argc > 3 ? std::atoll(argv[3]) : 2000;
  const uint64_t seed = argc > 4 ? std::strtoull(argv[4], nullptr, 10) : 1;
  unsetenv("Q4J_FAKE_PACK");
  q4j_context* reference = nullptr;
  q4j_context* fake = nullptr;
  if (q4j_context_create(argv[1], nullptr, nullptr, &reference) != Q4J_OK ||
      q4j_context_create(argv[2], nullptr, nullptr, &fake) != Q4J_OK) {
    std::fprintf(stderr, "%s\n", q4j_last_error());
    return 2;
  }
  std::printf("%lld iterations per operator from seed %llu\n", static_cast<long long>(iterations),
              static_cast<unsigned long long>(seed));
  const auto calls = std::make_unique<ValidCalls>();
  Bender bender(*calls, seed);
#define Q4J_FUZZ(name) fuzz(#name, q4j_##name, &ValidCalls::name, reference, fake, *calls, bender, iterations);
  Q4J_FOR_EACH_OPERATOR(Q4J_FUZZ)
#undef Q4J_FUZZ
  q4j_context_destroy(reference);
  q4j_context_destroy(fake);
  return q4j::test::finish("validate_fuzz");
}
