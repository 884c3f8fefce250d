// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The operator: workspace, arguments, and which rung runs. */
#include "quantize_4bit/quantize_4bit.h"

#include "error.h"
#include "pack/operators.h"
#include "quant.h"

namespace q4j::cuda {

namespace {

/** f32 absmax of all blocks, then the partial sums on the next multiple of 256 bytes. */
int64_t sums_offset(int64_t blocks) { return ceil_div(blocks * 4, 256) * 256; }

}  // namespace

q4j_status quantize_4bit_workspace_size(q4j_pack_context*, const q4j_quantize_4bit_params* params, int64_t* bytes) {
  *bytes = 0;
  if (params->nested_block_size > 0) {
    const int64_t blocks = ceil_div(params->n, params->block_size);
    *bytes = sums_offset(blocks) + ceil_div(blocks, kSumChunk) * 8;
  }
  return Q4J_OK;
}

q4j_status quantize_4bit(q4j_pack_context* context, const q4j_quantize_4bit_params* params) {
  const bool nested = params->nested_block_size > 0;
  if (params->n == 0) return nested ? fill(context, params->nested_offset, 0, 4) : Q4J_OK;
  Quantize4Bit arguments = {};
  arguments.input = params->input;
  arguments.packed = static_cast<uint8_t*>(params->packed);
  arguments.n = params->n;
  arguments.blocks = ceil_div(params->n, params->block_size);
  arguments.format = params->format;
  arguments.dtype = params->dtype;
  arguments.block_size = params->block_size;
  arguments.block_shift = __builtin_ctz(static_cast<unsigned>(params->block_size));
  arguments.nested_block_size = params->nested_block_size;
  if (nested) {
    auto* workspace = static_cast<unsigned char*>(params->workspace);
    arguments.absmax = reinterpret_cast<float*>(workspace);
    arguments.partial_sums = reinterpret_cast<double*>(workspace + sums_offset(arguments.blocks));
    arguments.absmax_codes = static_cast<uint8_t*>(params->absmax);
    arguments.nested_absmax = static_cast<float*>(params->nested_absmax);
    arguments.nested_offset = static_cast<float*>(params->nested_offset);
    arguments.sum_chunks = ceil_div(arguments.blocks, kSumChunk);
    arguments.nested_blocks = ceil_div(arguments.blocks, params->nested_block_size);
  } else {
    arguments.absmax = static_cast<float*>(params->absmax);
  }
  switch (context->rungs.quantize_4bit) {
    case 1:
      return quantize_4bit_1(*context, arguments);
    case 3:
      // Without double quantization there is nothing to wait for, and rung 2 is one launch already.
      if (nested && context->cooperative) return quantize_4bit_3(*context, arguments);
      return quantize_4bit_2(*context, arguments);
    default:
      return quantize_4bit_2(*context, arguments);
  }
}

}  // namespace q4j::cuda
