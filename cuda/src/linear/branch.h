// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** What the paths of a linear layer share about its LoRA branch and about how its rows lie. */
#ifndef QLORA4J_CUDA_LINEAR_BRANCH_H_
#define QLORA4J_CUDA_LINEAR_BRANCH_H_

#include <cmath>
#include <cstdint>

#include "qlora4j/types.h"

namespace q4j::cuda {

inline bool has_branch(const q4j_lora* lora) { return lora != nullptr && lora->rank > 0; }

/** Whether nothing of the branch is rounded below f32. */
inline bool is_exact(const q4j_lora& lora, int32_t dtype) { return lora.compute == Q4J_LORA_F32 || dtype == Q4J_F32; }

/** Whether a bf16 times s is a bf16 again, as far as the exponent goes. */
inline bool is_power_of_two(float s) {
  int exponent = 0;
  return std::fabs(std::frexp(s, &exponent)) == 0.5f;
}

/** Whether all rows of a bf16 matrix begin at a multiple of 16 bytes. A NULL is taken for aligned. */
inline bool is_wide(const void* pointer, int64_t ld) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && ld % 8 == 0; }

/**
 * Which bf16 part (bf16_part.h) of each factor the groups of branch columns hold: nibble g for group g. An array would be
 * indexed at run time, which moves the whole argument struct from constant to local memory.
 */
struct BranchParts {
  int32_t groups; /* 0: no branch */
  uint32_t of_activation;
  uint32_t of_weight;
};

/**
 * The parts that the branch's mode asks for. `times_s`: the weight's side holds the factor times s, which takes a second part
 * in the fast mode unless s is a power of two.
 */
inline BranchParts branch_parts(const q4j_lora* lora, bool times_s) {
  if (!has_branch(lora)) return {0, 0, 0};
  if (lora->compute == Q4J_LORA_F32) return {3, 0x130, 0x310};
  return times_s && !is_power_of_two(lora->s) ? BranchParts{2, 0x30, 0x10} : BranchParts{1, 0, 0};
}

/** f32 factor [.., rank] or [rank, ..] of the branch on the weight's side. */
struct BranchFactor {
  const float* values;
  float s;
  int32_t rank;
  bool rounds; /* the factor is rounded to bf16 before it is multiplied by s */
};

/** `values`: b or a. Without a branch a factor that nobody reads, of a rank that may be divided by. */
inline BranchFactor branch_factor(const q4j_lora* lora, const void* values) {
  if (!has_branch(lora)) return {nullptr, 0.0f, 1, false};
  return {static_cast<const float*>(values), lora->s, lora->rank, lora->compute == Q4J_LORA_FAST};
}

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_LINEAR_BRANCH_H_
