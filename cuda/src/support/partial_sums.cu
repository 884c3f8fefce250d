// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#include "support/partial_sums.h"

#include "support/launch.h"

namespace q4j::cuda {

namespace {

// A block takes 32 columns: one warp adds every 16th chunk, so that 4096 columns are 128 blocks and 512 chunks are 32 loads of
// a thread, four of them in flight.
constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarp;
constexpr int kInFlight = 4;

struct PartialSums {
  const float* partial;
  int64_t chunks;
  int64_t n;       /* columns of one gradient */
  int64_t columns; /* of all */
  float* first;
  float* second;
};

struct WarpSums {
  float at[kWarps][kWarp];
};

Q4J_KERNEL(kThreads, 2)
add_partial_sums_rows(const PartialSums p) {
  auto& sums = block_shared<WarpSums>();
  for (int64_t start = static_cast<int64_t>(block_index()) * kWarp; start < p.columns;
       start += static_cast<int64_t>(grid_blocks()) * kWarp) {
    const int64_t column = start + lane_index();
    float sum = 0.0f;
    if (column < p.columns) {
      for (int64_t chunk = warp_index(); chunk < p.chunks; chunk += kWarps * kInFlight) {
        float part[kInFlight];
        Q4J_UNROLL
        for (int i = 0; i < kInFlight; ++i) {
          const int64_t at = chunk + i * kWarps;
          part[i] = at < p.chunks ? load_read_only(p.partial + at * p.columns + column) : 0.0f;
        }
        Q4J_UNROLL
        for (int i = 0; i < kInFlight; ++i) sum += part[i];
      }
    }
    block_barrier();  // the sums of the last columns have been read
    sums.at[warp_index()][lane_index()] = sum;
    block_barrier();
    if (warp_index() == 0 && column < p.columns) {
      float total = 0.0f;
      Q4J_UNROLL
      for (int w = 0; w < kWarps; ++w) total += sums.at[w][lane_index()];
      float* to = column < p.n ? p.first + column : p.second + (column - p.n);
      *to += total;
    }
  }
}

}  // namespace

q4j_status add_partial_sums(const q4j_pack_context& context, const float* partial, int64_t chunks, int64_t n, float* first,
                            float* second) {
  const int64_t columns = second == nullptr ? n : 2 * n;
  const PartialSums arguments = {partial, chunks, n, columns, first, second};
  const Grid grid = {blocks_for(columns, kWarp), kThreads};
  return launch(context, grid, "add_partial_sums_rows", add_partial_sums_rows, arguments);
}

}  // namespace q4j::cuda
