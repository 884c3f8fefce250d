// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Sums over the rows of a matrix in two stages: a kernel leaves one partial sum per column and chunk of rows in the caller's
 * workspace, and add_partial_sums adds them up. Chunks are made from the number of rows alone and every order is fixed, so a
 * gradient has the same bits on every device.
 */
#ifndef QLORA4J_CUDA_SUPPORT_PARTIAL_SUMS_H_
#define QLORA4J_CUDA_SUPPORT_PARTIAL_SUMS_H_

#include <algorithm>
#include <cstdint>

#include "pack/context.h"

namespace q4j::cuda {

/**
 * At most 512 chunks: nearly four for each of an H100's 132 multiprocessors, and at 4096 columns 8 MiB of partial sums, which
 * stay in its L2 cache. At least 8 rows per chunk, so that the partial sums are a fraction of what was read for them.
 */
struct RowChunks {
  explicit RowChunks(int64_t all_rows)
      : rows(std::max<int64_t>(8, (all_rows + 511) / 512)), count((all_rows + rows - 1) / rows) {}

  int64_t rows; /* of a chunk; the last one may have fewer */
  int64_t count;
};

/**
 * first[c] += the sum of partial[chunk * n + c] over the chunks. With a `second` gradient a chunk has 2 n partial sums, those
 * of `second` behind those of `first`.
 */
q4j_status add_partial_sums(const q4j_pack_context& context, const float* partial, int64_t chunks, int64_t n, float* first,
                            float* second = nullptr);

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_SUPPORT_PARTIAL_SUMS_H_
