// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * What a kernel may use of a GPU, with two bodies: instructions of the device when nvcc compiles, and the fibers of
 * host_execution.h when g++ compiles the same kernel into the pack cuda-on-host.
 *
 * Rules that keep both bodies equal:
 *  - grids and blocks are one-dimensional, a block is a multiple of 32 threads;
 *  - warp operations are done by all 32 lanes, block barriers by all threads of the block, grid barriers by all threads of
 *    a cooperative launch. The host body reports a thread that leaves or waits elsewhere as an error;
 *  - shared memory comes from block_shared<T>() and is not initialised (the host body fills it with NaN patterns);
 *  - arithmetic whose rounding is part of a format goes through multiply, add, divide: no compiler may contract those to a
 *    fused multiply-add.
 */
#ifndef QLORA4J_CUDA_SUPPORT_DEVICE_H_
#define QLORA4J_CUDA_SUPPORT_DEVICE_H_

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#else
#include <algorithm>
#include <cmath>

#include "half.h"
#include "host_execution.h"
#endif

#if defined(__CUDACC__)
/** A kernel: Q4J_KERNEL(threads, blocks) name(...). `threads` per block at most, `blocks` resident per multiprocessor at least.
 */
#define Q4J_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define Q4J_DEVICE __device__ __forceinline__
/** A constant table that kernels read. */
#define Q4J_TABLE static __device__ const
#define Q4J_UNROLL _Pragma("unroll")
/** For loops on paths that few threads take: keeps their code small. */
#define Q4J_NO_UNROLL _Pragma("unroll 1")
#else
#define Q4J_KERNEL(threads, blocks) void
#define Q4J_DEVICE inline
#define Q4J_TABLE static constexpr
#define Q4J_UNROLL
#define Q4J_NO_UNROLL
#endif

namespace q4j::cuda {

/** Lanes of a warp. */
constexpr int kWarp = 32;

/** Sixteen bytes that move in one instruction. */
struct alignas(16) Words4 {
  uint32_t word[4];
};

/** Two words that move in one instruction. */
struct alignas(8) Words2 {
  uint32_t word[2];
};

#if defined(__CUDACC__)

// ---------------------------------------------------------------- the device

Q4J_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
Q4J_DEVICE int block_index() { return static_cast<int>(blockIdx.x); }
Q4J_DEVICE int block_threads() { return static_cast<int>(blockDim.x); }
Q4J_DEVICE int grid_blocks() { return static_cast<int>(gridDim.x); }

Q4J_DEVICE void block_barrier() { __syncthreads(); }

/** Only in kernels launched with launch_cooperative. Orders global memory too. */
Q4J_DEVICE void grid_barrier() { cooperative_groups::this_grid().sync(); }

/** Value of the lane whose number is this lane's number xor `mask`. */
template <typename T>
Q4J_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

/** Memory of the block; one object per type and kernel. */
template <typename T>
Q4J_DEVICE T& block_shared() {
  __shared__ T storage;
  return storage;
}

Q4J_DEVICE uint32_t float_bits(float value) { return __float_as_uint(value); }
Q4J_DEVICE float bits_float(uint32_t bits) { return __uint_as_float(bits); }

Q4J_DEVICE float multiply(float a, float b) { return __fmul_rn(a, b); }
Q4J_DEVICE float add(float a, float b) { return __fadd_rn(a, b); }
Q4J_DEVICE float subtract(float a, float b) { return __fsub_rn(a, b); }
Q4J_DEVICE float divide(float a, float b) { return __fdiv_rn(a, b); }
Q4J_DEVICE float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
/** The larger; NaN where one is NaN. */
Q4J_DEVICE float maximum(float a, float b) {
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));
  return larger;
}
Q4J_DEVICE float absolute(float a) { return fabsf(a); }
Q4J_DEVICE float round_half_even(float a) { return rintf(a); }

/** Bytes of the pair (low, high), numbered 0 to 7, picked by the four nibbles of `selector`. */
Q4J_DEVICE uint32_t byte_permute(uint32_t low, uint32_t high, uint32_t selector) { return __byte_perm(low, high, selector); }

// Loads through the read-only path: the memory must not be written during the kernel.
Q4J_DEVICE uint32_t load_read_only(const uint32_t* from) { return __ldg(from); }
Q4J_DEVICE Words4 load_read_only(const Words4* from) {
  const uint4 loaded = __ldg(reinterpret_cast<const uint4*>(from));
  return {{loaded.x, loaded.y, loaded.z, loaded.w}};
}
Q4J_DEVICE Words2 load_read_only(const Words2* from) {
  const uint2 loaded = __ldg(reinterpret_cast<const uint2*>(from));
  return {{loaded.x, loaded.y}};
}
Q4J_DEVICE uint8_t load_read_only(const uint8_t* from) { return __ldg(from); }
Q4J_DEVICE float load_read_only(const float* from) { return __ldg(from); }

Q4J_DEVICE void store(Words4* to, const Words4& value) {
  *reinterpret_cast<uint4*>(to) = make_uint4(value.word[0], value.word[1], value.word[2], value.word[3]);
}
Q4J_DEVICE void store(Words2* to, const Words2& value) {
  *reinterpret_cast<uint2*>(to) = make_uint2(value.word[0], value.word[1]);
}

#else

// ---------------------------------------------------------------- the host

inline int thread_index() { return host::current().thread; }
inline int block_index() { return host::current().block_index; }
inline int block_threads() { return host::current().block_threads; }
inline int grid_blocks() { return host::current().grid_blocks; }

inline void block_barrier() { host::block_barrier(); }
inline void grid_barrier() { host::grid_barrier(); }

template <typename T>
inline T shuffle_xor(T value, int mask) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "one exchange slot is 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = host::warp_exchange(bits, (host::current().thread % kWarp) ^ mask);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <typename T>
inline T& block_shared() {
  static const char tag = 0;  // its address names the type within this kernel source
  return *static_cast<T*>(host::shared_memory(&tag, sizeof(T), alignof(T)));
}

inline uint32_t float_bits(float value) { return bits_of(value); }
inline float bits_float(uint32_t bits) { return float_of(bits); }

// The pack is compiled with -ffp-contract=off.
inline float multiply(float a, float b) { return a * b; }
inline float add(float a, float b) { return a + b; }
inline float subtract(float a, float b) { return a - b; }
inline float divide(float a, float b) { return a / b; }
/** Every NaN result is the device's: all mantissa bits set. */
inline float multiply_add(float a, float b, float c) {
  const float result = std::fma(a, b, c);
  return std::isnan(result) ? bits_float(0x7fffffffu) : result;
}
inline float maximum(float a, float b) { return std::isnan(a) || a > b ? a : b; }
inline float absolute(float a) { return std::fabs(a); }
inline float round_half_even(float a) { return std::nearbyint(a); }

inline uint32_t byte_permute(uint32_t low, uint32_t high, uint32_t selector) {
  const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t pick = (selector >> (4 * i)) & 0xfu;
    const uint32_t byte = static_cast<uint32_t>(bytes >> (8 * (pick & 7u))) & 0xffu;
    // Bit 3 of a selector nibble copies the byte's sign into all its bits.
    result |= ((pick & 8u) != 0 ? ((byte & 0x80u) != 0 ? 0xffu : 0u) : byte) << (8 * i);
  }
  return result;
}

// A misaligned wide access is an error on the device; here it must not pass unseen.
template <typename T>
inline T load_read_only(const T* from) {
  host::check_alignment(from, alignof(T));
  return *from;
}

template <typename T>
inline void store(T* to, const T& value) {
  host::check_alignment(to, alignof(T));
  *to = value;
}

#endif

Q4J_DEVICE int lane_index() { return thread_index() % kWarp; }
Q4J_DEVICE int warp_index() { return thread_index() / kWarp; }

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_SUPPORT_DEVICE_H_
