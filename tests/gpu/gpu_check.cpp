// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Measures the operators of a CUDA pack. tests/gpu/check builds and calls it:
 *
 *   gpu_check bench PACK RUNGS [small]          time and bytes per second; RUNGS goes into the rows as a label
 *
 * Everything goes through the ABI, so PACK may also be cuda-on-host, which is how this program itself is tested. Compiled with
 * Q4J_GPU_CHECK_CUDA, times come from CUDA events and a device-to-device copy gives the limit; else from the wall clock.
 */
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "qlora4j/operators.h"

#if defined(Q4J_GPU_CHECK_CUDA)
#include <cuda_runtime.h>
#endif

namespace {

void require(q4j_status status, const char* what) {
  if (status == Q4J_OK) return;
  std::fprintf(stderr, "gpu_check: %s: status %d, %s\n", what, static_cast<int>(status), q4j_last_error());
  std::exit(2);
}

/** xorshift64*: the same numbers everywhere. */
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}

  uint64_t next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545f4914f6cdd1du;
  }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  /** About normal: the sum of four uniform numbers. */
  float normal() { return static_cast<float>((uniform() + uniform() + uniform() + uniform() - 2.0) * 1.732); }
  int64_t below(int64_t bound) { return static_cast<int64_t>(next() % static_cast<uint64_t>(bound)); }

 private:
  uint64_t state_;
};

class Context {
 public:
  explicit Context(const char* pack) {
    q4j_context_options options = {};
    options.size = sizeof options;
    require(q4j_context_create(pack, nullptr, &options, &context_), pack);
  }
  ~Context() { q4j_context_destroy(context_); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  q4j_context* get() const { return context_; }

 private:
  q4j_context* context_ = nullptr;
};

/** Device memory, filled with 0xa5 so that an element nobody writes shows. */
class Buffer {
 public:
  Buffer(const Context& context, int64_t bytes) : context_(context.get()), bytes_(bytes) {
    require(q4j_allocate(context_, bytes, &memory_), "allocate");
    require(q4j_fill(context_, memory_, 0xa5, bytes), "fill");
  }
  ~Buffer() { q4j_free(context_, memory_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void* at(int64_t offset = 0) const { return static_cast<unsigned char*>(memory_) + offset; }

  void put(const std::vector<uint8_t>& bytes, int64_t offset = 0) {
    require(q4j_copy_in(context_, at(offset), bytes.data(), static_cast<int64_t>(bytes.size())), "copy_in");
  }
  std::vector<uint8_t> get(int64_t offset = 0) const {
    std::vector<uint8_t> bytes(static_cast<size_t>(bytes_ - offset));
    require(q4j_copy_out(context_, bytes.data(), at(offset), bytes_ - offset), "copy_out");
    return bytes;
  }

 private:
  q4j_context* context_;
  int64_t bytes_;
  void* memory_ = nullptr;
};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t bytes_of(int32_t dtype) { return dtype == Q4J_F32 ? 4 : 2; }

std::vector<uint8_t> narrow(const std::vector<float>& values, int32_t dtype) {
  std::vector<uint8_t> bytes(values.size() * static_cast<size_t>(bytes_of(dtype)));
  for (size_t i = 0; i < values.size(); ++i) {
    uint32_t bits;
    std::memcpy(&bits, &values[i], 4);
    if (dtype == Q4J_F32) {
      std::memcpy(&bytes[i * 4], &bits, 4);
    } else if (dtype == Q4J_BF16) {
      const auto cut = static_cast<uint16_t>(bits >> 16);  // truncation: any bf16 input will do
      std::memcpy(&bytes[i * 2], &cut, 2);
    } else {
      // Normal f16 numbers, truncated; smaller ones become 0, larger ones infinity.
      const uint32_t sign = bits >> 16 & 0x8000u;
      const int exponent = static_cast<int>(bits >> 23 & 255u) - 112;
      const uint32_t magnitude = exponent <= 0    ? 0u
                                 : exponent >= 31 ? 0x7c00u
                                                  : static_cast<uint32_t>(exponent) << 10 | (bits >> 13 & 0x3ffu);
      const auto half = static_cast<uint16_t>(sign | magnitude | ((bits & 0x7fffffffu) > 0x7f800000u ? 0x200u : 0u));
      std::memcpy(&bytes[i * 2], &half, 2);
    }
  }
  return bytes;
}

// ---------------------------------------------------------------- benchmarks

/** Median seconds of one call of `work(i)`, over several batches; i counts up, to rotate buffers. */
double seconds(const Context& context, int batches, int calls, const std::function<void(int)>& work) {
  int next = 0;
  for (int i = 0; i < calls; ++i) work(next++);
  require(q4j_synchronize(context.get()), "synchronize");
  std::vector<double> times;
  for (int batch = 0; batch < batches; ++batch) {
#if defined(Q4J_GPU_CHECK_CUDA)
    cudaEvent_t start;
    cudaEvent_t stop;
    cudaEventCreate(&start);
    cudaEventCreate(&stop);
    cudaEventRecord(start, nullptr);
    for (int i = 0; i < calls; ++i) work(next++);
    cudaEventRecord(stop, nullptr);
    cudaEventSynchronize(stop);
    float milliseconds = 0;
    if (cudaEventElapsedTime(&milliseconds, start, stop) != cudaSuccess) std::exit(2);
    cudaEventDestroy(start);
    cudaEventDestroy(stop);
    times.push_back(static_cast<double>(milliseconds) * 1e-3 / calls);
#else
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < calls; ++i) work(next++);
    require(q4j_synchronize(context.get()), "synchronize");
    times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / calls);
#endif
  }
  require(q4j_synchronize(context.get()), "synchronize");
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

/** Bytes per second of a device-to-device copy, read and written bytes counted; 0 where it cannot be measured. */
double copy_rate(const Context& context, int64_t bytes) {
#if defined(Q4J_GPU_CHECK_CUDA)
  const Buffer from(context, bytes);
  const Buffer to(context, bytes);
  const double time = seconds(context, 9, 10, [&](int) {
    if (cudaMemcpyAsync(to.at(), from.at(), static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, nullptr) != cudaSuccess)
      std::exit(2);
  });
  return 2.0 * static_cast<double>(bytes) / time;
#else
  static_cast<void>(context);
  static_cast<void>(bytes);
  return 0.0;
#endif
}

void row(const char* name, const char* what, const char* rungs, int64_t rows, int64_t cols, double time, double bytes,
         double limit) {
  std::printf("  %-16s %-12s %-4s %6lld x %-6lld %10.1f us %8.1f GB/s", name, what, rungs, static_cast<long long>(rows),
              static_cast<long long>(cols), time * 1e6, bytes / time * 1e-9);
  if (limit > 0) std::printf(" %5.1f %% of copy", bytes / time / limit * 100);
  std::printf("\n");
}

int bench(const char* pack_path, const char* rungs, bool small) {
  const Context context(pack_path);
  const double limit = copy_rate(context, small ? 1 << 20 : int64_t{1} << 30);
  if (limit > 0) std::printf("  device-to-device copy: %.1f GB/s, read and written bytes counted\n", limit * 1e-9);
  Random random(20);
  const int64_t all_shapes[][2] = {{5120, 5120}, {20480, 5120}};
  const int64_t small_shapes[][2] = {{64, 256}, {128, 320}};
  const int batches = small ? 3 : 15;
  const int calls = small ? 1 : 20;
  for (const auto& shape : small ? small_shapes : all_shapes) {
    const int64_t rows = shape[0];
    const int64_t cols = shape[1];
    const int64_t n = rows * cols;
    const int64_t blocks = n / 64;
    // As many sets as fill a few times any cache, so that no call finds its data there.
    const int sets = small ? 1 : static_cast<int>(std::max<int64_t>(2, (int64_t{1} << 30) / (n * 5 / 2) + 1));
    std::vector<float> values(static_cast<size_t>(n));
    for (float& value : values) value = random.normal() * 0.02f;
    const std::vector<uint8_t> host = narrow(values, Q4J_BF16);
    std::vector<std::unique_ptr<Buffer>> dense, packed;
    for (int i = 0; i < sets; ++i) {
      dense.push_back(std::make_unique<Buffer>(context, n * 2));
      dense.back()->put(host);
      packed.push_back(std::make_unique<Buffer>(context, n / 2));
    }
    const Buffer absmax(context, blocks * 4);
    const Buffer nested_absmax(context, ceil_div(blocks, 256) * 4);
    const Buffer nested_offset(context, 4);
    for (const int32_t nested : {0, 256}) {
      q4j_quantize_4bit_params q = {};
      q.size = sizeof q;
      q.format = Q4J_WEIGHT_NF4;
      q.dtype = Q4J_BF16;
      q.block_size = 64;
      q.nested_block_size = nested;
      q.n = n;
      q.input = dense[0]->at();
      q.packed = packed[0]->at();
      q.absmax = absmax.at();
      q.nested_absmax = nested > 0 ? nested_absmax.at() : nullptr;
      q.nested_offset = nested > 0 ? nested_offset.at() : nullptr;
      require(q4j_quantize_4bit_workspace_size(context.get(), &q, &q.workspace_bytes), "quantize_4bit_workspace_size");
      const Buffer workspace(context, std::max<int64_t>(q.workspace_bytes, 1));
      q.workspace = workspace.at();
      const double stored =
          2.0 * static_cast<double>(n) + 0.5 * static_cast<double>(n) + static_cast<double>(nested > 0 ? blocks : blocks * 4);
      double time = seconds(context, batches, calls, [&](int i) {
        q.input = dense[static_cast<size_t>(i % sets)]->at();
        q.packed = packed[static_cast<size_t>(i % sets)]->at();
        require(q4j_quantize_4bit(context.get(), &q), "quantize_4bit");
      });
      row("quantize_4bit", nested > 0 ? "nf4+dq bf16" : "nf4 bf16", rungs, rows, cols, time, stored, limit);

      q4j_weight w = {};
      w.size = sizeof w;
      w.format = Q4J_WEIGHT_NF4;
      w.dtype = Q4J_BF16;
      w.block_size = 64;
      w.nested_block_size = nested;
      w.rows = rows;
      w.cols = cols;
      w.ld = cols;
      w.absmax = absmax.at();
      w.nested_absmax = nested > 0 ? nested_absmax.at() : nullptr;
      q4j_dequantize_4bit_params d = {};
      d.size = sizeof d;
      d.dtype = Q4J_BF16;
      d.weight = &w;
      time = seconds(context, batches, calls, [&](int i) {
        w.data = packed[static_cast<size_t>(i % sets)]->at();
        d.output = dense[static_cast<size_t>(i % sets)]->at();
        require(q4j_dequantize_4bit(context.get(), &d), "dequantize_4bit");
      });
      row("dequantize_4bit", nested > 0 ? "nf4+dq bf16" : "nf4 bf16", rungs, rows, cols, time, stored, limit);
      for (auto& buffer : dense) buffer->put(host);
    }
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const bool small = argc > 4 && std::strcmp(argv[4], "small") == 0;
  if (argc >= 4 && std::strcmp(argv[1], "bench") == 0) return bench(argv[2], argv[3], small);
  std::fprintf(stderr, "usage: gpu_check bench PACK RUNGS [small]\n");
  return 2;
}
