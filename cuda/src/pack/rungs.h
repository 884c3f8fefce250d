// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Which version of a kernel runs. Every operator keeps its versions as numbered rungs, the simplest first; this table holds the
 * choice. The environment variable Q4J_CUDA_RUNGS, read when a context is made, overrides it for tests and
 * benchmarks: "quantize_4bit=1,dequantize_4bit=2".
 */
#ifndef QLORA4J_CUDA_PACK_RUNGS_H_
#define QLORA4J_CUDA_PACK_RUNGS_H_

#include "qlora4j/types.h"

namespace q4j::cuda {

// X(operator, number of rungs, the rung that runs). Measured on an H200: docs/kernels has the ladders.
#define Q4J_FOR_EACH_RUNG(X)         \
  X(quantize_4bit, 3, 3)             \
  X(dequantize_4bit, 3, 3)           \
  X(quantize_8bit_blockwise, 2, 2)   \
  X(dequantize_8bit_blockwise, 2, 2) \
  X(quantize_int8_rowwise, 2, 2)     \
  X(dequantize_int8_rowwise, 2, 2)   \
  X(quantize_fp8_rowwise, 2, 2)      \
  X(dequantize_fp8_rowwise, 2, 2)    \
  X(pack_weight, 2, 2)               \
  X(unpack_weight, 2, 2)             \
  X(linear_forward_int8, 2, 2)       \
  X(linear_forward, 5, 5)            \
  X(linear_backward_input, 5, 5)     \
  X(lora_weight_gradient, 3, 3)      \
  X(linear_weight_gradient, 3, 3)    \
  X(gradient_norm, 2, 2)             \
  X(adamw, 2, 2)                     \
  X(adamw_8bit, 2, 2)                \
  X(rms_norm, 2, 2)                  \
  X(layer_norm, 2, 2)                \
  X(rotary, 2, 2)                    \
  X(activation, 2, 2)                \
  X(cross_entropy, 2, 2)             \
  X(linear_forward_small, 3, 2)      \
  X(linear_backward_input_small, 2, 2)

#define Q4J_DECLARE_RUNG(name, rungs, chosen) int name = chosen;
struct Rungs {
  Q4J_FOR_EACH_RUNG(Q4J_DECLARE_RUNG)
};
#undef Q4J_DECLARE_RUNG

/** Applies an override text to `rungs`; NULL and "" change nothing. Q4J_INVALID_ARGUMENT names what is not understood. */
q4j_status override_rungs(const char* text, Rungs* rungs);

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_PACK_RUNGS_H_
