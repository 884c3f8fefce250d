// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#ifndef QLORA4J_SRC_CPU_ROUND_UP_H_
#define QLORA4J_SRC_CPU_ROUND_UP_H_

#include <cstdint>

namespace q4j::cpu {

/** The least multiple of `multiple` that is not below `value`; both at least 0. */
constexpr int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

/** The first address from `p` on that is a multiple of 64, the bytes of a cache line. */
inline char* aligned_to_line(void* p) {
  return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(p) + 63) & ~uintptr_t{63});
}

}  // namespace q4j::cpu

#endif  // QLORA4J_SRC_CPU_ROUND_UP_H_
