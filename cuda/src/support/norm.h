// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** What the fast rungs of rms_norm and layer_norm share: how rows lie in registers, the residual addition, sums of columns. */
#ifndef QLORA4J_CUDA_SUPPORT_NORM_H_
#define QLORA4J_CUDA_SUPPORT_NORM_H_

#include "support/reduce.h"
#include "support/vectors.h"

namespace q4j::cuda {

// 64 registers are left for each of 1024 threads.
constexpr int kMostRowThreads = 1024;
constexpr int kShortRowThreads = 128;

// With sums of columns a thread also holds an f32 for each of its columns and sums, so it may have 128 registers.
constexpr int kMostSumThreads = 512;
constexpr int kShortRowSumThreads = 256;

// Vectors of every array that a thread holds: rows of up to 16,384 bf16. Four of them spilled, for the forward's two inputs and
// the weights that wait for the row's sum.
constexpr int kHeld = 2;

/** How rows are spread over a block's threads. */
struct RowThreads {
  int row = 0;   /* threads of one row; 0: rows are too long */
  int block = 0; /* threads of a block: those of a row, or of several short rows */

  int rows_at_once() const { return block / row; }
};

/**
 * For rows of n elements of which a thread takes at most `per_thread`. Short rows get a part of a warp, so that rows of 128
 * bf16 (the norms of single heads) still fill the 32-byte sectors that a warp reads.
 */
inline RowThreads row_threads(int64_t n, int per_thread, int most, int block_of_short_rows) {
  const int64_t needed = (n + per_thread - 1) / per_thread;
  if (needed > most) return {};
  if (needed > kWarp) {
    const int row = (static_cast<int>(needed) + kWarp - 1) / kWarp * kWarp;
    return {row, row};
  }
  int row = 1;
  while (row < needed) row *= 2;
  return {row, block_of_short_rows};
}

/** First column of a thread's vector v. */
template <typename T>
Q4J_DEVICE int column_of(int v, int row_threads) {
  return (v * row_threads + thread_index() % row_threads) * kPerVector<T>;
}

/** u = x + residual, rounded to T, of a row of n elements; also written to `sum`. residual and sum may be NULL. */
template <typename T>
Q4J_DEVICE void load_sum(const T* x, const T* residual, T* sum, int n, int row_threads, Words4 (&u)[kHeld]) {
  constexpr int kN = kPerVector<T>;
  Q4J_UNROLL
  for (int v = 0; v < kHeld; ++v) {
    const int column = column_of<T>(v, row_threads);
    u[v] = load_vector_if(column < n, x + column);
  }
  if (residual != nullptr) {
    Words4 r[kHeld];
    Q4J_UNROLL
    for (int v = 0; v < kHeld; ++v) {
      const int column = column_of<T>(v, row_threads);
      r[v] = load_vector_if(column < n, residual + column);
    }
    Q4J_UNROLL
    for (int v = 0; v < kHeld; ++v) {
      float value[kN];
      Q4J_UNROLL
      for (int i = 0; i < kN; ++i) value[i] = element<T>(u[v], i) + element<T>(r[v], i);
      u[v] = vector_of<T>(value);
    }
  }
  if (sum == nullptr) return;
  Q4J_UNROLL
  for (int v = 0; v < kHeld; ++v) {
    const int column = column_of<T>(v, row_threads);
    if (column < n) store(reinterpret_cast<Words4*>(sum + column), u[v]);
  }
}

/** The sums that several rows of a block made of the same columns: one per thread and column held. */
template <typename T>
struct ColumnSums {
  float at[kShortRowSumThreads * kHeld * kPerVector<T>];
};

/** Writes a block's sums of its n columns to partial[0 ... n), adding up the rows that the block takes at once. */
template <typename T>
Q4J_DEVICE void store_column_sums(const float (&sum)[kHeld][kPerVector<T>], int n, int row_threads, float* partial) {
  const int rows_at_once = block_threads() / row_threads;
  if (rows_at_once == 1) {
    Q4J_UNROLL
    for (int v = 0; v < kHeld; ++v) {
      const int column = column_of<T>(v, row_threads);
      if (column < n) store_floats(partial + column, sum[v]);
    }
    return;
  }
  auto& sums = block_shared<ColumnSums<T>>();
  const int columns = row_threads * kHeld * kPerVector<T>;  // of a row, those behind its end included
  float* own = sums.at + thread_index() / row_threads * columns;
  block_barrier();  // the last sums have been read
  Q4J_UNROLL
  for (int v = 0; v < kHeld; ++v) store_floats(own + column_of<T>(v, row_threads), sum[v]);
  block_barrier();
  for (int column = thread_index(); column < n; column += block_threads()) {
    float total = 0.0f;
    for (int r = 0; r < rows_at_once; ++r) total += sums.at[r * columns + column];
    partial[column] = total;
  }
}

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_SUPPORT_NORM_H_
