// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Mean and reciprocal deviation of a row from its sums, as both rungs make them. */
#ifndef QLORA4J_CUDA_LAYER_NORM_STATISTICS_H_
#define QLORA4J_CUDA_LAYER_NORM_STATISTICS_H_

#include "support/device.h"

namespace q4j::cuda {

struct RowStatistics {
  float mean; /* of the f32 sum */
  float rest; /* what it leaves: the row's mean is mean + rest */
  float rstd;

  /** u, normalized. */
  Q4J_DEVICE float normalize(float u) const { return (u - mean - rest) * rstd; }
};

/** `deviations` and `squares`: sums of u - mean and of its square. */
Q4J_DEVICE RowStatistics row_statistics(float mean, float deviations, float squares, int64_t n, float eps) {
  const auto count = static_cast<float>(n);
  float rest = deviations / count;
  // A mean that is infinite leaves NaN, and stays infinite.
  if (!(absolute(rest) < __builtin_huge_valf())) rest = 0.0f;
  // Not below zero where a constant row leaves roundoff alone.
  const float variance = maximum(squares / count - rest * rest, 0.0f);
  return {mean, rest, divide(1.0f, square_root(variance + eps))};
}

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_LAYER_NORM_STATISTICS_H_
