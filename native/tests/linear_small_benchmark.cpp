// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Times linear_forward and linear_backward_input with few rows beside the bandwidth of memory, measured in the same run.
 *
 * usage: linear_small_benchmark PACK.so [OTHER.so | -] [threads] [seconds per row] [forward | backward]
 *
 * Every call takes the next of so many weights that together they exceed the caches several times. One CSV row per case and
 * direction: median and best time of a call over the runs through all of them; GB/s of the weight (codes, absmax, A and B) at
 * the median; its share of what reading memory alone reaches, with the same threads and measured before every row; and the
 * median with the other pack. All times are elapsed ones, so the machine should be idle. Weights lie in the pack's own memory.
 */
#include <dlfcn.h>
#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <thread>
#include <vector>

#include "qlora4j/pack.h"
#include "support/half.h"

namespace {

double elapsed() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double quantile(std::vector<double>& values, double part) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(part * static_cast<double>(values.size() - 1))];
}

// Bytes that all weights of a case have together, and that the bandwidth is measured with.
constexpr int64_t kTotalBytes = int64_t{384} << 20;

__attribute__((target("avx2"))) void read_lines(const char* p, int64_t bytes) {
  __m256i sum = _mm256_setzero_si256();
  for (int64_t i = 0; i < bytes; i += 256) {
    for (int64_t j = 0; j < 256; j += 64) {
      sum = _mm256_xor_si256(sum, _mm256_load_si256(reinterpret_cast<const __m256i*>(p + i + j)));
    }
  }
  __asm__ volatile("" : : "x"(sum));
}

/** Bytes per second that `threads` threads read together, best of some runs. */
double bandwidth(const char* memory, int threads) {
  constexpr int64_t kPiece = 1 << 20;
  double best = 0;
  for (int run = 0; run < 5; ++run) {
    std::atomic<int64_t> next{0};
    const auto work = [&] {
      for (int64_t at = next.fetch_add(kPiece); at < kTotalBytes; at = next.fetch_add(kPiece)) read_lines(memory + at, kPiece);
    };
    std::vector<std::thread> others;
    const double start = elapsed();
    for (int i = 1; i < threads; ++i) others.emplace_back(work);
    work();
    for (std::thread& other : others) other.join();
    best = std::max(best, static_cast<double>(kTotalBytes) / (elapsed() - start));
  }
  return best;
}

struct Pack {
  const q4j_pack* pack = nullptr;
  q4j_pack_context* context = nullptr;

  bool open(const char* path, int threads) {
    void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      std::fprintf(stderr, "%s\n", dlerror());
      return false;
    }
    q4j_pack_open_function function = nullptr;
    void* symbol = dlsym(library, "q4j_pack_open");
    std::memcpy(&function, &symbol, sizeof function);
    const q4j_host host = {sizeof host, [](const char* text) { std::fprintf(stderr, "%s\n", text); }};
    pack = function == nullptr ? nullptr : function(&host);
    const q4j_context_options options = {sizeof options, 0, threads, 0, nullptr};
    return pack != nullptr && pack->create(&options, &context) == Q4J_OK;
  }
};

enum Direction { kForward, kBackward };

constexpr const char* kDirections[] = {"forward", "backward"};

struct Case {
  Direction direction;
  const char* what;
  int32_t dtype;
  int32_t format;
  int32_t nested;
  int64_t n, k, rank;
};

class Bench {
 public:
  Bench(const Case& c, int64_t m, char* memory) : c_(c), m_(m) {
    const bool dense = c.format == Q4J_WEIGHT_DENSE;
    const bool rowwise = c.format == Q4J_WEIGHT_INT8 || c.format == Q4J_WEIGHT_FP8;
    const int64_t data_bytes = dense ? c.n * c.k * 2 : rowwise ? c.n * c.k : c.n * c.k / 2;
    const int64_t blocks = dense ? 0 : rowwise ? c.n : c.n * c.k / 64;  // or rows, with a factor each
    const int64_t absmax_bytes = c.nested != 0 ? blocks : blocks * 4;
    bytes_ = data_bytes + absmax_bytes + (c.n + c.k) * c.rank * 4;
    stride_ = (bytes_ + (c.nested != 0 ? blocks / c.nested * 4 + 4 : 0) + 4095) / 4096 * 4096;
    weights_ = std::max<int64_t>(1, kTotalBytes / stride_);
    x_.resize(static_cast<size_t>(m * c.k * 4));
    y_.resize(static_cast<size_t>(m * c.n * 4));
    branch_.resize(static_cast<size_t>(m * c.rank + 1));
    for (int64_t i = 0; i < weights_; ++i) {
      char* at = memory + i * stride_;
      q4j_weight weight = {};
      weight.size = sizeof weight;
      weight.format = c.format;
      weight.dtype = Q4J_BF16;
      weight.block_size = 64;
      weight.nested_block_size = c.nested;
      weight.rows = c.n;
      weight.cols = c.k;
      weight.ld = c.k;
      weight.data = at;
      weight.absmax = at + data_bytes;
      float* a = reinterpret_cast<float*>(at + data_bytes + absmax_bytes);
      weight.nested_absmax = a + (c.n + c.k) * c.rank;
      q4j_lora lora = {};
      lora.size = sizeof lora;
      lora.rank = static_cast<int32_t>(c.rank);
      lora.s = 2.0f;
      lora.a = a;
      lora.b = a + c.k * c.rank;
      list_.push_back({weight, lora});
    }
  }

  double gigabytes() const { return static_cast<double>(bytes_) / 1e9; }

  struct Times {
    double median;
    double best;
  };

  Times time(const Pack& pack, double limit) {
    std::vector<double> times;
    const double start = elapsed();
    do {
      for (const auto& [weight, lora] : list_) {
        const double call_seconds = c_.direction == kForward ? forward(pack, weight, lora) : backward(pack, weight, lora);
        times.push_back(call_seconds);
      }
    } while (elapsed() - start < limit);
    return {quantile(times, 0.5), quantile(times, 0.0)};
  }

 private:
  double forward(const Pack& pack, const q4j_weight& weight, const q4j_lora& lora) {
    q4j_linear_forward_params p = {};
    p.size = sizeof p;
    p.dtype = c_.dtype;
    p.m = m_;
    p.weight = &weight;
    p.lora = c_.rank > 0 ? &lora : nullptr;
    p.x = x_.data();
    p.ldx = c_.k;
    p.y = y_.data();
    p.ldy = c_.n;
    p.xa = branch_.data();
    return call(pack, p, pack.pack->workspaces->linear_forward_workspace_size, pack.pack->operators->linear_forward);
  }

  double backward(const Pack& pack, const q4j_weight& weight, const q4j_lora& lora) {
    q4j_linear_backward_input_params p = {};
    p.size = sizeof p;
    p.dtype = c_.dtype;
    p.m = m_;
    p.n = c_.n;
    p.k = c_.k;
    p.weight = &weight;
    p.lora = c_.rank > 0 ? &lora : nullptr;
    p.dy = y_.data();
    p.lddy = c_.n;
    p.dx = x_.data();
    p.lddx = c_.k;
    p.dyb = branch_.data();
    return call(pack, p, pack.pack->workspaces->linear_backward_input_workspace_size,
                pack.pack->operators->linear_backward_input);
  }

  // Seconds of the operator alone.
  template <class Params, class WorkspaceSize, class Operator>
  double call(const Pack& pack, Params& p, WorkspaceSize workspace_size, Operator run) {
    int64_t bytes = 0;
    if (workspace_size(pack.context, &p, &bytes) != Q4J_OK) std::abort();
    if (static_cast<size_t>(bytes) > workspace_.size()) workspace_.resize(static_cast<size_t>(bytes));
    p.workspace = workspace_.data();
    p.workspace_bytes = bytes;
    const double start = elapsed();
    if (run(pack.context, &p) != Q4J_OK) std::abort();
    return elapsed() - start;
  }

  Case c_;
  int64_t m_;
  int64_t bytes_ = 0, stride_ = 0, weights_ = 0;
  std::vector<std::pair<q4j_weight, q4j_lora>> list_;
  std::vector<char> x_, y_, workspace_;
  std::vector<float> branch_;  // xa or dyb
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr,
                 "usage: linear_small_benchmark PACK.so [OTHER.so | -] [threads] [seconds per row] [forward | backward]\n");
    return 2;
  }
  const bool has_other = argc > 2 && std::strcmp(argv[2], "-") != 0;
  const int threads = argc > 3 ? std::atoi(argv[3]) : 2;
  const double seconds_per_row = argc > 4 ? std::atof(argv[4]) : 0.3;
  const char* only = argc > 5 ? argv[5] : nullptr;
  if (only != nullptr && std::strcmp(only, kDirections[kForward]) != 0 && std::strcmp(only, kDirections[kBackward]) != 0) {
    std::fprintf(stderr, "expected forward or backward, found %s\n", only);
    return 2;
  }
  Pack pack, other;
  if (!pack.open(argv[1], threads) || (has_other && !other.open(argv[2], threads))) return 2;

  void* allocated = nullptr;
  if (pack.pack->allocate(pack.context, kTotalBytes + (int64_t{64} << 20), &allocated) != Q4J_OK) return 2;
  auto* memory = static_cast<char*>(allocated);
  // Small magnitudes in every type: 0x3c is 0.0102 in bf16, 0.0115 in f32.
  std::memset(memory, 0x3c, static_cast<size_t>(kTotalBytes + (int64_t{64} << 20)));
  const Case cases[] = {
      {kForward, "nf4-double", Q4J_BF16, Q4J_WEIGHT_NF4, 256, 4096, 4096, 0},
      {kForward, "nf4-double", Q4J_BF16, Q4J_WEIGHT_NF4, 256, 4096, 4096, 64},
      {kForward, "nf4-double", Q4J_BF16, Q4J_WEIGHT_NF4, 256, 11008, 4096, 0},
      {kForward, "nf4-double", Q4J_BF16, Q4J_WEIGHT_NF4, 256, 4096, 11008, 0},
      {kForward, "nf4-double", Q4J_BF16, Q4J_WEIGHT_NF4, 256, 5120, 20480, 0},
      {kForward, "nf4", Q4J_BF16, Q4J_WEIGHT_NF4, 0, 4096, 4096, 0},
      {kForward, "nf4-double", Q4J_F32, Q4J_WEIGHT_NF4, 256, 4096, 4096, 0},
      {kForward, "bf16", Q4J_BF16, Q4J_WEIGHT_DENSE, 0, 8192, 2048, 0},
      {kForward, "int8", Q4J_BF16, Q4J_WEIGHT_INT8, 0, 5632, 2048, 0},
      {kForward, "int8", Q4J_BF16, Q4J_WEIGHT_INT8, 0, 5632, 2048, 16},
      {kForward, "int8", Q4J_F32, Q4J_WEIGHT_INT8, 0, 5632, 2048, 0},
      {kForward, "fp8", Q4J_BF16, Q4J_WEIGHT_FP8, 0, 5632, 2048, 0},
      {kForward, "fp8", Q4J_F32, Q4J_WEIGHT_FP8, 0, 5632, 2048, 0},
      {kBackward, "nf4-double", Q4J_BF16, Q4J_WEIGHT_NF4, 256, 4096, 4096, 0},
      {kBackward, "nf4-double", Q4J_BF16, Q4J_WEIGHT_NF4, 256, 4096, 4096, 64},
      {kBackward, "nf4-double", Q4J_BF16, Q4J_WEIGHT_NF4, 256, 4096, 4096, 16},
      {kBackward, "nf4-double", Q4J_BF16, Q4J_WEIGHT_NF4, 256, 11008, 4096, 0},
      {kBackward, "nf4-double", Q4J_BF16, Q4J_WEIGHT_NF4, 256, 4096, 11008, 0},
      {kBackward, "nf4-double", Q4J_BF16, Q4J_WEIGHT_NF4, 256, 5120, 20480, 0},
      {kBackward, "nf4", Q4J_BF16, Q4J_WEIGHT_NF4, 0, 4096, 4096, 0},
      {kBackward, "nf4-double", Q4J_F32, Q4J_WEIGHT_NF4, 256, 4096, 4096, 0},
      {kBackward, "bf16", Q4J_BF16, Q4J_WEIGHT_DENSE, 0, 8192, 2048, 0},
      {kBackward, "int8", Q4J_BF16, Q4J_WEIGHT_INT8, 0, 5632, 2048, 0},
      {kBackward, "int8", Q4J_F32, Q4J_WEIGHT_INT8, 0, 5632, 2048, 0},
      {kBackward, "fp8", Q4J_BF16, Q4J_WEIGHT_FP8, 0, 5632, 2048, 0},
      {kBackward, "fp8", Q4J_F32, Q4J_WEIGHT_FP8, 0, 5632, 2048, 0},
  };
  std::printf("pack,direction,threads,weight,dtype,m,n,k,rank,median_ms,best_ms,gb_per_s,bandwidth_gb_per_s,share,other_ms\n");
  for (const Case& test : cases) {
    if (only != nullptr && std::strcmp(only, kDirections[test.direction]) != 0) continue;
    for (const int64_t m : {1, 2, 3, 4, 6, 8, 16, 32, 64}) {
      Bench bench(test, m, memory);
      const double limit = bandwidth(memory, threads) / 1e9;
      const Bench::Times times = bench.time(pack, seconds_per_row);
      const double rate = bench.gigabytes() / times.median;
      std::printf("%s,%s,%d,%s,%s,%lld,%lld,%lld,%lld,%.3f,%.3f,%.1f,%.1f,%.2f,%.3f\n", pack.pack->name,
                  kDirections[test.direction], threads, test.what, q4j::dtype_name(test.dtype), static_cast<long long>(m),
                  static_cast<long long>(test.n), static_cast<long long>(test.k), static_cast<long long>(test.rank),
                  times.median * 1e3, times.best * 1e3, rate, limit, rate / limit,
                  has_other ? bench.time(other, seconds_per_row).median * 1e3 : 0.0);
      std::fflush(stdout);
    }
  }
  pack.pack->free_memory(pack.context, allocated);
  pack.pack->destroy(pack.context);
  if (has_other) other.pack->destroy(other.context);
  return 0;
}
