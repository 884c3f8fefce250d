// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** How kernels read and write memory: in wide accesses, past caches, asynchronously, between blocks. */
#ifndef QLORA4J_CUDA_SUPPORT_MEMORY_H_
#define QLORA4J_CUDA_SUPPORT_MEMORY_H_

#include <cstddef>
#include <cstdint>

#include "support/execution.h"

namespace q4j::cuda {

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

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_SUPPORT_MEMORY_H_
