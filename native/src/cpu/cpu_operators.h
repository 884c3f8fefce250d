// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The operators of the CPU packs: q4j::cpu::<operator> and, where it needs scratch memory, <operator>_workspace_size, with the
 * meaning of operators.h. The loader has checked the arguments.
 */
#ifndef QLORA4J_SRC_CPU_CPU_OPERATORS_H_
#define QLORA4J_SRC_CPU_CPU_OPERATORS_H_

#include "qlora4j/pack.h"

namespace q4j::cpu {

// Weak: an operator that no source file defines is a null entry of the table, which the loader reports as unsupported.
#define Q4J_DECLARE_OPERATOR(name) \
  __attribute__((weak)) q4j_status name(q4j_pack_context* context, const q4j_##name##_params* params);
#define Q4J_DECLARE_WORKSPACE(name) \
  __attribute__((weak))             \
  q4j_status name##_workspace_size(q4j_pack_context* context, const q4j_##name##_params* params, int64_t* bytes);

Q4J_FOR_EACH_OPERATOR(Q4J_DECLARE_OPERATOR)
Q4J_FOR_EACH_WORKSPACE(Q4J_DECLARE_WORKSPACE)

#undef Q4J_DECLARE_OPERATOR
#undef Q4J_DECLARE_WORKSPACE

/** q4j_measure; weak for the same reason. */
__attribute__((weak)) q4j_status measure(q4j_pack_context* context, int32_t limit, const void* memory, int64_t bytes,
                                         double* per_second);

}  // namespace q4j::cpu

#endif  // QLORA4J_SRC_CPU_CPU_OPERATORS_H_
