// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The memory functions of a pack whose device is the CPU. */
#ifndef QLORA4J_SUPPORT_HOST_MEMORY_H_
#define QLORA4J_SUPPORT_HOST_MEMORY_H_

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "error.h"

namespace q4j {

/** Cache line and the widest vector register. */
constexpr std::size_t host_alignment = 64;

/**
 * Memory of twice this and more begins at a multiple of it and asks for pages of this size (transparent huge pages), which
 * Linux gives on most machines to those who ask. A kernel that streams a weight then waits less for addresses to be translated.
 */
constexpr std::size_t host_huge_page = std::size_t{2} << 20;

static inline q4j_status host_allocate(int64_t bytes, void** memory) {
  *memory = nullptr;
  if (bytes == 0) return Q4J_OK;
  // aligned_alloc wants a multiple of the alignment; vector code may then also read to the end of the last line.
  const std::size_t rounded = (static_cast<std::size_t>(bytes) + host_alignment - 1) / host_alignment * host_alignment;
#if defined(__linux__)
  if (rounded >= 2 * host_huge_page) {
    if (posix_memalign(memory, host_huge_page, rounded) != 0) *memory = nullptr;
    // Refusing costs time only, so the answer does not matter.
    if (*memory != nullptr) (void)madvise(*memory, rounded, MADV_HUGEPAGE);
  } else
#endif
  {
    *memory = std::aligned_alloc(host_alignment, rounded);
  }
  Q4J_REQUIRE(*memory != nullptr, Q4J_OUT_OF_DEVICE_MEMORY, "allocate: the system has no %lld bytes to give",
              static_cast<long long>(bytes));
  return Q4J_OK;
}

static inline void host_free(void* memory) { std::free(memory); }

static inline void host_copy(void* target, const void* source, int64_t bytes) {
  if (bytes > 0) std::memcpy(target, source, static_cast<std::size_t>(bytes));
}

static inline void host_fill(void* target, int32_t value, int64_t bytes) {
  if (bytes > 0) std::memset(target, value, static_cast<std::size_t>(bytes));
}

// The same with the signatures of a pack's table. copy_in and copy_out are one function here, and every operator has finished
// when it returns.

static inline q4j_status host_allocate(q4j_pack_context*, int64_t bytes, void** memory) { return host_allocate(bytes, memory); }

static inline q4j_status host_free(q4j_pack_context*, void* memory) {
  host_free(memory);
  return Q4J_OK;
}

static inline q4j_status host_copy(q4j_pack_context*, void* target, const void* source, int64_t bytes) {
  host_copy(target, source, bytes);
  return Q4J_OK;
}

static inline q4j_status host_fill(q4j_pack_context*, void* target, int32_t value, int64_t bytes) {
  host_fill(target, value, bytes);
  return Q4J_OK;
}

static inline q4j_status host_synchronize(q4j_pack_context*) { return Q4J_OK; }

}  // namespace q4j

#endif  // QLORA4J_SUPPORT_HOST_MEMORY_H_
