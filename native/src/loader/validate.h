// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Checks of every operator's parameters, made once, before any pack sees them. */
#ifndef QLORA4J_LOADER_VALIDATE_H_
#define QLORA4J_LOADER_VALIDATE_H_

#include "qlora4j/pack.h"

namespace q4j::loader {

enum class Phase {
  measure,  // a workspace size is asked: device pointers may still be NULL
  run
};

/**
 * Q4J_INVALID_ARGUMENT with a text that names the operator, the field, what was expected and what was found, unless types,
 * shapes, leading dimensions, options and pointers are consistent. Contents of device memory are not looked at.
 */
#define Q4J_VALIDATE(name) q4j_status validate(const q4j_##name##_params& params, Phase phase);
Q4J_FOR_EACH_OPERATOR(Q4J_VALIDATE)
#undef Q4J_VALIDATE

}  // namespace q4j::loader

#endif  // QLORA4J_LOADER_VALIDATE_H_
