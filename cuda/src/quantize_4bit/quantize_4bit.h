// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * quantize_4bit: NF4 and FP4 in blocks, with double quantization. docs/kernels/quantize-4bit.md has the format and the ladder.
 *
 * Launch contract
 *   input          T[n], T = f32, bf16 or f16; any alignment (16 bytes is fast)
 *   packed         u8[(n+1)/2], two codes per byte, the even element in the high nibble; any alignment (4 bytes is fast)
 *   absmax         f32[blocks]: the ABI's output, or workspace when double quantization follows. blocks = ceil(n / block_size)
 *   absmax_codes   u8[blocks], with double quantization, as the next two
 *   nested_absmax  f32[ceil(blocks / nested_block_size)]
 *   nested_offset  f32[1]
 *   partial_sums   f64[ceil(blocks / kSumChunk)]: workspace
 *   block_size     32 to 4096, a power of two; nested_block_size any positive number
 *
 * Every output element is written. n = 0 launches nothing (the offset of no blocks is 0).
 *
 * The same bits as the reference pack: absmax is a maximum; the scaled element is x * (1 / absmax) in a full block and x /
 * absmax in the partial last one, each operation rounded; codes are an exact search. One value could differ: the offset, an f64
 * sum rounded once. Rung 1 adds from first to last, as the reference does. Rungs 2 and 3 add chunks of kSumChunk in an order
 * that depends on nothing but the number of blocks, so any grid and device gives the same. Every such sum is within
 * blocks * 2^-53 of the exact one (relative, the terms are not negative), so two of them round to different f32 only when
 * the exact mean lies within that distance of the middle between two f32: a chance below blocks * 2^-28 even if every addition
 * rounded as badly as it can. Mostly the sums are exact: f64 has 29 bits more than the terms, room for 2^29 equal exponents.
 *
 * Rungs
 *   1 one thread per block, then one thread for the offset, then one thread per nested block. Three launches.
 *   2 eight elements per thread, 16-byte loads, the maximum by shuffles, codes by buckets; two more launches for the absmax.
 *   3 rung 2 in one cooperative launch with two grid barriers between its parts.
 */
#ifndef QLORA4J_CUDA_QUANTIZE_4BIT_H_
#define QLORA4J_CUDA_QUANTIZE_4BIT_H_

#include <cstdint>

#include "pack/context.h"

namespace q4j::cuda {

/** Block maxima whose f64 sum one block of threads makes. */
constexpr int64_t kSumChunk = 4096;

struct Quantize4Bit {
  const void* input;
  uint8_t* packed;
  float* absmax;
  uint8_t* absmax_codes;
  float* nested_absmax;
  float* nested_offset;
  double* partial_sums;
  int64_t n;
  int64_t blocks;
  int64_t sum_chunks;
  int64_t nested_blocks;
  int32_t format;
  int32_t dtype;
  int32_t block_size;
  int32_t block_shift;       /* log2(block_size) */
  int32_t nested_block_size; /* 0: no double quantization */
};

q4j_status quantize_4bit_1(const q4j_pack_context& context, const Quantize4Bit& arguments);
q4j_status quantize_4bit_2(const q4j_pack_context& context, const Quantize4Bit& arguments);
q4j_status quantize_4bit_3(const q4j_pack_context& context, const Quantize4Bit& arguments);

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_QUANTIZE_4BIT_H_
