// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Memory that a task of a product will need next, brought near while it multiplies: the kernels read their panels too fast to
 * wait for memory, and packing waits for every cache line of a weight.
 */
#ifndef QLORA4J_SRC_CPU_GEMM_FETCH_H_
#define QLORA4J_SRC_CPU_GEMM_FETCH_H_

#include <algorithm>
#include <cstdint>

#include "amx.h"
#include "intrinsics.h"

namespace q4j::cpu {

/** Rows of bytes, `stride` bytes apart. */
struct Stretch {
  const char* first = nullptr;
  int64_t rows = 0;
  int64_t bytes = 0;
  int64_t stride = 0;
};

/** Fetches one stretch, an equal part of it at every step. */
class Fetcher {
 public:
  /** steps: calls of step() until all of it has been asked for. */
  void start(const Stretch& stretch, int64_t steps) {
    const auto first = reinterpret_cast<uintptr_t>(stretch.first);
    const uintptr_t skew = first % kLine;
    row_ = first - skew;
    stride_ = static_cast<uintptr_t>(stretch.stride);
    rows_ = stretch.rows;
    // Rows that begin at different places of a line have a line more in the worst case.
    const uintptr_t most_skew = stride_ % kLine == 0 ? skew : kLine - 1;
    lines_ = (static_cast<uintptr_t>(stretch.bytes) + most_skew + kLine - 1) / kLine;
    line_ = 0;
    const auto lines = rows_ * static_cast<int64_t>(lines_);
    lines_per_step_ = (lines + steps - 1) / std::max<int64_t>(1, steps);
  }

  void step() {
    for (int64_t i = 0; i < lines_per_step_ && rows_ > 0; ++i) {
      _mm_prefetch(reinterpret_cast<const char*>(row_ + line_ * kLine), kHint);
      if (++line_ == lines_) {
        line_ = 0;
        row_ += stride_;
        --rows_;
      }
    }
  }

 private:
  static constexpr uintptr_t kLine = 64;
#if defined(Q4J_AMX)
  static constexpr _mm_hint kHint = _MM_HINT_T1;  // the first-level cache is full of tiles
#else
  static constexpr _mm_hint kHint = _MM_HINT_T0;
#endif

  uintptr_t row_ = 0;
  uintptr_t stride_ = 0;
  uintptr_t lines_ = 0;  // of a row
  uintptr_t line_ = 0;
  int64_t rows_ = 0;
  int64_t lines_per_step_ = 0;
};

}  // namespace q4j::cpu

#endif  // QLORA4J_SRC_CPU_GEMM_FETCH_H_
