// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Memory that a task of a product will need next, brought near while it multiplies: the kernels read
 * their panels too fast to wait for memory, and packing waits for every cache line of a weight.
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
    row_ = stretch.first;
    stride_ = stretch.stride;
    // Counted from a row's first byte, a row has one line more where it begins within a line.
    bytes_ = stretch.bytes + kLine - 1;
    rows_ = stretch.rows;
    offset_ = 0;
    const int64_t lines = rows_ * (bytes_ / kLine);
    lines_per_step_ = (lines + steps - 1) / std::max<int64_t>(1, steps);
  }

  void step() {
    for (int64_t line = 0; line < lines_per_step_ && rows_ > 0; ++line) {
      _mm_prefetch(row_ + offset_, kHint);
      offset_ += kLine;
      if (offset_ + kLine > bytes_) {
        offset_ = 0;
        row_ += stride_;
        --rows_;
      }
    }
  }

 private:
  static constexpr int64_t kLine = 64;
#if defined(Q4J_AMX)
  static constexpr _mm_hint kHint = _MM_HINT_T1;  // the first-level cache is full of tiles
#else
  static constexpr _mm_hint kHint = _MM_HINT_T0;
#endif

  const char* row_ = nullptr;
  int64_t stride_ = 0;
  int64_t bytes_ = 0;
  int64_t rows_ = 0;
  int64_t offset_ = 0;
  int64_t lines_per_step_ = 0;
};

}  // namespace q4j::cpu

#endif  // QLORA4J_SRC_CPU_GEMM_FETCH_H_
