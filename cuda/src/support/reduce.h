// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Sums and maxima over the threads that share a row: a part of a warp (a power of two), a warp, or a block of whole warps.
 * Every thread gets the result, the same bits in all of them, in an order that depends on the number of threads alone.
 */
#ifndef QLORA4J_CUDA_SUPPORT_REDUCE_H_
#define QLORA4J_CUDA_SUPPORT_REDUCE_H_

#include "support/device.h"

namespace q4j::cuda {

struct Sum {
  static constexpr float kNothing = 0.0f;
  Q4J_DEVICE static float combine(float a, float b) { return a + b; }
};

struct Maximum {
  static constexpr float kNothing = -__builtin_huge_valf();
  Q4J_DEVICE static float combine(float a, float b) { return maximum(a, b); }
};

/** Over `lanes` neighbouring lanes, a power of two; over the warp when it is larger than a warp. */
template <typename Operation>
Q4J_DEVICE float reduce_lanes(float value, int lanes) {
  Q4J_UNROLL
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    if (mask < lanes) value = Operation::combine(value, shuffle_xor(value, mask));
  }
  return value;
}

/**
 * Reduces N values at once. Made once per kernel by all threads of the block; all of them make every call. Two sets of slots
 * take turns, so that one barrier per call is enough: a warp that writes a set again has passed the barrier of the call
 * between, which no warp reaches before it has read the set.
 */
template <typename Operation, int N>
class RowReduction {
 public:
  /** `row_threads`: a power of two up to 32, or the block's threads. */
  Q4J_DEVICE explicit RowReduction(int row_threads) : slots_(block_shared<Slots>()), row_threads_(row_threads) {}

  Q4J_DEVICE void operator()(float (&value)[N]) {
    Q4J_UNROLL
    for (int i = 0; i < N; ++i) value[i] = reduce_lanes<Operation>(value[i], row_threads_);
    if (row_threads_ <= kWarp) return;
    float(&slot)[N][kWarp] = slots_.at[turn_];
    turn_ ^= 1;
    if (lane_index() == 0) {
      Q4J_UNROLL
      for (int i = 0; i < N; ++i) slot[i][warp_index()] = value[i];
    }
    block_barrier();
    Q4J_UNROLL
    for (int i = 0; i < N; ++i) {
      const float part = lane_index() < row_threads_ / kWarp ? slot[i][lane_index()] : Operation::kNothing;
      value[i] = reduce_lanes<Operation>(part, kWarp);
    }
  }

 private:
  struct Slots {
    float at[2][N][kWarp];
  };

  Slots& slots_;
  int row_threads_;
  int turn_ = 0;
};

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_SUPPORT_REDUCE_H_
