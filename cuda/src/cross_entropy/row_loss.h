// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Loss of a row, and the factors of its gradient, from the row's sums. */
#ifndef QLORA4J_CUDA_CROSS_ENTROPY_ROW_LOSS_H_
#define QLORA4J_CUDA_CROSS_ENTROPY_ROW_LOSS_H_

#include "cross_entropy/cross_entropy.h"
#include "support/device.h"

namespace q4j::cuda {

/** Label of rows that have no loss. */
constexpr int32_t kIgnoredLabel = -100;

/** What a row's passes found. */
struct RowSums {
  float largest;      /* logit */
  float exponentials; /* sum of e^(logit - largest) */
  float total;        /* sum of the logits */
};

Q4J_DEVICE bool is_class(const CrossEntropy& c, int32_t label) { return label >= 0 && label < c.n; }

/** `own`: the label's logit. Differences from the largest logit first: lse itself would round at the size of the logits. */
Q4J_DEVICE float row_loss(const CrossEntropy& c, const RowSums& sums, float own) {
  const float log_sum = logarithm(sums.exponentials);
  float loss = (1.0f - c.smoothing) * ((sums.largest - own) + log_sum);
  // Terms that are switched off must not turn a logit of -infinity (a masked class) into 0 * infinity.
  if (c.smoothing != 0.0f) {
    loss += c.smoothing * ((sums.largest - sums.total / static_cast<float>(c.n)) + log_sum);
  }
  if (c.z_loss != 0.0f) {
    const float log_sum_exp = sums.largest + log_sum;
    loss += c.z_loss * log_sum_exp * log_sum_exp;
  }
  return loss;
}

/** 2 z_loss log(sum(exp(logits))): what the z-loss adds to the softmax's factor of 1. */
Q4J_DEVICE float z_loss_factor(const CrossEntropy& c, const RowSums& sums) {
  return c.z_loss == 0.0f ? 0.0f : 2.0f * c.z_loss * (sums.largest + logarithm(sums.exponentials));
}

/** dlogits[j] = e^(logits[j] - largest) * factor - shift for all classes but the label. */
struct RowGradient {
  float factor;
  float shift;

  Q4J_DEVICE float of(float exponential_of_distance) const { return multiply_add(exponential_of_distance, factor, -shift); }
};

Q4J_DEVICE RowGradient row_gradient(const CrossEntropy& c, const RowSums& sums, int32_t label) {
  const float factor = c.scale * (1.0f + z_loss_factor(c, sums)) / sums.exponentials;
  return {is_class(c, label) ? factor : bits_float(0x7fffffffu), c.scale * c.smoothing / static_cast<float>(c.n)};
}

/** The label's: p - 1 first, so that a probability near 1 leaves what is left of it and not the roundoff of 1. */
Q4J_DEVICE float label_gradient(const CrossEntropy& c, const RowSums& sums, float exponential_of_distance) {
  const float p = divide(exponential_of_distance, sums.exponentials);
  const float smoothed = c.smoothing - c.smoothing / static_cast<float>(c.n);
  return c.scale * ((p - 1.0f) + p * z_loss_factor(c, sums) + smoothed);
}

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_CROSS_ENTROPY_ROW_LOSS_H_
