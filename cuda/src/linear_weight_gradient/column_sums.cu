// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Column sums. A block takes 256 columns, a warp every eighth of its rows, a thread eight columns; the warps' sums meet in
 * shared memory, those of several parts of the rows in a second launch.
 */
#include <algorithm>

#include "linear_weight_gradient/linear_weight_gradient.h"
#include "support/dispatch.h"
#include "support/elements.h"
#include "support/launch.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int64_t kColumns = kWarp * kEight;

struct WarpSums {
  float at[kWarps][kColumns];
};

template <typename T>
Q4J_KERNEL(kThreads, 4)
linear_column_sums(const ColumnSums s, const int column_blocks) {
  auto& sums = block_shared<WarpSums>();
  const int part = block_index() / column_blocks;
  const int64_t column = static_cast<int64_t>(block_index() - part * column_blocks) * kColumns;
  const int64_t from = column + lane_index() * kEight;
  const int64_t first = part * s.rows_of_part;
  const int64_t end = first + s.rows_of_part < s.rows ? first + s.rows_of_part : s.rows;
  const bool vectors = is_aligned(s.input, sizeof(Words4)) && s.ld * static_cast<int64_t>(sizeof(T)) % 16 == 0;
  float sum[kEight] = {};
  for (int64_t row = first + warp_index(); row < end; row += kWarps) {
    const Eight<T> eight = load_eight(static_cast<const T*>(s.input) + row * s.ld, from, s.cols, vectors);
    Q4J_UNROLL
    for (int i = 0; i < kEight; ++i) sum[i] = add(sum[i], element(eight, i));
  }
  Q4J_UNROLL
  for (int i = 0; i < kEight; ++i) sums.at[warp_index()][lane_index() + i * kWarp] = sum[i];  // a bank for each lane
  block_barrier();
  // Thread t finishes the column of lane t / 8, element t % 8.
  const int64_t own = column + thread_index();
  const int slot = thread_index() / kEight + thread_index() % kEight * kWarp;
  float total = 0.0f;
  Q4J_UNROLL
  for (int w = 0; w < kWarps; ++w) total = add(total, sums.at[w][slot]);
  if (own >= s.cols) return;
  if (s.parts == 1) {
    s.output[own] = add(s.output[own], total);
  } else {
    s.partial[part * s.cols + own] = total;
  }
}

Q4J_KERNEL(kThreads, 4)
linear_column_parts(const ColumnSums s) {
  const int64_t column = static_cast<int64_t>(block_index()) * kThreads + thread_index();
  if (column >= s.cols) return;
  float sum = 0.0f;
  for (int part = 0; part < s.parts; ++part) sum = add(sum, s.partial[part * s.cols + column]);
  s.output[column] = add(s.output[column], sum);
}

}  // namespace

void cut_rows(ColumnSums* sums) {
  // 256 blocks, of 64 rows at least; by the shape alone, so that sums are the same on every device.
  const int64_t columns = (sums->cols + kColumns - 1) / kColumns;
  const int64_t wanted = std::max<int64_t>(1, std::min(256 / columns, sums->rows / 64));
  sums->rows_of_part = (sums->rows + wanted - 1) / wanted;
  sums->parts = static_cast<int32_t>((sums->rows + sums->rows_of_part - 1) / sums->rows_of_part);
}

q4j_status column_sums(const q4j_pack_context& context, const ColumnSums& sums) {
  const int columns = blocks_for(sums.cols, kColumns);
  return with_activation_type(sums.dtype, [&](auto type) {
    Q4J_RETURN_IF_ERROR(launch(context, {columns * sums.parts, kThreads}, "linear_column_sums",
                               linear_column_sums<decltype(type)>, sums, columns));
    return sums.parts == 1
               ? Q4J_OK
               : launch(context, {blocks_for(sums.cols, kThreads), kThreads}, "linear_column_parts", linear_column_parts, sums);
  });
}

}  // namespace q4j::cuda
