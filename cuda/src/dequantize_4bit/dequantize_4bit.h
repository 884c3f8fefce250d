// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * dequantize_4bit: NF4 and FP4 with plain or double-quantized absmax, in one launch. docs/kernels/quantize-4bit.md has the
 * format and the ladder.
 *
 * Launch contract
 *   packed         u8[(n+1)/2]; any alignment (16 bytes is fast)
 *   absmax         f32[blocks], or u8 codes[blocks] with nested_absmax f32[ceil(blocks / nested_block_size)] and nested_offset
 *   output         T[n], T = f32, bf16 or f16; any alignment (16 bytes is fast)
 *   block_size     32 to 4096, a power of two; nested_block_size any positive number
 * output[i] = rounded to T(value[code] * absmax), absmax = map[code] * nested_absmax + nested_offset: every operation rounded
 * on its own, so all rungs give the reference's bits (a NaN result is NaN, with the device's payload).
 *
 * Rungs
 *   1 one thread per byte, every table in global memory, the block's absmax worked out again for every byte. Also runs,
 *     whatever was chosen, when the nested block size is not a power of two (the loader lets none through): a division per
 *     absmax would double the code of the others.
 *   2 one thread per 32 codes: one 16-byte load, tables in shared memory, absmax once per thread, 16-byte stores that are
 *     64 bytes (f32: 128) apart between neighbouring threads.
 *   3 one thread per 8 codes, four of them in flight: a warp's loads (4 bytes per thread) and stores (16 bytes per thread;
 *     f32: two) each cover one contiguous piece of memory.
 */
#ifndef QLORA4J_CUDA_DEQUANTIZE_4BIT_H_
#define QLORA4J_CUDA_DEQUANTIZE_4BIT_H_

#include <cstdint>

#include "pack/context.h"

namespace q4j::cuda {

struct Dequantize4Bit {
  const uint8_t* packed;
  const void* absmax;         /* u8 codes when nested_absmax is given, else f32 */
  const float* nested_absmax; /* or NULL */
  float nested_offset;
  void* output;
  int64_t n;
  int32_t format;
  int32_t dtype;
  int32_t block_shift;       /* log2 of the block size */
  int32_t nested_shift;      /* log2 of the nested block size, or -1 */
  int32_t nested_block_size; /* 0: absmax is f32 */
};

/** What the kernels need of a canonical weight; output and dtype are left to the caller. */
Dequantize4Bit dequantize_arguments(const q4j_weight& weight);

q4j_status dequantize_4bit_1(const q4j_pack_context& context, const Dequantize4Bit& arguments);
q4j_status dequantize_4bit_2(const q4j_pack_context& context, const Dequantize4Bit& arguments);
q4j_status dequantize_4bit_3(const q4j_pack_context& context, const Dequantize4Bit& arguments);

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_DEQUANTIZE_4BIT_H_
