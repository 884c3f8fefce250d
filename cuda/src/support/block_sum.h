// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Sums in f64 over a block's threads, for operators whose sums must not depend on the grid. */
#ifndef QLORA4J_CUDA_SUPPORT_BLOCK_SUM_H_
#define QLORA4J_CUDA_SUPPORT_BLOCK_SUM_H_

#include "support/device.h"

namespace q4j::cuda {

template <int Warps>
struct BlockSums {
  double at[Warps];
};

/** The sum of all threads' values, the same in every thread: a tree over the lanes, then warp by warp. */
template <int Threads>
Q4J_DEVICE double block_sum(double value) {
  constexpr int kWarps = Threads / kWarp;
  auto& sums = block_shared<BlockSums<kWarps>>();
  Q4J_UNROLL
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  block_barrier();  // the last sum has been read
  if (lane_index() == 0) sums.at[warp_index()] = value;
  block_barrier();
  double sum = 0.0;
  Q4J_UNROLL
  for (int w = 0; w < kWarps; ++w) sum += sums.at[w];
  return sum;
}

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_SUPPORT_BLOCK_SUM_H_
