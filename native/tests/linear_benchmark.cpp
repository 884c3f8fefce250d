// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Times the linear operators of one pack beside the arithmetic limit of the machine, measured in the same run.
 *
 * usage: linear_benchmark PACK.so [threads] [repetitions]
 *
 * Prints one CSV row per operator and shape: median and best time, GFLOPS (INT8: GOPS) of the best, and its share of the limit.
 * The limit is that of the instruction the pack multiplies with: VPDPBUSD (INT8 codes), VDPBF16PS (bf16) or FMA, on the same
 * number of threads, timed before every row; so the share holds on a shared machine too, where absolute times mean little. A
 * pack without VPDPBUSD shares FMA's limit for codes as well.
 */
#include <cpuid.h>
#include <dlfcn.h>
#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "qlora4j/pack.h"
#include "support/half.h"

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Operations of 24 independent chains of one instruction.
#define CHAIN_4(op, a, b, c, d)                                                                                        \
  op " %%zmm31, %%zmm30, %%zmm" #a "\n" op " %%zmm31, %%zmm30, %%zmm" #b "\n" op " %%zmm31, %%zmm30, %%zmm" #c "\n" op \
     " %%zmm31, %%zmm30, %%zmm" #d "\n"
#define CHAIN_24(op)      \
  CHAIN_4(op, 0, 1, 2, 3) \
  CHAIN_4(op, 4, 5, 6, 7) \
  CHAIN_4(op, 8, 9, 10, 11) CHAIN_4(op, 12, 13, 14, 15) CHAIN_4(op, 16, 17, 18, 19) CHAIN_4(op, 20, 21, 22, 23)
#define CLOBBERS                                                                                                               \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", \
      "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm30", "xmm31"

constexpr long kRounds = 400000;

__attribute__((target("avx512f"))) void fma_512() {
  long rounds = kRounds;
  __asm__ volatile("1:\n" CHAIN_24("vfmadd231ps") "dec %0\njnz 1b" : "+r"(rounds) : : CLOBBERS);
}

__attribute__((target("avx512f"))) void dot_bf16_512() {
  long rounds = kRounds;
  __asm__ volatile("1:\n" CHAIN_24("vdpbf16ps") "dec %0\njnz 1b" : "+r"(rounds) : : CLOBBERS);
}

__attribute__((target("avx512f,avx512vnni"))) void dot_int8_512() {
  long rounds = kRounds;
  __asm__ volatile("1:\n" CHAIN_24("vpdpbusd") "dec %0\njnz 1b" : "+r"(rounds) : : CLOBBERS);
}

__attribute__((target("avx2,fma"))) void fma_256() {
  long rounds = kRounds;
#define ONE(i) "vfmadd231ps %%ymm15, %%ymm14, %%ymm" #i "\n"
  __asm__ volatile("1:\n" ONE(0) ONE(1) ONE(2) ONE(3) ONE(4) ONE(5) ONE(6) ONE(7) ONE(8) ONE(9) ONE(10) ONE(11) "dec %0\njnz 1b"
                   : "+r"(rounds)
                   :
                   : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm14",
                     "xmm15");
#undef ONE
}

struct Limit {
  void (*kernel)();
  double operations;  // of one call
};

double gflops(const Limit& limit, int threads) {
  double best = 0;
  for (int repetition = 0; repetition < 3; ++repetition) {
    std::vector<std::thread> others;
    const auto start = Clock::now();
    for (int i = 1; i < threads; ++i) others.emplace_back(limit.kernel);
    limit.kernel();
    for (std::thread& other : others) other.join();
    best = std::max(best, limit.operations * threads / seconds_since(start) / 1e9);
  }
  return best;
}

const q4j_pack* pack = nullptr;
q4j_pack_context* context = nullptr;

struct Time {
  double median;
  double best;
};

template <class F>
Time measure(int repetitions, F&& f) {
  f();
  std::vector<double> times;
  for (int i = 0; i < repetitions; ++i) {
    const auto start = Clock::now();
    f();
    times.push_back(seconds_since(start));
  }
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times[0]};
}

struct Case {
  const char* what;
  int32_t dtype;
  int32_t format;
  int32_t weight_dtype;
  int64_t m, n, k, rank;
};

class Bench {
 public:
  explicit Bench(const Case& c) : c_(c) {
    const auto mn = static_cast<size_t>(c.m * c.n), mk = static_cast<size_t>(c.m * c.k), nk = static_cast<size_t>(c.n * c.k);
    x_ = values(mk);
    dy_ = values(mn);
    y_.resize(mn * 4);
    dx_.resize(mk * 4);
    const bool rowwise = c.format == Q4J_WEIGHT_INT8 || c.format == Q4J_WEIGHT_FP8;
    packed_.resize(rowwise ? nk : nk / 2 + 1);
    for (uint8_t& byte : packed_) byte = static_cast<uint8_t>(rand() & (c.format == Q4J_WEIGHT_FP8 ? 0xb7 : 0xff));  // no NaN
    row_factors_.assign(rowwise ? static_cast<size_t>(c.n) : 0, 0.01f);
    dense_.assign(c.format == Q4J_WEIGHT_DENSE ? nk : 1, 0.5f);
    absmax_.assign(nk / 64 + 1, 200);
    nested_.assign(nk / 64 / 256 + 1, 0.01f);
    a_.assign(static_cast<size_t>(c.rank * c.k) + 1, 0.1f);
    b_.assign(static_cast<size_t>(c.rank * c.n) + 1, 0.1f);
    da_ = a_;
    db_ = b_;
    dw_.assign(c.rank == 0 ? nk : 1, 0.0f);
    xa_.assign(static_cast<size_t>(c.m * c.rank) + 1, 0.25f);
    dyb_ = xa_;
    weight_.size = sizeof weight_;
    weight_.format = c.format;
    weight_.dtype = c.weight_dtype;
    weight_.block_size = 64;
    weight_.nested_block_size = 256;
    weight_.rows = c.n;
    weight_.cols = c.k;
    weight_.ld = c.k;
    weight_.data = c.format == Q4J_WEIGHT_DENSE ? static_cast<const void*>(dense_.data()) : packed_.data();
    weight_.absmax = rowwise ? static_cast<const void*>(row_factors_.data()) : absmax_.data();
    weight_.nested_absmax = nested_.data();
    lora_.size = sizeof lora_;
    lora_.rank = static_cast<int32_t>(c.rank);
    lora_.s = 2.0f;
    lora_.a = a_.data();
    lora_.b = b_.data();
  }

  Time forward(int repetitions) {
    q4j_linear_forward_params p = {};
    p.size = sizeof p;
    p.dtype = c_.dtype;
    p.m = c_.m;
    p.weight = &weight_;
    p.lora = c_.rank > 0 ? &lora_ : nullptr;
    p.x = x_.data();
    p.ldx = c_.k;
    p.y = y_.data();
    p.ldy = c_.n;
    p.xa = xa_.data();
    return time(repetitions, p, pack->workspaces->linear_forward_workspace_size, pack->operators->linear_forward);
  }

  Time backward(int repetitions) {
    q4j_linear_backward_input_params p = {};
    p.size = sizeof p;
    p.dtype = c_.dtype;
    p.m = c_.m;
    p.n = c_.n;
    p.k = c_.k;
    p.weight = &weight_;
    p.lora = c_.rank > 0 ? &lora_ : nullptr;
    p.dy = dy_.data();
    p.lddy = c_.n;
    p.dx = dx_.data();
    p.lddx = c_.k;
    p.dyb = dyb_.data();
    return time(repetitions, p, pack->workspaces->linear_backward_input_workspace_size, pack->operators->linear_backward_input);
  }

  Time lora_gradient(int repetitions) {
    q4j_lora_weight_gradient_params p = {};
    p.size = sizeof p;
    p.dtype = c_.dtype;
    p.m = c_.m;
    p.n = c_.n;
    p.k = c_.k;
    p.lora = &lora_;
    p.x = x_.data();
    p.ldx = c_.k;
    p.dy = dy_.data();
    p.lddy = c_.n;
    p.xa = xa_.data();
    p.dyb = dyb_.data();
    p.da = da_.data();
    p.db = db_.data();
    return time(repetitions, p, pack->workspaces->lora_weight_gradient_workspace_size, pack->operators->lora_weight_gradient);
  }

  Time weight_gradient(int repetitions) {
    q4j_linear_weight_gradient_params p = {};
    p.size = sizeof p;
    p.dtype = c_.dtype;
    p.m = c_.m;
    p.n = c_.n;
    p.k = c_.k;
    p.x = x_.data();
    p.ldx = c_.k;
    p.dy = dy_.data();
    p.lddy = c_.n;
    p.dw = dw_.data();
    return time(repetitions, p, pack->workspaces->linear_weight_gradient_workspace_size,
                pack->operators->linear_weight_gradient);
  }

 private:
  std::vector<char> values(size_t count) const {
    std::vector<char> bytes(count * 4);
    for (size_t i = 0; i < count; ++i) {
      const float value = static_cast<float>(rand() % 2000 - 1000) * 1e-3f;
      if (c_.dtype == Q4J_BF16) {
        const q4j::bf16 rounded = q4j::bf16_from_f32(value);
        std::memcpy(bytes.data() + 2 * i, &rounded, 2);
      } else {
        std::memcpy(bytes.data() + 4 * i, &value, 4);
      }
    }
    return bytes;
  }

  template <class Params, class Size, class Run>
  Time time(int repetitions, Params& p, Size size, Run run) {
    int64_t bytes = 0;
    size(context, &p, &bytes);
    workspace_.resize(static_cast<size_t>(bytes));
    p.workspace = workspace_.data();
    p.workspace_bytes = bytes;
    return measure(repetitions, [&] { run(context, &p); });
  }

  Case c_;
  std::vector<char> x_, dy_, y_, dx_, workspace_;
  std::vector<uint8_t> packed_, absmax_;
  std::vector<float> dense_, nested_, row_factors_, a_, b_, da_, db_, dw_, xa_, dyb_;
  q4j_weight weight_ = {};
  q4j_lora lora_ = {};
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: linear_benchmark PACK.so [threads] [repetitions]\n");
    return 2;
  }
  const int threads = argc > 2 ? std::atoi(argv[2]) : 2;
  const int repetitions = argc > 3 ? std::atoi(argv[3]) : 15;
  void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 2;
  }
  q4j_pack_open_function open = nullptr;
  void* symbol = dlsym(library, "q4j_pack_open");
  std::memcpy(&open, &symbol, sizeof open);
  const q4j_host host = {sizeof host, [](const char* text) { std::fprintf(stderr, "%s\n", text); }};
  pack = open == nullptr ? nullptr : open(&host);
  if (pack == nullptr) return 2;
  const q4j_context_options options = {sizeof options, 0, threads, 0, nullptr};
  if (pack->create(&options, &context) != Q4J_OK) return 2;

  unsigned a = 0, b = 0, c = 0, d = 0;
  __get_cpuid_count(7, 1, &a, &b, &c, &d);
  const bool has_bf16 = (a >> 5 & 1u) != 0;
  const bool has_vnni = __builtin_cpu_supports("avx512vnni") != 0;
  const bool has_avx512 = __builtin_cpu_supports("avx512f") != 0;
  const bool pack_has_avx512 = std::strcmp(pack->name, "cpu-avx2") != 0 && has_avx512;
  const bool pack_has_bf16 = pack_has_avx512 && std::strcmp(pack->name, "cpu-avx512") != 0 && has_bf16;
  const Limit f32_limit = pack_has_avx512 ? Limit{fma_512, kRounds * 24 * 32.0} : Limit{fma_256, kRounds * 12 * 16.0};
  const Limit bf16_limit = pack_has_bf16 ? Limit{dot_bf16_512, kRounds * 24 * 64.0} : f32_limit;
  const Limit int8_limit = pack_has_bf16 && has_vnni ? Limit{dot_int8_512, kRounds * 24 * 128.0} : f32_limit;

  const Case cases[] = {
      {"nf4", Q4J_BF16, Q4J_WEIGHT_NF4, Q4J_BF16, 512, 2048, 2048, 64},
      {"nf4", Q4J_BF16, Q4J_WEIGHT_NF4, Q4J_BF16, 512, 5632, 2048, 64},
      {"nf4", Q4J_BF16, Q4J_WEIGHT_NF4, Q4J_BF16, 512, 2048, 5632, 64},
      {"nf4", Q4J_F32, Q4J_WEIGHT_NF4, Q4J_BF16, 512, 2048, 2048, 64},
      {"int8", Q4J_BF16, Q4J_WEIGHT_INT8, Q4J_BF16, 512, 2048, 2048, 64},
      {"int8", Q4J_BF16, Q4J_WEIGHT_INT8, Q4J_BF16, 512, 5632, 2048, 64},
      {"fp8", Q4J_BF16, Q4J_WEIGHT_FP8, Q4J_BF16, 512, 2048, 2048, 64},
      {"fp8", Q4J_BF16, Q4J_WEIGHT_FP8, Q4J_BF16, 512, 5632, 2048, 64},
      {"dense-f32", Q4J_BF16, Q4J_WEIGHT_DENSE, Q4J_F32, 4096, 256, 256, 0},
      {"dense-f32", Q4J_BF16, Q4J_WEIGHT_DENSE, Q4J_F32, 1024, 512, 192, 0},
      {"dense-f32", Q4J_BF16, Q4J_WEIGHT_DENSE, Q4J_F32, 1024, 6000, 256, 0},
      {"dense-f32", Q4J_F32, Q4J_WEIGHT_DENSE, Q4J_F32, 4096, 512, 192, 0},
      {"nf4", Q4J_BF16, Q4J_WEIGHT_NF4, Q4J_BF16, 4096, 352, 128, 64},
      {"nf4", Q4J_BF16, Q4J_WEIGHT_NF4, Q4J_BF16, 1, 5632, 2048, 64},
      {"nf4", Q4J_BF16, Q4J_WEIGHT_NF4, Q4J_BF16, 8, 5632, 2048, 64},
      {"nf4", Q4J_BF16, Q4J_WEIGHT_NF4, Q4J_BF16, 1, 128, 128, 64},
      {"int8", Q4J_BF16, Q4J_WEIGHT_INT8, Q4J_BF16, 1, 5632, 2048, 64},
      {"fp8", Q4J_BF16, Q4J_WEIGHT_FP8, Q4J_BF16, 1, 5632, 2048, 64},
  };
  std::printf("pack,threads,operator,weight,dtype,m,n,k,rank,median_ms,best_ms,gflops,limit_gflops,share\n");
  for (const Case& test : cases) {
    Bench bench(test);
    const auto report = [&](const char* name, double operations, auto&& run, bool codes = false) {
      const double limit = gflops(codes ? int8_limit : test.dtype == Q4J_BF16 ? bf16_limit : f32_limit, threads);
      const Time time = run();
      const double rate = operations / time.best / 1e9;
      std::printf("%s,%d,%s,%s,%s,%lld,%lld,%lld,%lld,%.3f,%.3f,%.0f,%.0f,%.2f\n", pack->name, threads, name, test.what,
                  q4j::dtype_name(test.dtype), static_cast<long long>(test.m), static_cast<long long>(test.n),
                  static_cast<long long>(test.k), static_cast<long long>(test.rank), time.median * 1e3, time.best * 1e3, rate,
                  limit, rate / limit);
      std::fflush(stdout);
    };
    const double m = static_cast<double>(test.m), n = static_cast<double>(test.n), k = static_cast<double>(test.k);
    const double branch = static_cast<double>(test.rank) * (n + k);
    report(
        "linear_forward", 2 * m * (n * k + branch), [&] { return bench.forward(repetitions); },
        test.format == Q4J_WEIGHT_INT8 && test.dtype == Q4J_BF16);
    report("linear_backward_input", 2 * m * (n * k + branch), [&] { return bench.backward(repetitions); });
    if (test.m < 64) continue;
    if (test.rank > 0) {
      report("lora_weight_gradient", 2 * m * branch, [&] { return bench.lora_gradient(repetitions); });
    } else {
      report("linear_weight_gradient", 2 * m * n * k, [&] { return bench.weight_gradient(repetitions); });
    }
  }
  pack->destroy(context);
  return 0;
}
