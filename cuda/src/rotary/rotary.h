// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * rotary: rotary position embedding, in place. docs/kernels/rotary.md has the formula.
 *
 * Launch contract
 *   x                    T, element (token, head, i) at token * token_stride + head * head_stride + i, T = f32 or bf16; any
 *                        alignment (16 bytes is fast). Heads of tokens do not overlap
 *   positions            i32[tokens]
 *   inverse_frequencies  f32[half], half = rotary_dim / 2
 * Elements from rotary_dim on are neither read nor written.
 *
 * Rungs
 *   1 one thread per token and pair, which works out cosine and sine once and turns the pair of every head. Also runs,
 *     whatever was chosen, where halves of heads are not whole vectors of 16 bytes, or half is above 1024.
 *   2 a block works out cosine and sine of its tokens' pairs, one per thread, into shared memory, and turns vectors of 16
 *     bytes.
 */
#ifndef QLORA4J_CUDA_ROTARY_H_
#define QLORA4J_CUDA_ROTARY_H_

#include <cstdint>

#include "pack/context.h"

namespace q4j::cuda {

struct Rotary {
  const int32_t* positions;
  const float* inverse_frequencies;
  void* x;
  int64_t tokens;
  int64_t heads;
  int64_t token_stride;
  int64_t head_stride;
  int32_t half;
  int32_t dtype;
  float attention_scale;
  bool inverse;
};

q4j_status rotary_1(const q4j_pack_context& context, const Rotary& arguments);
q4j_status rotary_2(const q4j_pack_context& context, const Rotary& arguments);

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_ROTARY_H_
