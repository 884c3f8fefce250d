// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The largest value of a block's threads, for the operators that give every row a scale. */
#ifndef QLORA4J_CUDA_SUPPORT_ROW_MAXIMUM_H_
#define QLORA4J_CUDA_SUPPORT_ROW_MAXIMUM_H_

#include "support/elements.h"

namespace q4j::cuda {

/** The larger of `largest` and the magnitudes of eight elements, NaN where one is NaN. */
template <typename T>
Q4J_DEVICE float largest_of_eight(float largest, const Eight<T>& eight) {
  Q4J_UNROLL
  for (int i = 0; i < kEight; ++i) largest = maximum(largest, absolute(element(eight, i)));
  return largest;
}

template <int Warps>
struct WarpMaxima {
  float at[Warps];
};

/** The largest `value` of all threads, NaN where one is NaN; all threads of the block call it and get it. */
template <int Threads>
Q4J_DEVICE float block_maximum(float value) {
  constexpr int kWarps = Threads / kWarp;
  auto& maxima = block_shared<WarpMaxima<kWarps>>();
  Q4J_UNROLL
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value = maximum(value, shuffle_xor(value, mask));
  block_barrier();  // the maxima of the call before have been read
  if (lane_index() == 0) maxima.at[warp_index()] = value;
  block_barrier();
  Q4J_UNROLL
  for (int w = 0; w < kWarps; ++w) value = maximum(value, maxima.at[w]);
  return value;
}

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_SUPPORT_ROW_MAXIMUM_H_
