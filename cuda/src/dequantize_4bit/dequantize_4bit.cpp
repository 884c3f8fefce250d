// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The operator: arguments, and which rung runs. */
#include "dequantize_4bit/dequantize_4bit.h"

#include "pack/operators.h"

namespace q4j::cuda {

namespace {

/** log2 of a power of two; -1 for other numbers. */
int32_t shift_of(int32_t size) {
  return size > 0 && (size & (size - 1)) == 0 ? __builtin_ctz(static_cast<unsigned>(size)) : -1;
}

}  // namespace

Dequantize4Bit dequantize_arguments(const q4j_weight& weight) {
  Dequantize4Bit arguments = {};
  arguments.packed = static_cast<const uint8_t*>(weight.data);
  arguments.absmax = weight.absmax;
  arguments.n = weight.rows * weight.cols;
  arguments.format = weight.format;
  arguments.block_shift = shift_of(weight.block_size);
  if (weight.nested_block_size > 0) {
    arguments.nested_absmax = static_cast<const float*>(weight.nested_absmax);
    arguments.nested_offset = weight.nested_offset;
    arguments.nested_block_size = weight.nested_block_size;
    arguments.nested_shift = shift_of(weight.nested_block_size);
  }
  return arguments;
}

q4j_status dequantize_4bit(q4j_pack_context* context, const q4j_dequantize_4bit_params* params) {
  Dequantize4Bit arguments = dequantize_arguments(*params->weight);
  arguments.output = params->output;
  arguments.dtype = params->dtype;
  const bool by_shift = arguments.nested_block_size == 0 || arguments.nested_shift >= 0;
  switch (by_shift ? context->rungs.dequantize_4bit : 1) {
    case 1:
      return dequantize_4bit_1(*context, arguments);
    case 2:
      return dequantize_4bit_2(*context, arguments);
    default:
      return dequantize_4bit_3(*context, arguments);
  }
}

}  // namespace q4j::cuda
