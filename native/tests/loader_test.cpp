// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The loader: what it refuses to open and says about it, which pack serves which operator, and the validation of every call.
 *
 * usage: loader_test LOADER.so REFERENCE_PACK.so FAKE_PACK.so
 */
#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <thread>

#include "expect.h"
#include "qlora4j/operators.h"
#include "valid_calls.h"

namespace {

using q4j::test::ValidCalls;

std::string loader_path;
std::string reference_path;
std::string fake_path;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr int64_t huge = int64_t{1} << 50;

/** Opens a context; `status` receives what opening said. */
class Context {
 public:
  explicit Context(const std::string& path, const char* base = nullptr, const q4j_context_options* options = nullptr)
      : status(q4j_context_create(path.c_str(), base, options, &context_)) {}
  ~Context() { q4j_context_destroy(context_); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  operator q4j_context*() const { return context_; }

 private:
  q4j_context* context_ = nullptr;

 public:
  const q4j_status status;
};

void choose_fake(const char* kind) { setenv("Q4J_FAKE_PACK", kind, 1); }

void refuses_to_open() {
  EXPECT(q4j_abi_version() == Q4J_ABI_VERSION);
  EXPECT(std::strstr(q4j_loader_build_info(), "revision=") != nullptr);

  EXPECT(Context("/no/such/pack.so").status == Q4J_INVALID_ARGUMENT);
  EXPECT_ERROR_TEXT("/no/such/pack.so");
  EXPECT_ERROR_TEXT("No such file");
  EXPECT(Context("").status == Q4J_INVALID_ARGUMENT);
  EXPECT(q4j_context_create(reference_path.c_str(), nullptr, nullptr, nullptr) == Q4J_INVALID_ARGUMENT);
  q4j_context* none = reinterpret_cast<q4j_context*>(&loader_path);
  EXPECT(q4j_context_create(nullptr, nullptr, nullptr, &none) == Q4J_INVALID_ARGUMENT);
  EXPECT(none == nullptr);

  EXPECT(Context(loader_path).status == Q4J_INVALID_ARGUMENT);  // a library, but no pack
  EXPECT_ERROR_TEXT("q4j_pack_open");

  const struct {
    const char* kind;
    q4j_status status;
    const char* text;
  } cases[] = {
      {"old-abi", Q4J_INVALID_ARGUMENT, "ABI version 99"},
      {"short-table", Q4J_INVALID_ARGUMENT, "16 bytes"},
      {"no-memory-functions", Q4J_INVALID_ARGUMENT, "memory function"},
      {"no-workspace-function", Q4J_INVALID_ARGUMENT, "linear_forward_workspace_size"},
      {"refuses", Q4J_UNSUPPORTED, "no flux capacitor"},
      {"refuses-silently", Q4J_UNSUPPORTED, "gives no reason"},
      {"no-device", Q4J_UNSUPPORTED, "could not create a context"},
  };
  for (const auto& c : cases) {
    choose_fake(c.kind);
    EXPECT(Context(fake_path).status == c.status);
    EXPECT_ERROR_TEXT(c.text);
  }
  choose_fake("no-device");
  q4j_context_options options = {sizeof options, 7, 0, 0, nullptr};
  EXPECT(Context(fake_path, nullptr, &options).status == Q4J_UNSUPPORTED);
  EXPECT_ERROR_TEXT("there is no device 7");

  options = {sizeof options, -1, 0, 0, nullptr};
  EXPECT(Context(reference_path, nullptr, &options).status == Q4J_INVALID_ARGUMENT);
  options = {sizeof options, 0, -4, 0, nullptr};
  EXPECT(Context(reference_path, nullptr, &options).status == Q4J_INVALID_ARGUMENT);
  EXPECT_ERROR_TEXT("-4");
  options = {0, 0, 0, 0, nullptr};
  EXPECT(Context(reference_path, nullptr, &options).status == Q4J_INVALID_ARGUMENT);
  EXPECT_ERROR_TEXT("size");

  choose_fake("other-device");
  EXPECT(Context(fake_path, reference_path.c_str()).status == Q4J_INVALID_ARGUMENT);
  EXPECT_ERROR_TEXT("cannot share memory");
}

void describes_itself() {
  const Context context(reference_path);
  EXPECT(context.status == Q4J_OK);
  EXPECT(std::string(q4j_pack_name(context)) == "reference");
  EXPECT(std::strstr(q4j_pack_build_info(context), "architectures=") != nullptr);
  EXPECT(q4j_pack_device_kind(context) == Q4J_DEVICE_CPU);
  EXPECT(q4j_context_threads(context) == 1);
#define Q4J_SUPPORTED(name) EXPECT(q4j_supports(context, #name) == 1);
  Q4J_FOR_EACH_OPERATOR(Q4J_SUPPORTED)
#undef Q4J_SUPPORTED
  EXPECT(q4j_supports(context, "no_such_operator") == 0);
  EXPECT(q4j_supports(nullptr, "adamw") == 0);
  EXPECT(q4j_supports(context, nullptr) == 0);
  choose_fake("");
  const Context fake(fake_path);
  EXPECT(q4j_context_threads(fake) == 3);
}

void measures_limits() {
  choose_fake("");
  const Context fake(fake_path);
  double per_second = 0;
  EXPECT(q4j_measure(fake, Q4J_LIMIT_BF16, nullptr, 0, &per_second) == Q4J_OK);
  EXPECT(per_second == Q4J_LIMIT_BF16);
  EXPECT(q4j_measure(fake, Q4J_LIMIT_READ, &loader_path, 8, &per_second) == Q4J_OK);
  EXPECT(per_second == 8000.0);
  EXPECT(q4j_measure(nullptr, Q4J_LIMIT_F32, nullptr, 0, &per_second) == Q4J_INVALID_ARGUMENT);
  EXPECT(q4j_measure(fake, Q4J_LIMIT_F32, nullptr, 0, nullptr) == Q4J_INVALID_ARGUMENT);
  EXPECT(q4j_measure(fake, Q4J_LIMIT_READ, nullptr, 0, &per_second) == Q4J_INVALID_ARGUMENT);
  EXPECT_ERROR_TEXT("reading needs memory");
  EXPECT(q4j_measure(fake, Q4J_LIMIT_F32, &loader_path, 8, &per_second) == Q4J_INVALID_ARGUMENT);
  EXPECT(q4j_measure(fake, Q4J_LIMIT_READ, &loader_path, -8, &per_second) == Q4J_INVALID_ARGUMENT);
  for (const int32_t limit : {-1, 4}) {
    EXPECT(q4j_measure(fake, limit, nullptr, 0, &per_second) == Q4J_INVALID_ARGUMENT);
    EXPECT_ERROR_TEXT("q4j_limit");
  }
  // A pack that measures nothing, and one that was built before packs could.
  const Context reference(reference_path);
  EXPECT(q4j_measure(reference, Q4J_LIMIT_F32, nullptr, 0, &per_second) == Q4J_UNSUPPORTED);
  EXPECT_ERROR_TEXT("'reference' measures no limits");
  choose_fake("older-pack-table");
  const Context older(fake_path);
  EXPECT(older.status == Q4J_OK);
  EXPECT(q4j_measure(older, Q4J_LIMIT_F32, nullptr, 0, &per_second) == Q4J_UNSUPPORTED);
}

void counts_calls(q4j_context* context, const ValidCalls& c) {
  int32_t operators = 0;
  int32_t rotary = -1;
  while (q4j_operator_name(operators) != nullptr) {
    if (std::strcmp(q4j_operator_name(operators), "rotary") == 0) rotary = operators;
    ++operators;
  }
  EXPECT(std::strcmp(q4j_operator_name(0), "quantize_4bit") == 0);
  EXPECT(rotary > 0 && q4j_operator_name(-1) == nullptr);
  int64_t calls = -1, nanoseconds = -1;
  const auto read = [&] { EXPECT(q4j_profile_read(context, rotary, &calls, &nanoseconds) == Q4J_OK); };
  EXPECT(q4j_rotary(context, &c.rotary) == Q4J_OK);
  read();
  EXPECT(calls == 0 && nanoseconds == 0);
  EXPECT(q4j_profile(context, 1) == Q4J_OK);
  for (int i = 0; i < 3; ++i) EXPECT(q4j_rotary(context, &c.rotary) == Q4J_OK);
  EXPECT(q4j_profile(context, 0) == Q4J_OK);
  EXPECT(q4j_rotary(context, &c.rotary) == Q4J_OK);
  read();
  EXPECT(calls == 3 && nanoseconds > 0);
  EXPECT(q4j_profile(context, 1) == Q4J_OK);  // from zero
  EXPECT(q4j_profile(context, 0) == Q4J_OK);
  read();
  EXPECT(calls == 0 && nanoseconds == 0);
  EXPECT(q4j_profile(nullptr, 1) == Q4J_INVALID_ARGUMENT);
  EXPECT(q4j_profile_read(nullptr, 0, &calls, &nanoseconds) == Q4J_INVALID_ARGUMENT);
  EXPECT(q4j_profile_read(context, operators, &calls, &nanoseconds) == Q4J_INVALID_ARGUMENT);
  EXPECT(q4j_profile_read(context, 0, nullptr, &nanoseconds) == Q4J_INVALID_ARGUMENT);
}

void memory() {
  const Context context(reference_path);
  void* memory = &loader_path;
  EXPECT(q4j_allocate(context, 0, &memory) == Q4J_OK);
  EXPECT(memory == nullptr);
  EXPECT(q4j_allocate(context, -1, &memory) == Q4J_INVALID_ARGUMENT);
  EXPECT_ERROR_TEXT("-1");
  EXPECT(q4j_allocate(context, int64_t{1} << 62, &memory) == Q4J_OUT_OF_DEVICE_MEMORY);
  EXPECT(memory == nullptr);
  EXPECT_ERROR_TEXT("4611686018427387904");
  EXPECT(q4j_allocate(context, 100, nullptr) == Q4J_INVALID_ARGUMENT);
  EXPECT(q4j_allocate(context, 100, &memory) == Q4J_OK);
  EXPECT(memory != nullptr && reinterpret_cast<std::uintptr_t>(memory) % 64 == 0);

  unsigned char in[100], out[100];
  for (std::size_t i = 0; i < sizeof in; ++i) in[i] = static_cast<unsigned char>(i * 7);
  EXPECT(q4j_copy_in(context, memory, in, sizeof in) == Q4J_OK);
  EXPECT(q4j_copy_out(context, out, memory, sizeof out) == Q4J_OK);
  EXPECT(std::memcmp(in, out, sizeof in) == 0);
  EXPECT(q4j_fill(context, memory, 0xab, sizeof in) == Q4J_OK);
  EXPECT(q4j_copy_out(context, out, memory, sizeof out) == Q4J_OK);
  EXPECT(out[0] == 0xab && out[99] == 0xab);
  EXPECT(q4j_fill(context, memory, 256, 1) == Q4J_INVALID_ARGUMENT);
  EXPECT(q4j_copy_in(context, nullptr, in, 1) == Q4J_INVALID_ARGUMENT);
  EXPECT(q4j_copy_out(context, nullptr, memory, 1) == Q4J_INVALID_ARGUMENT);
  EXPECT(q4j_copy_in(context, nullptr, nullptr, 0) == Q4J_OK);
  EXPECT(q4j_copy_out(context, out, memory, -5) == Q4J_INVALID_ARGUMENT);
  EXPECT(q4j_synchronize(context) == Q4J_OK);
  EXPECT(q4j_free(context, memory) == Q4J_OK);
  EXPECT(q4j_free(context, nullptr) == Q4J_OK);
  EXPECT(q4j_synchronize(nullptr) == Q4J_INVALID_ARGUMENT);
  q4j_context_destroy(nullptr);
}

void borrows_operators() {
  const auto calls = std::make_unique<ValidCalls>();
  choose_fake("partial");
  {
    const Context alone(fake_path);
    EXPECT(alone.status == Q4J_OK);
    EXPECT(q4j_supports(alone, "rms_norm_forward") == 1);
    EXPECT(q4j_supports(alone, "linear_forward") == 1);
    EXPECT(q4j_supports(alone, "adamw") == 0);
    EXPECT(q4j_adamw(alone, &calls->adamw) == Q4J_UNSUPPORTED);
    EXPECT_ERROR_TEXT("adamw");
    EXPECT_ERROR_TEXT("'fake'");
    int64_t bytes = -1;
    EXPECT(q4j_attention_forward_workspace_size(alone, &calls->attention_forward, &bytes) == Q4J_UNSUPPORTED);
    EXPECT(bytes == 0);
    EXPECT(q4j_linear_forward(alone, &calls->linear_forward) == Q4J_OK);
    EXPECT(*static_cast<float*>(calls->linear_forward.y) == 42.0f);
  }
  {
    const Context with_base(fake_path, reference_path.c_str());
    EXPECT(with_base.status == Q4J_OK);
    EXPECT(std::string(q4j_pack_name(with_base)) == "fake");
#define Q4J_SUPPORTED(name) EXPECT(q4j_supports(with_base, #name) == 1);
    Q4J_FOR_EACH_OPERATOR(Q4J_SUPPORTED)
#undef Q4J_SUPPORTED
    // Its own operator stays its own.
    EXPECT(q4j_rms_norm_forward(with_base, &calls->rms_norm_forward) == Q4J_OK);
    EXPECT(*static_cast<float*>(calls->rms_norm_forward.rstd) == 42.0f);
    // A missing one comes from the base: the norm of (3, 4) is 5.
    float* gradient = static_cast<float*>(calls->at(0));
    gradient[0] = 3.0f;
    gradient[1] = 4.0f;
    calls->gradient_norm.count = 1;
    calls->lengths[0] = 2;
    EXPECT(q4j_gradient_norm(with_base, &calls->gradient_norm) == Q4J_OK);
    EXPECT(*static_cast<double*>(calls->gradient_norm.result) == 5.0);
    // One linear operator of four is not enough: the group is the base's, and x = 0 gives y = 0 and not the fake's mark.
    std::memset(calls->at(0), 0, ValidCalls::array_bytes);
    EXPECT(q4j_linear_forward(with_base, &calls->linear_forward) == Q4J_OK);
    EXPECT(*static_cast<float*>(calls->linear_forward.y) == 0.0f);
  }
  choose_fake("all-linear");
  {
    const Context with_base(fake_path, reference_path.c_str());
    EXPECT(q4j_linear_forward(with_base, &calls->linear_forward) == Q4J_OK);
    EXPECT(*static_cast<float*>(calls->linear_forward.y) == 42.0f);  // four of four: its own
    EXPECT(q4j_rms_norm_forward(with_base, &calls->rms_norm_forward) == Q4J_OK);
    EXPECT(*static_cast<float*>(calls->rms_norm_forward.rstd) != 42.0f);
  }
  choose_fake("early-end");  // a table from before most operators existed
  {
    const Context early(fake_path);
    EXPECT(early.status == Q4J_OK);
    EXPECT(q4j_supports(early, "dequantize_4bit") == 1);
    EXPECT(q4j_supports(early, "quantize_8bit_blockwise") == 0);
    EXPECT(q4j_supports(early, "adamw") == 0);
  }
  EXPECT(Context(fake_path, "/no/such/base.so").status == Q4J_INVALID_ARGUMENT);
  EXPECT_ERROR_TEXT("/no/such/base.so");
}

void keeps_error_texts() {
  const auto calls = std::make_unique<ValidCalls>();
  choose_fake("failure");
  {
    const Context context(fake_path);
    EXPECT(q4j_rms_norm_forward(context, &calls->rms_norm_forward) == Q4J_DEVICE_ERROR_FATAL);
    EXPECT_ERROR_TEXT("caught fire");
    // A thread sees its own errors only.
    std::string other_thread = "unset";
    std::thread([&] {
      other_thread = q4j_last_error();
      calls->cross_entropy.n = -3;
      q4j_cross_entropy(context, &calls->cross_entropy);
    }).join();
    EXPECT(other_thread.empty());
    EXPECT_ERROR_TEXT("caught fire");
  }
  choose_fake("silent-failure");
  {
    const Context context(fake_path);
    calls->adamw.t = 0;
    EXPECT(q4j_adamw(context, &calls->adamw) == Q4J_INVALID_ARGUMENT);  // leaves a text behind
    EXPECT(q4j_rms_norm_forward(context, &calls->rms_norm_forward) == Q4J_DEVICE_ERROR);
    EXPECT_ERROR_TEXT("rms_norm_forward");
    EXPECT_ERROR_TEXT("status 4");
    EXPECT(std::strstr(q4j_last_error(), "adamw") == nullptr);
  }
  EXPECT(q4j_adamw(nullptr, &calls->adamw) == Q4J_INVALID_ARGUMENT);
  EXPECT_ERROR_TEXT("context is NULL");
}

void reads_older_and_newer_structs() {
  const auto calls = std::make_unique<ValidCalls>();
  choose_fake("");
  const Context context(reference_path);
  q4j_rms_norm_forward_params p = calls->rms_norm_forward;
  float* rstd = static_cast<float*>(p.rstd);
  *rstd = 7.0f;
  p.size = static_cast<uint32_t>(offsetof(q4j_rms_norm_forward_params, rstd));  // a caller from before rstd existed
  EXPECT(q4j_rms_norm_forward(context, &p) == Q4J_OK);
  EXPECT(*rstd == 7.0f);
  p.size = 0;
  EXPECT(q4j_rms_norm_forward(context, &p) == Q4J_INVALID_ARGUMENT);
  EXPECT_ERROR_TEXT("size");
  p.size = 1u << 20;
  EXPECT(q4j_rms_norm_forward(context, &p) == Q4J_INVALID_ARGUMENT);

  struct Newer {
    q4j_rms_norm_forward_params known;
    int64_t option;
  } newer = {calls->rms_norm_forward, 0};
  newer.known.size = sizeof newer;
  EXPECT(q4j_rms_norm_forward(context, &newer.known) == Q4J_OK);  // newer, but asks for nothing new
  newer.option = 1;
  EXPECT(q4j_rms_norm_forward(context, &newer.known) == Q4J_INVALID_ARGUMENT);
  EXPECT_ERROR_TEXT("newer than the loader");
  EXPECT(q4j_rms_norm_forward(context, nullptr) == Q4J_INVALID_ARGUMENT);

  calls->weight.size = 0;
  EXPECT(q4j_linear_forward(context, &calls->linear_forward) == Q4J_INVALID_ARGUMENT);
  EXPECT_ERROR_TEXT("weight");
  calls->reset();
  calls->lora.size = 4;
  EXPECT(q4j_linear_forward(context, &calls->linear_forward) == Q4J_INVALID_ARGUMENT);
  EXPECT_ERROR_TEXT("lora");
}

/** Bends one thing of a valid call and expects an error whose text names it. */
class Bender {
 public:
  Bender(q4j_context* context, ValidCalls& calls) : context_(context), c_(calls) {}

  template <typename Params>
  void operator()(q4j_status (*function)(q4j_context*, const Params*), const Params& params, const char* text,
                  const std::function<void(ValidCalls&)>& bend) {
    c_.reset();
    bend(c_);
    if (!EXPECT(function(context_, &params) == Q4J_INVALID_ARGUMENT)) std::fprintf(stderr, "    bend of %s\n", text);
    EXPECT_ERROR_TEXT(text);
  }

 private:
  q4j_context* context_;
  ValidCalls& c_;
};

void accepts_valid_calls(q4j_context* context, ValidCalls& c) {
  // The paged store's calls need a store; see pages_go_and_come_back.
#define Q4J_CALL(name)                                                                                       \
  c.reset();                                                                                                 \
  if (std::string(#name).rfind("paged_store_", 0) != 0 && !EXPECT(q4j_##name(context, &c.name) == Q4J_OK)) { \
    std::fprintf(stderr, "    %s: %s\n", #name, q4j_last_error());                                           \
  }
  Q4J_FOR_EACH_OPERATOR(Q4J_CALL)
#undef Q4J_CALL
  // Nothing is done for zero rows, and no array is needed.
  c.reset();
  c.linear_forward = {sizeof c.linear_forward,
                      Q4J_BF16,
                      0,
                      &c.weight,
                      nullptr,
                      nullptr,
                      c.k,
                      nullptr,
                      0,
                      0,
                      nullptr,
                      0,
                      nullptr,
                      c.n,
                      nullptr,
                      c.at(11),
                      c.array_bytes};
  EXPECT(q4j_linear_forward(context, &c.linear_forward) == Q4J_OK);
  c.cross_entropy = {sizeof c.cross_entropy, Q4J_BF16, 0, 7, 0, 0, 1, 0, nullptr, 7, nullptr, nullptr, nullptr, 0};
  EXPECT(q4j_cross_entropy(context, &c.cross_entropy) == Q4J_OK);
  c.attention_forward.sequences = 0;
  EXPECT(q4j_attention_forward(context, &c.attention_forward) == Q4J_OK);
  c.quantize_4bit = {
      sizeof c.quantize_4bit, Q4J_WEIGHT_FP4, Q4J_F32, 64, 0, 0, 0, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, 0};
  EXPECT(q4j_quantize_4bit(context, &c.quantize_4bit) == Q4J_OK);
  c.adamw.count = 0;
  c.adamw.lengths = nullptr;
  EXPECT(q4j_adamw(context, &c.adamw) == Q4J_OK);
  // A workspace size can be asked before any memory exists.
  c.reset();
  c.linear_forward.x = c.linear_forward.y = c.linear_forward.xa = c.linear_forward.workspace = nullptr;
  c.weight.data = c.weight.absmax = c.weight.nested_absmax = nullptr;
  c.lora.a = c.lora.b = nullptr;
  int64_t bytes = -1;
  EXPECT(q4j_linear_forward_workspace_size(context, &c.linear_forward, &bytes) == Q4J_OK);
  EXPECT(bytes >= 0 && bytes <= c.array_bytes);
  c.attention_forward.cu_q = c.attention_forward.cu_k = nullptr;
  EXPECT(q4j_attention_forward_workspace_size(context, &c.attention_forward, &bytes) == Q4J_OK);
  EXPECT(q4j_attention_backward_workspace_size(context, &c.attention_backward, &bytes) == Q4J_OK);
  EXPECT(q4j_linear_forward_workspace_size(context, &c.linear_forward, nullptr) == Q4J_INVALID_ARGUMENT);
}

void packs_without_loss(q4j_context* context, ValidCalls& c) {
  c.reset();
  for (std::size_t array = 8; array <= 10; ++array) {
    for (std::size_t i = 0; i < c.memory[array].size(); ++i) c.memory[array][i] = static_cast<unsigned char>(i * 7 + array);
  }
  c.pack_weight.packed = nullptr;
  EXPECT(q4j_pack_weight(context, &c.pack_weight) == Q4J_OK);
  EXPECT(c.packed_bytes >= c.n * c.k / 2 && c.packed_bytes <= c.array_bytes);
  c.pack_weight.packed = c.at(0);
  EXPECT(q4j_pack_weight(context, &c.pack_weight) == Q4J_OK);
  EXPECT(q4j_unpack_weight(context, &c.unpack_weight) == Q4J_OK);
  const std::size_t blocks = static_cast<std::size_t>(c.n * c.k / 64);
  EXPECT(std::memcmp(c.at(2), c.at(8), static_cast<std::size_t>(c.n * c.k / 2)) == 0);
  EXPECT(std::memcmp(c.at(3), c.at(9), blocks) == 0);
  EXPECT(std::memcmp(c.at(4), c.at(10), (blocks + 255) / 256 * 4) == 0);
  // A layout is one pack's own, so the general dequantization does not take it.
  c.dequantize_4bit.weight = &c.packed_weight;
  EXPECT(q4j_dequantize_4bit(context, &c.dequantize_4bit) == Q4J_INVALID_ARGUMENT);
  EXPECT_ERROR_TEXT("weight.layout");
}

void pages_go_and_come_back(q4j_context* context, ValidCalls& c) {
  c.reset();
  EXPECT(q4j_paged_store_create(context, &c.paged_store_create) == Q4J_OK);
  void* const store = c.store;
  if (!EXPECT(store != nullptr)) return;
  const auto acquire = [&](int64_t page) {
    c.paged_store_acquire = {sizeof c.paged_store_acquire, 0, store, page, &c.page_memory};
    return q4j_paged_store_acquire(context, &c.paged_store_acquire);
  };
  const auto release = [&](int64_t page, int32_t dirty) {
    c.paged_store_release = {sizeof c.paged_store_release, dirty, store, page};
    return q4j_paged_store_release(context, &c.paged_store_release);
  };
  // Three pages in two frames, twice around: every page is found as it was left.
  for (int round = 0; round < 2; ++round) {
    for (int64_t page = 0; page < 3; ++page) {
      EXPECT(acquire(page) == Q4J_OK);
      auto* bytes = static_cast<unsigned char*>(c.page_memory);
      EXPECT(bytes[0] == (round == 0 ? 0 : 10 + page) && bytes[511] == bytes[0]);
      std::memset(bytes, static_cast<int>(10 + page), 512);
      EXPECT(release(page, 1) == Q4J_OK);
    }
  }
  EXPECT(acquire(0) == Q4J_OK);
  EXPECT(acquire(1) == Q4J_OK);
  EXPECT(acquire(2) == Q4J_OUT_OF_DEVICE_MEMORY);
  EXPECT_ERROR_TEXT("acquired");
  EXPECT(release(0, 0) == Q4J_OK);
  EXPECT(release(0, 0) == Q4J_INVALID_ARGUMENT);
  EXPECT(acquire(3) == Q4J_INVALID_ARGUMENT);
  EXPECT(release(1, 0) == Q4J_OK);
  unsigned char word[4] = {1, 2, 3, 4};
  c.paged_store_copy = {sizeof c.paged_store_copy, 0, store, 2, 508, 4, word};
  EXPECT(q4j_paged_store_copy(context, &c.paged_store_copy) == Q4J_OK);
  unsigned char back[4] = {};
  c.paged_store_copy.host = back;
  c.paged_store_copy.to_host = 1;
  EXPECT(q4j_paged_store_copy(context, &c.paged_store_copy) == Q4J_OK);
  EXPECT(std::memcmp(word, back, 4) == 0);
  c.paged_store_copy.offset = 509;
  EXPECT(q4j_paged_store_copy(context, &c.paged_store_copy) == Q4J_INVALID_ARGUMENT);
  c.paged_store_plan.store = store;
  c.lengths = {0, 2};
  EXPECT(q4j_paged_store_plan(context, &c.paged_store_plan) == Q4J_OK);
  c.lengths = {0, 3};
  EXPECT(q4j_paged_store_plan(context, &c.paged_store_plan) == Q4J_INVALID_ARGUMENT);
  int64_t device_bytes = 0, fetched = 0, misses = 0;
  c.paged_store_statistics = {
      sizeof c.paged_store_statistics, 0, store, &device_bytes, nullptr, &fetched, nullptr, nullptr, &misses};
  EXPECT(q4j_paged_store_statistics(context, &c.paged_store_statistics) == Q4J_OK);
  EXPECT(device_bytes == 1024 && fetched >= 6 && misses >= 6);
  c.paged_store_destroy.store = store;
  EXPECT(q4j_paged_store_destroy(context, &c.paged_store_destroy) == Q4J_OK);
}

// What is allowed to share memory, and what is not.
void checks_overlap(q4j_context* context, ValidCalls& c) {
  c.reset();
  c.linear_forward.residual = c.linear_forward.y;
  EXPECT(q4j_linear_forward(context, &c.linear_forward) == Q4J_OK);
  c.linear_forward.residual = static_cast<float*>(c.linear_forward.y) + 1;
  EXPECT(q4j_linear_forward(context, &c.linear_forward) == Q4J_INVALID_ARGUMENT);
  EXPECT_ERROR_TEXT("y overlaps residual");
  c.reset();
  c.linear_forward.y = c.at(0);
  EXPECT(q4j_linear_forward(context, &c.linear_forward) == Q4J_INVALID_ARGUMENT);
  EXPECT_ERROR_TEXT("y overlaps x");

  c.reset();
  c.rms_norm_forward.sum = c.at(0);
  EXPECT(q4j_rms_norm_forward(context, &c.rms_norm_forward) == Q4J_OK);
  c.rms_norm_forward.y = c.at(0);
  EXPECT(q4j_rms_norm_forward(context, &c.rms_norm_forward) == Q4J_INVALID_ARGUMENT);

  // Gate and up are columns of one matrix, and so are their gradients.
  c.reset();
  float* both = static_cast<float*>(c.at(0));
  q4j_activation_backward_params& a = c.activation_backward;
  a.x = a.dx = both;
  a.up = a.dup = both + c.n;
  a.ldx = a.lddx = a.ldup = a.lddup = 2 * c.n;
  EXPECT(q4j_activation_backward(context, &a) == Q4J_OK);
  a.dup = both + c.n - 1;
  EXPECT(q4j_activation_backward(context, &a) == Q4J_INVALID_ARGUMENT);
  EXPECT_ERROR_TEXT("overlaps");

  c.reset();
  c.cross_entropy.dlogits = c.at(0);
  EXPECT(q4j_cross_entropy(context, &c.cross_entropy) == Q4J_OK);
  c.cross_entropy.dlogits = static_cast<float*>(c.at(0)) + 5;
  EXPECT(q4j_cross_entropy(context, &c.cross_entropy) == Q4J_INVALID_ARGUMENT);
}

void rejects_invalid_calls(q4j_context* context, ValidCalls& c) {
  Bender bend(context, c);

  const auto quantize = [&](const char* text, const std::function<void(ValidCalls&)>& b) {
    bend(q4j_quantize_4bit, c.quantize_4bit, text, b);
  };
  quantize("format", [](ValidCalls& v) { v.quantize_4bit.format = Q4J_WEIGHT_DENSE; });
  quantize("dtype", [](ValidCalls& v) { v.quantize_4bit.dtype = Q4J_I32; });
  quantize("block_size", [](ValidCalls& v) { v.quantize_4bit.block_size = 63; });
  quantize("block_size", [](ValidCalls& v) { v.quantize_4bit.block_size = 16; });
  quantize("block_size", [](ValidCalls& v) { v.quantize_4bit.block_size = 8192; });
  quantize("nested_block_size", [](ValidCalls& v) { v.quantize_4bit.nested_block_size = 100; });
  quantize("n must be in", [](ValidCalls& v) { v.quantize_4bit.n = -1; });
  quantize("n must be in", [](ValidCalls& v) { v.quantize_4bit.n = huge; });
  quantize("input is NULL", [](ValidCalls& v) { v.quantize_4bit.input = nullptr; });
  quantize("packed is NULL", [](ValidCalls& v) { v.quantize_4bit.packed = nullptr; });
  quantize("absmax is NULL", [](ValidCalls& v) { v.quantize_4bit.absmax = nullptr; });
  quantize("nested_absmax is NULL", [](ValidCalls& v) { v.quantize_4bit.nested_absmax = nullptr; });
  quantize("nested_offset is NULL", [](ValidCalls& v) { v.quantize_4bit.nested_offset = nullptr; });
  quantize("packed overlaps input", [](ValidCalls& v) { v.quantize_4bit.packed = v.at(0); });
  quantize("the workspace must have", [](ValidCalls& v) { v.quantize_4bit.workspace_bytes = 1; });
  quantize("workspace is NULL", [](ValidCalls& v) { v.quantize_4bit.workspace = nullptr; });
  quantize("aligned", [](ValidCalls& v) { v.quantize_4bit.workspace = static_cast<char*>(v.at(11)) + 8; });

  const auto dequantize = [&](const char* text, const std::function<void(ValidCalls&)>& b) {
    bend(q4j_dequantize_4bit, c.dequantize_4bit, text, b);
  };
  dequantize("weight is NULL", [](ValidCalls& v) { v.dequantize_4bit.weight = nullptr; });
  dequantize("weight.format", [](ValidCalls& v) { v.weight.format = Q4J_WEIGHT_DENSE; });
  dequantize("weight.format", [](ValidCalls& v) { v.weight.format = 9; });
  dequantize("weight.rows", [](ValidCalls& v) { v.weight.rows = 0; });
  dequantize("weight.cols", [](ValidCalls& v) { v.weight.cols = -7; });
  dequantize("weight spans", [](ValidCalls& v) { v.weight.rows = v.weight.cols = int64_t{1} << 40; });
  dequantize("weight.block_size", [](ValidCalls& v) { v.weight.block_size = 48; });
  dequantize("weight.nested_block_size", [](ValidCalls& v) { v.weight.nested_block_size = -256; });
  dequantize("weight.data is NULL", [](ValidCalls& v) { v.weight.data = nullptr; });
  dequantize("weight.absmax is NULL", [](ValidCalls& v) { v.weight.absmax = nullptr; });
  dequantize("weight.nested_absmax is NULL", [](ValidCalls& v) { v.weight.nested_absmax = nullptr; });
  dequantize("dtype", [](ValidCalls& v) { v.dequantize_4bit.dtype = Q4J_I8; });

  bend(q4j_quantize_8bit_blockwise, c.quantize_8bit_blockwise, "map", [](ValidCalls& v) { v.quantize_8bit_blockwise.map = 2; });
  bend(q4j_quantize_8bit_blockwise, c.quantize_8bit_blockwise, "block_size",
       [](ValidCalls& v) { v.quantize_8bit_blockwise.block_size = 0; });
  bend(q4j_dequantize_8bit_blockwise, c.dequantize_8bit_blockwise, "map",
       [](ValidCalls& v) { v.dequantize_8bit_blockwise.map = -1; });
  bend(q4j_dequantize_8bit_blockwise, c.dequantize_8bit_blockwise, "output is NULL",
       [](ValidCalls& v) { v.dequantize_8bit_blockwise.output = nullptr; });
  bend(q4j_quantize_int8_rowwise, c.quantize_int8_rowwise, "outlier_threshold",
       [](ValidCalls& v) { v.quantize_int8_rowwise.outlier_threshold = not_a_number; });
  bend(q4j_quantize_int8_rowwise, c.quantize_int8_rowwise, "outlier_cols is NULL",
       [](ValidCalls& v) { v.quantize_int8_rowwise.outlier_cols = nullptr; });
  bend(q4j_quantize_int8_rowwise, c.quantize_int8_rowwise, "cols", [](ValidCalls& v) { v.quantize_int8_rowwise.cols = 0; });
  bend(q4j_dequantize_int8_rowwise, c.dequantize_int8_rowwise, "codes",
       [](ValidCalls& v) { v.dequantize_int8_rowwise.rows = v.dequantize_int8_rowwise.cols = int64_t{1} << 32; });

  const auto linear = [&](const char* text, const std::function<void(ValidCalls&)>& b) {
    bend(q4j_linear_forward, c.linear_forward, text, b);
  };
  linear("dtype must be f32 (0) or bf16 (1), found f16 (2)", [](ValidCalls& v) { v.linear_forward.dtype = Q4J_F16; });
  linear("m must be in", [](ValidCalls& v) { v.linear_forward.m = -1; });
  linear("weight is NULL", [](ValidCalls& v) { v.linear_forward.weight = nullptr; });
  linear("ldx must be at least the 96", [](ValidCalls& v) { v.linear_forward.ldx = 95; });
  linear("ldy must be at least the 64", [](ValidCalls& v) { v.linear_forward.ldy = 63; });
  linear("ldr", [](ValidCalls& v) { v.linear_forward.ldr = 1; });
  linear("ldx spans", [](ValidCalls& v) { v.linear_forward.ldx = huge; });
  linear("bias_dtype", [](ValidCalls& v) { v.linear_forward.bias_dtype = Q4J_U8; });
  linear("x is NULL", [](ValidCalls& v) { v.linear_forward.x = nullptr; });
  linear("xa is NULL", [](ValidCalls& v) { v.linear_forward.xa = nullptr; });
  linear("lora.a is NULL", [](ValidCalls& v) { v.lora.a = nullptr; });
  linear("lora.b is NULL", [](ValidCalls& v) { v.lora.b = nullptr; });
  linear("lora.rank", [](ValidCalls& v) { v.lora.rank = -8; });
  linear("lora.s", [](ValidCalls& v) { v.lora.s = infinity; });
  linear("lora.compute", [](ValidCalls& v) { v.lora.compute = 5; });
  linear("lora.dropout.probability", [](ValidCalls& v) { v.lora.dropout.probability = 1.0f; });
  linear("lora.dropout.probability", [](ValidCalls& v) { v.lora.dropout.probability = -0.5f; });
  linear("lora.dropout.probability", [](ValidCalls& v) { v.lora.dropout.probability = not_a_number; });
  linear("lora.dropout.size", [](ValidCalls& v) { v.lora.dropout.size = 1; });
  linear("lora.dropout.row_offset", [](ValidCalls& v) { v.lora.dropout.row_offset = -1; });
  linear("the workspace must have", [](ValidCalls& v) { v.linear_forward.workspace_bytes = 0; });
  linear("weight.ld must be at least", [](ValidCalls& v) { v.weight.format = Q4J_WEIGHT_DENSE, v.weight.ld = 3; });
  // Without a branch there is nothing to compute but y.
  linear("y is NULL", [](ValidCalls& v) { v.linear_forward.y = nullptr, v.linear_forward.lora = nullptr; });

  const auto backward = [&](const char* text, const std::function<void(ValidCalls&)>& b) {
    bend(q4j_linear_backward_input, c.linear_backward_input, text, b);
  };
  backward("n is 65 but weight.rows is 64",
           [](ValidCalls& v) { v.linear_backward_input.n = v.linear_backward_input.lddy = 65; });
  backward("k is", [](ValidCalls& v) { v.linear_backward_input.k = 32; });
  backward("accumulate", [](ValidCalls& v) { v.linear_backward_input.accumulate = 2; });
  backward("dyb is NULL", [](ValidCalls& v) { v.linear_backward_input.dyb = nullptr; });
  backward("weight is NULL", [](ValidCalls& v) { v.linear_backward_input.weight = nullptr; });
  backward("lddx", [](ValidCalls& v) { v.linear_backward_input.lddx = 0; });
  backward("dx overlaps dy", [](ValidCalls& v) { v.linear_backward_input.dx = v.at(0); });

  bend(q4j_lora_weight_gradient, c.lora_weight_gradient, "lora is NULL",
       [](ValidCalls& v) { v.lora_weight_gradient.lora = nullptr; });
  bend(q4j_lora_weight_gradient, c.lora_weight_gradient, "lora.rank", [](ValidCalls& v) { v.lora.rank = 0; });
  bend(q4j_lora_weight_gradient, c.lora_weight_gradient, "da is NULL",
       [](ValidCalls& v) { v.lora_weight_gradient.da = nullptr; });
  bend(q4j_lora_weight_gradient, c.lora_weight_gradient, "da overlaps db",
       [](ValidCalls& v) { v.lora_weight_gradient.da = v.lora_weight_gradient.db; });
  bend(q4j_linear_weight_gradient, c.linear_weight_gradient, "dw (or dbias) is NULL",
       [](ValidCalls& v) { v.linear_weight_gradient.dw = v.linear_weight_gradient.dbias = nullptr; });
  bend(q4j_linear_weight_gradient, c.linear_weight_gradient, "x is NULL",
       [](ValidCalls& v) { v.linear_weight_gradient.x = nullptr; });

  bend(q4j_rms_norm_forward, c.rms_norm_forward, "eps", [](ValidCalls& v) { v.rms_norm_forward.eps = -1.0f; });
  bend(q4j_rms_norm_forward, c.rms_norm_forward, "weight_dtype",
       [](ValidCalls& v) { v.rms_norm_forward.weight_dtype = Q4J_F16; });
  bend(q4j_rms_norm_forward, c.rms_norm_forward, "unit_offset", [](ValidCalls& v) { v.rms_norm_forward.unit_offset = 3; });
  bend(q4j_rms_norm_forward, c.rms_norm_forward, "n must be in", [](ValidCalls& v) { v.rms_norm_forward.n = 0; });
  bend(q4j_rms_norm_backward, c.rms_norm_backward, "rstd is NULL", [](ValidCalls& v) { v.rms_norm_backward.rstd = nullptr; });
  bend(q4j_rms_norm_backward, c.rms_norm_backward, "dx overlaps u", [](ValidCalls& v) { v.rms_norm_backward.dx = v.at(0); });
  bend(q4j_layer_norm_forward, c.layer_norm_forward, "weight is NULL",
       [](ValidCalls& v) { v.layer_norm_forward.weight = nullptr; });
  bend(q4j_layer_norm_backward, c.layer_norm_backward, "mean is NULL",
       [](ValidCalls& v) { v.layer_norm_backward.mean = nullptr; });

  bend(q4j_rotary, c.rotary, "rotary_dim", [](ValidCalls& v) { v.rotary.rotary_dim = 7; });
  bend(q4j_rotary, c.rotary, "rotary_dim", [](ValidCalls& v) { v.rotary.rotary_dim = 0; });
  bend(q4j_rotary, c.rotary, "strides must be at least", [](ValidCalls& v) { v.rotary.head_stride = 4; });
  bend(q4j_rotary, c.rotary, "share memory", [](ValidCalls& v) { v.rotary.token_stride = 17; });
  bend(q4j_rotary, c.rotary, "attention_scale", [](ValidCalls& v) { v.rotary.attention_scale = not_a_number; });
  bend(q4j_rotary, c.rotary, "positions is NULL", [](ValidCalls& v) { v.rotary.positions = nullptr; });

  bend(q4j_activation_forward, c.activation_forward, "activation", [](ValidCalls& v) { v.activation_forward.activation = 3; });
  bend(q4j_activation_forward, c.activation_forward, "ldup", [](ValidCalls& v) { v.activation_forward.ldup = 1; });
  bend(q4j_activation_forward, c.activation_forward, "y overlaps up", [](ValidCalls& v) { v.activation_forward.y = v.at(1); });
  bend(q4j_activation_backward, c.activation_backward, "dup is NULL",
       [](ValidCalls& v) { v.activation_backward.dup = nullptr; });

  bend(q4j_cross_entropy, c.cross_entropy, "smoothing", [](ValidCalls& v) { v.cross_entropy.smoothing = 1.5f; });
  bend(q4j_cross_entropy, c.cross_entropy, "z_loss", [](ValidCalls& v) { v.cross_entropy.z_loss = -1.0f; });
  bend(q4j_cross_entropy, c.cross_entropy, "labels is NULL", [](ValidCalls& v) { v.cross_entropy.labels = nullptr; });
  bend(q4j_cross_entropy, c.cross_entropy, "label 64 of row 2", [](ValidCalls& v) { static_cast<int32_t*>(v.at(1))[2] = 64; });
  bend(q4j_cross_entropy, c.cross_entropy, "label -1 of row 0", [](ValidCalls& v) { static_cast<int32_t*>(v.at(1))[0] = -1; });

  const auto attention = [&](const char* text, const std::function<void(ValidCalls&)>& b) {
    bend(q4j_attention_forward, c.attention_forward, text, b);
  };
  attention("multiple of kv_heads", [](ValidCalls& v) { v.attention_forward.kv_heads = 3; });
  attention("kv_heads must be in", [](ValidCalls& v) { v.attention_forward.kv_heads = 0; });
  attention("head_dim", [](ValidCalls& v) { v.attention_forward.head_dim = 12; });
  attention("head_dim", [](ValidCalls& v) { v.attention_forward.head_dim = 264; });
  attention("window", [](ValidCalls& v) { v.attention_forward.window = -1; });
  attention("sequences", [](ValidCalls& v) { v.attention_forward.sequences = -1; });
  attention("scale", [](ValidCalls& v) { v.attention_forward.scale = not_a_number; });
  attention("cu_q is NULL", [](ValidCalls& v) { v.attention_forward.cu_q = nullptr; });
  attention("cu_q[0] must be 0, found 1", [](ValidCalls& v) { v.cu_q[0] = 1; });
  attention("cu_k must not decrease", [](ValidCalls& v) { v.cu_k[2] = 3; });
  attention("more than the longest, 2", [](ValidCalls& v) { v.attention_forward.max_q = 2; });
  attention("strides must be at least", [](ValidCalls& v) { v.attention_forward.q_head_stride = 8; });
  attention("share memory", [](ValidCalls& v) { v.attention_forward.out_token_stride = 20; });
  attention("k is NULL", [](ValidCalls& v) { v.attention_forward.k = nullptr; });
  bend(q4j_attention_backward, c.attention_backward, "forward is NULL",
       [](ValidCalls& v) { v.attention_backward.forward = nullptr; });
  bend(q4j_attention_backward, c.attention_backward, "lse is NULL", [](ValidCalls& v) { v.attention_forward.lse = nullptr; });
  bend(q4j_attention_backward, c.attention_backward, "dv is NULL", [](ValidCalls& v) { v.attention_backward.dv = nullptr; });

  bend(q4j_gradient_norm, c.gradient_norm, "tensors[1] is NULL", [](ValidCalls& v) { v.pointers[1] = nullptr; });
  bend(q4j_gradient_norm, c.gradient_norm, "lengths[t]", [](ValidCalls& v) { v.lengths[0] = -4; });
  bend(q4j_gradient_norm, c.gradient_norm, "result is NULL", [](ValidCalls& v) { v.gradient_norm.result = nullptr; });
  bend(q4j_adamw, c.adamw, "t must be in", [](ValidCalls& v) { v.adamw.t = 0; });
  bend(q4j_adamw, c.adamw, "beta1", [](ValidCalls& v) { v.adamw.beta1 = 1.0; });
  bend(q4j_adamw, c.adamw, "learning_rate", [](ValidCalls& v) { v.adamw.learning_rate = static_cast<double>(infinity); });
  bend(q4j_adamw, c.adamw, "weight_decays", [](ValidCalls& v) { v.weight_decays[1] = -0.1f; });
  bend(q4j_adamw, c.adamw, "second_moments[0] is NULL", [](ValidCalls& v) { v.pointers4[0] = nullptr; });
  bend(q4j_adamw, c.adamw, "gradients is NULL", [](ValidCalls& v) { v.adamw.gradients = nullptr; });
  // The place of the check is part of the text.
  EXPECT_ERROR_TEXT("(validate.cpp:");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: loader_test LOADER.so REFERENCE_PACK.so FAKE_PACK.so\n");
    return 2;
  }
  loader_path = argv[1];
  reference_path = argv[2];
  fake_path = argv[3];
  refuses_to_open();
  describes_itself();
  measures_limits();
  memory();
  borrows_operators();
  keeps_error_texts();
  reads_older_and_newer_structs();
  const auto calls = std::make_unique<ValidCalls>();
  const Context reference(reference_path);
  accepts_valid_calls(reference, *calls);
  counts_calls(reference, *calls);
  packs_without_loss(reference, *calls);
  pages_go_and_come_back(reference, *calls);
  checks_overlap(reference, *calls);
  rejects_invalid_calls(reference, *calls);
  return q4j::test::finish("loader_test");
}
