// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** How a kernel is declared and where its threads meet: indices, barriers, exchanges within a warp, shared memory. */
#ifndef QLORA4J_CUDA_SUPPORT_EXECUTION_H_
#define QLORA4J_CUDA_SUPPORT_EXECUTION_H_

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#include <cooperative_groups.h>
#else
#include <algorithm>

#include "host_execution.h"
#endif

#if defined(__CUDACC__)
/** A kernel: Q4J_KERNEL(threads, blocks) name(...), `threads` per block at most, `blocks` per multiprocessor at least. */
#define Q4J_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define Q4J_DEVICE __device__ __forceinline__
/** A constant table that kernels read. */
#define Q4J_TABLE static __device__ const
#define Q4J_UNROLL _Pragma("unroll")
/** For loops on paths that few threads take: keeps their code small. */
#define Q4J_NO_UNROLL _Pragma("unroll 1")
/** Type of a kernel parameter that threads read where it lies: on a GPU in the constant bank, which takes 32,764 bytes. */
#define Q4J_LARGE_PARAMETER(type) const __grid_constant__ type
#else
#define Q4J_KERNEL(threads, blocks) void
#define Q4J_DEVICE inline
#define Q4J_TABLE static constexpr
#define Q4J_UNROLL
#define Q4J_NO_UNROLL
#define Q4J_LARGE_PARAMETER(type) const type&
#endif

namespace q4j::cuda {

/** Lanes of a warp. */
constexpr int kWarp = 32;

#if defined(__CUDACC__)

// ---------------------------------------------------------------- the device

Q4J_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
Q4J_DEVICE int block_index() { return static_cast<int>(blockIdx.x); }
Q4J_DEVICE int block_threads() { return static_cast<int>(blockDim.x); }
Q4J_DEVICE int grid_blocks() { return static_cast<int>(gridDim.x); }

Q4J_DEVICE void block_barrier() { __syncthreads(); }

/** Makes what the lanes of a warp wrote visible to one another. */
Q4J_DEVICE void warp_barrier() { __syncwarp(); }

/** Only in kernels launched with launch_cooperative. Orders global memory too. */
Q4J_DEVICE void grid_barrier() { cooperative_groups::this_grid().sync(); }

/** Value of the lane whose number is this lane's number xor `mask`. */
template <typename T>
Q4J_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

/** Value of lane `lane`. */
template <typename T>
Q4J_DEVICE T shuffle(T value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}

/** Value of lane `index` % 16 of the lane's half of the warp. */
template <typename T>
Q4J_DEVICE T shuffle_16(T value, int index) {
  return __shfl_sync(0xffffffffu, value, index, 16);
}

/** Value of the lane `delta` above; the lane's own where there is none. */
template <typename T>
Q4J_DEVICE T shuffle_down(T value, int delta) {
  return __shfl_down_sync(0xffffffffu, value, static_cast<unsigned>(delta));
}

/** The largest of the values that the lanes of a warp give. */
Q4J_DEVICE uint32_t warp_maximum(uint32_t value) { return __reduce_max_sync(0xffffffffu, value); }

/** Memory of the block; one object per type and kernel. */
template <typename T>
Q4J_DEVICE T& block_shared() {
  __shared__ T storage;
  return storage;
}

/** The shared memory that the launch asked for (Grid::shared_bytes), on a boundary of 1024 bytes. */
Q4J_DEVICE unsigned char* dynamic_shared() {
  extern __shared__ __align__(1024) unsigned char q4j_dynamic_shared[];
  return q4j_dynamic_shared;
}

/** The address of shared memory as instructions take it. */
Q4J_DEVICE uint32_t shared_address(const void* shared) { return static_cast<uint32_t>(__cvta_generic_to_shared(shared)); }

#else

// ---------------------------------------------------------------- the host

inline int thread_index() { return host::current().thread; }
inline int block_index() { return host::current().block_index; }
inline int block_threads() { return host::current().block_threads; }
inline int grid_blocks() { return host::current().grid_blocks; }

inline void block_barrier() { host::block_barrier(); }
inline void warp_barrier() { host::warp_exchange(0, 0); }
inline void grid_barrier() { host::grid_barrier(); }

template <typename T>
inline T shuffle(T value, int lane) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "one exchange slot is 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = host::warp_exchange(bits, lane);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <typename T>
inline T shuffle_16(T value, int index) {
  return shuffle(value, host::current().thread % kWarp / 16 * 16 + (index & 15));
}

template <typename T>
inline T shuffle_xor(T value, int mask) {
  return shuffle(value, (host::current().thread % kWarp) ^ mask);
}

template <typename T>
inline T shuffle_down(T value, int delta) {
  const int lane = host::current().thread % kWarp;
  return shuffle(value, lane + delta < kWarp ? lane + delta : lane);
}

inline uint32_t warp_maximum(uint32_t value) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value = std::max(value, shuffle_xor(value, mask));
  return value;
}

template <typename T>
inline T& block_shared() {
  static const char tag = 0;  // its address names the type within this kernel source
  return *static_cast<T*>(host::shared_memory(&tag, sizeof(T), alignof(T)));
}

inline unsigned char* dynamic_shared() { return static_cast<unsigned char*>(host::dynamic_shared_memory()); }

#endif

/** A value that all lanes of the warp have in common, told to the compiler: it may keep what it decides once per warp. */
template <typename T>
Q4J_DEVICE T uniform(T value) {
  return shuffle(value, 0);
}

Q4J_DEVICE int lane_index() { return thread_index() % kWarp; }
Q4J_DEVICE int warp_index() { return thread_index() / kWarp; }

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_SUPPORT_EXECUTION_H_
