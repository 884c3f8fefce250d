// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** A value as a sum of bf16 numbers, for products on tensor cores that must not round a factor to bf16. */
#ifndef QLORA4J_CUDA_LINEAR_BF16_PART_H_
#define QLORA4J_CUDA_LINEAR_BF16_PART_H_

#include "support/codes.h"
#include "support/elements.h"

namespace q4j::cuda {

/**
 * Which part of a factor a group of products takes: 0 the nearest bf16, 1 what that left over; kFiniteHead is part 0 of finite
 * values and 0 of others. Products of parts beside the first take it, because an infinity times a left-over part of either sign
 * would make a NaN of an infinite sum.
 */
constexpr int kFiniteHead = 3;

Q4J_DEVICE float bf16_part(float value, int part) {
  const float head = widen(narrow<bf16>(value));
  const bool finite = absolute(head) < kInfinity;
  if (part == 0) return head;
  if (!finite) return 0.0f;
  return part == kFiniteHead ? head : widen(narrow<bf16>(subtract(value, head)));
}

/** Part 0, 1 or 2 of a value that is added as such: three hold all of an f32. */
Q4J_DEVICE float bf16_term(float value, int part) {
  const float head = bf16_part(value, 0);
  if (part == 0) return head;
  const float second = bf16_part(value, 1);
  return part == 1 ? second : bf16_part(subtract(value, head), 1);
}

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_LINEAR_BF16_PART_H_
