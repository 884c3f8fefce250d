// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** A value as a sum of bf16 numbers, for products on tensor cores that must not round a factor to bf16. */
#ifndef QLORA4J_CUDA_LINEAR_BF16_PART_H_
#define QLORA4J_CUDA_LINEAR_BF16_PART_H_

#include "support/codes.h"
#include "support/elements.h"

namespace q4j::cuda {

/** The bf16 part of a value: 0 its nearest bf16, then what each part left over. An infinity has no further parts. */
Q4J_DEVICE float bf16_part(float value, int part) {
  float rest = value;
  float taken = widen(narrow<bf16>(rest));
  Q4J_NO_UNROLL
  for (int i = 0; i < part; ++i) {
    rest = absolute(taken) == kInfinity ? 0.0f : subtract(rest, taken);
    taken = widen(narrow<bf16>(rest));
  }
  return taken;
}

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_LINEAR_BF16_PART_H_
