// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * What a kernel may use of a GPU, with two bodies: instructions of the device when nvcc compiles, and the fibers of
 * host_execution.h when g++ compiles the same kernel into the pack cuda-on-host.
 *
 * Rules that keep both bodies equal:
 *  - grids and blocks are one-dimensional, a block is a multiple of 32 threads;
 *  - warp operations are done by all 32 lanes, block barriers by all threads of the block, grid barriers by all threads of
 *    a cooperative launch. The host body reports a thread that leaves or waits elsewhere as an error;
 *  - shared memory comes from block_shared<T>() and dynamic_shared() and is not initialised (the host body fills it with NaN
 *    patterns);
 *  - asynchronous copies are visible to the thread that made them after copy_async_wait, to its block after a barrier
 *    behind that;
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

/**
 * Copies `Bytes` (4, 8 or 16) to shared memory without passing through registers: the first `from_bytes` of them from global
 * memory, the others are zero, so that with from_bytes = 0 nothing is read. Both addresses are multiples of Bytes. Sixteen
 * bytes bypass the L1 cache.
 */
template <int Bytes>
Q4J_DEVICE void copy_async(void* to, const void* from, int from_bytes = Bytes) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16, "the sizes there are");
  if constexpr (Bytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(from_bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)), "l"(from), "n"(Bytes),
                 "r"(from_bytes)
                 : "memory");
  }
}

/** The same, all of the bytes or, unless `present`, zeros: cheaper than a count of bytes. */
template <int Bytes>
Q4J_DEVICE void copy_async_if(void* to, const void* from, bool present) {
  static_assert(Bytes == 16, "nothing else is copied so");
  asm volatile(
      "{\n"
      "  .reg .pred absent;\n"
      "  setp.eq.s32 absent, %2, 0;\n"
      "  cp.async.cg.shared.global [%0], [%1], 16, absent;\n"
      "}" ::"r"(shared_address(to)),
      "l"(from), "r"(static_cast<int>(present))
      : "memory");
}

/** Closes the thread's group of copies; a group may be empty. */
Q4J_DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/** Waits for the thread's copies, those of its `Pending` newest groups left out. */
template <int Pending>
Q4J_DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
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
/** The larger; where one is NaN the other. */
Q4J_DEVICE float maximum_number(float a, float b) { return fmaxf(a, b); }
Q4J_DEVICE float absolute(float a) { return fabsf(a); }
/** Correctly rounded. */
Q4J_DEVICE float square_root(float a) { return __fsqrt_rn(a); }
Q4J_DEVICE double square_root(double a) { return __dsqrt_rn(a); }
Q4J_DEVICE float round_half_even(float a) { return rintf(a); }

// The math library's functions, within 1 ulp (exp, log) and 2 ulp (sine, cosine, at every angle) as NVIDIA states them.
Q4J_DEVICE float exponential(float a) { return expf(a); }
Q4J_DEVICE float logarithm(float a) { return logf(a); }
Q4J_DEVICE void sine_cosine(float angle, float* sine, float* cosine) { sincosf(angle, sine, cosine); }
/** 2^a in one instruction, relative error up to 2^-22; 0 where the result is below 2^-126. */
Q4J_DEVICE float exponential_2_approximate(float a) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(a));
  return power;
}
/** a / b within 2 ulp in two instructions instead of some ten; 0 where |b| is above 2^126 and a is finite. */
Q4J_DEVICE float divide_approximate(float a, float b) { return __fdividef(a, b); }

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
Q4J_DEVICE uint16_t load_read_only(const uint16_t* from) { return __ldg(from); }
Q4J_DEVICE float load_read_only(const float* from) { return __ldg(from); }

/** Memory that this kernel reads once: kept out of L1 and first to leave L2, so that it evicts nothing that is read again. */
class Streamed {
 public:
  Q4J_DEVICE Streamed() { asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy_)); }

  Q4J_DEVICE Words4 load(const Words4* from) const {
    Words4 value;
    asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], %5;"
                 : "=r"(value.word[0]), "=r"(value.word[1]), "=r"(value.word[2]), "=r"(value.word[3])
                 : "l"(from), "l"(policy_));
    return value;
  }
  Q4J_DEVICE Words2 load(const Words2* from) const {
    Words2 value;
    asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v2.u32 {%0, %1}, [%2], %3;"
                 : "=r"(value.word[0]), "=r"(value.word[1])
                 : "l"(from), "l"(policy_));
    return value;
  }
  Q4J_DEVICE uint32_t load(const uint32_t* from) const {
    uint32_t value;
    asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.u32 %0, [%1], %2;" : "=r"(value) : "l"(from), "l"(policy_));
    return value;
  }
  /** As q4j::cuda::copy_async, of 16 bytes. */
  Q4J_DEVICE void copy_async(void* to, const void* from, int from_bytes = 16) const {
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(shared_address(to)), "l"(from),
                 "r"(from_bytes), "l"(policy_)
                 : "memory");
  }

 private:
  uint64_t policy_;
};

// Loads of memory that this kernel may also write, shared memory above all.
Q4J_DEVICE Words4 load(const Words4* from) {
  const uint4 loaded = *reinterpret_cast<const uint4*>(from);
  return {{loaded.x, loaded.y, loaded.z, loaded.w}};
}
Q4J_DEVICE Words2 load(const Words2* from) {
  const uint2 loaded = *reinterpret_cast<const uint2*>(from);
  return {{loaded.x, loaded.y}};
}
Q4J_DEVICE uint32_t load(const uint32_t* from) { return *from; }

Q4J_DEVICE void store(Words4* to, const Words4& value) {
  *reinterpret_cast<uint4*>(to) = make_uint4(value.word[0], value.word[1], value.word[2], value.word[3]);
}
Q4J_DEVICE void store(Words2* to, const Words2& value) {
  *reinterpret_cast<uint2*>(to) = make_uint2(value.word[0], value.word[1]);
}
Q4J_DEVICE void store(uint32_t* to, uint32_t value) { *to = value; }

// For results that blocks of one launch hand to the block that finishes last: each writes, fences, and counts itself; the one
// that counts last fences and reads, past the cache of its multiprocessor.
Q4J_DEVICE void device_fence() { __threadfence(); }
/** Adds in memory and returns what was there before. */
Q4J_DEVICE uint32_t fetch_add(uint32_t* counter, uint32_t count) { return atomicAdd(counter, count); }
Q4J_DEVICE double load_shared_by_blocks(const double* from) { return __ldcg(from); }

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

template <int Bytes>
inline void copy_async(void* to, const void* from, int from_bytes = Bytes) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16, "the sizes there are");
  host::copy_async(to, from, Bytes, static_cast<size_t>(from_bytes));
}
template <int Bytes>
inline void copy_async_if(void* to, const void* from, bool present) {
  copy_async<Bytes>(to, from, present ? Bytes : 0);
}
inline void copy_async_commit() { host::copy_async_commit(); }
template <int Pending>
inline void copy_async_wait() {
  host::copy_async_wait(Pending);
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
inline float maximum_number(float a, float b) { return std::fmax(a, b); }
inline float absolute(float a) { return std::fabs(a); }
inline float square_root(float a) { return std::sqrt(a); }
inline double square_root(double a) { return std::sqrt(a); }
inline float round_half_even(float a) { return std::nearbyint(a); }

inline float exponential(float a) { return std::exp(a); }
inline float logarithm(float a) { return std::log(a); }
inline void sine_cosine(float angle, float* sine, float* cosine) {
  *sine = std::sin(angle);
  *cosine = std::cos(angle);
}
inline float exponential_2_approximate(float a) {
  const float power = std::exp2(a);
  return power < 0x1p-126f ? 0.0f : power;
}
inline float divide_approximate(float a, float b) { return a / b; }

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
inline T load(const T* from) {
  return load_read_only(from);
}

template <typename T>
inline void store(T* to, const T& value) {
  host::check_alignment(to, alignof(T));
  *to = value;
}

class Streamed {
 public:
  template <typename T>
  T load(const T* from) const {
    return load_read_only(from);
  }
  void copy_async(void* to, const void* from, int from_bytes = 16) const { q4j::cuda::copy_async<16>(to, from, from_bytes); }
};

// Blocks run on one thread of the CPU.
inline void device_fence() {}
inline uint32_t fetch_add(uint32_t* counter, uint32_t count) {
  const uint32_t before = *counter;
  *counter += count;
  return before;
}
inline double load_shared_by_blocks(const double* from) { return *from; }

#endif

/** A value that all lanes of the warp have in common, told to the compiler: it may keep what it decides once per warp. */
template <typename T>
Q4J_DEVICE T uniform(T value) {
  return shuffle(value, 0);
}

Q4J_DEVICE int lane_index() { return thread_index() % kWarp; }
Q4J_DEVICE int warp_index() { return thread_index() / kWarp; }

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_SUPPORT_DEVICE_H_
