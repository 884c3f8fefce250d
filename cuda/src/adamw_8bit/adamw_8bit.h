// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * adamw_8bit: one AdamW step over many f32 tensors whose moments are 8-bit codes of the dynamic maps.
 *
 * Launch contract
 *   parameters                                f32[length] each, updated; any alignment to 4 bytes (16 is fast)
 *   gradients                                 f32[length], read; the same
 *   first_moment_codes, second_moment_codes   u8[length], updated; any alignment (4 bytes are fast)
 *   first_moment_absmax, second_moment_absmax f32[ceil(length / block_size)], updated; aligned to 4 bytes
 *   block_size                                32 to 4096, a power of two; blocks count from the start of each tensor
 * Tensors may be empty, and none may overlap. Every operation is rounded on its own, in the order operators.h gives, so codes,
 * absmax and parameters are the reference's bits. A NaN moment does not count towards absmax and gets code 0.
 *
 * Rungs
 *   1 one thread per block of moments, a launch per tensor, binary searches in global memory.
 *   2 one launch for 480 tensors, one warp per block of moments, 4 elements per lane and step, codes by moment_codes.h.
 *     Blocks up to 256 are read once. Larger ones are read twice but for the parameter, because a moment's code needs the
 *     largest of its block.
 *
 * Moves 16 bytes per element and 16 per block: 10 in, 6 out. That is 7/4 of adamw's elements in the same time, each with about
 * twice the instructions, so unlike adamw it is not far from the rate at which a multiprocessor issues them.
 */
#ifndef QLORA4J_CUDA_ADAMW_8BIT_ADAMW_8BIT_H_
#define QLORA4J_CUDA_ADAMW_8BIT_ADAMW_8BIT_H_

#include <cstdint>

#include "pack/context.h"
#include "support/device.h"
#include "support/division.h"
#include "support/tensor_list.h"

namespace q4j::cuda {

constexpr int kThreads8 = 256;

struct Slot8 {
  float* parameter;
  const float* gradient;
  uint8_t* codes[2]; /* of the first and the second moment */
  float* absmax[2];
  int64_t length;
  float decay; /* 1 - learning_rate * weight_decay */
};

/** What all elements of a step share. */
struct Step8 {
  float beta1;
  float rest1; /* 1 - beta1 */
  float beta2;
  float rest2;
  float step_size; /* learning_rate / (1 - beta1^t) */
  float root;      /* sqrt(1 - beta2^t), at most 1 */
  float root_reciprocal;
  float eps;
  float gradient_scale;
  int32_t block_size;
  int32_t block_shift; /* log2(block_size) */
  int32_t share;       /* elements of a tile that one warp takes: whole blocks */
};

constexpr int kTensors8 = tensor_capacity<Slot8>(sizeof(Step8));

struct AdamW8 {
  Step8 step;
  TensorList<Slot8, kTensors8> tensors;
};
static_assert(sizeof(AdamW8) <= kParameterBytes, "fits the parameters of a kernel");
static_assert(kTensors8 == 480, "tensor_list.h, docs/kernels/adamw-8bit.md");

/** Both moments after a gradient, from what the codes stood for. */
Q4J_DEVICE void advance(const Step8& s, float gradient, float& first, float& second) {
  const float g = multiply(gradient, s.gradient_scale);
  first = add(multiply(s.beta1, first), multiply(s.rest1, g));
  second = add(multiply(s.beta2, second), multiply(s.rest2, multiply(g, g)));
}

/** The parameter after a step with these moments. `quotient` is sqrt(second) / root. */
Q4J_DEVICE float stepped(const Step8& s, float decay, float parameter, float first, float quotient) {
  const float step = multiply(s.step_size, divide(first, add(quotient, s.eps)));
  return subtract(multiply(parameter, decay), step);
}

q4j_status adamw_8bit_1(const q4j_pack_context& context, const Step8& step, const Slot8& slot);
q4j_status adamw_8bit_2(const q4j_pack_context& context, const AdamW8& arguments);

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_ADAMW_8BIT_ADAMW_8BIT_H_
