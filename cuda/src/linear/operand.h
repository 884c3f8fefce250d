// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The factors of a product, as they lie in memory, and the general way to read them: eight elements, whatever the type,
 * alignment and place. Rung 1 reads nothing else; rung 2 falls back to it for operands that are not `wide`.
 */
#ifndef QLORA4J_CUDA_LINEAR_OPERAND_H_
#define QLORA4J_CUDA_LINEAR_OPERAND_H_

#include <cstdint>

#include "pack_weight/packed_values.h"
#include "support/codes.h"
#include "support/dropout.h"
#include "support/e4m3.h"
#include "support/elements.h"
#include "support/int8.h"

namespace q4j::cuda {

enum class Elements : int32_t { kF32, kBf16, kF16, kFourBit, kPackedTiles, kInt8, kFp8 };

/** A row-major matrix of values. */
struct Operand {
  const void* data;
  int64_t rows;
  int64_t cols;
  int64_t ld; /* elements between two rows; quantized: cols */
  Elements elements;
  bool wide;   /* rows consist of pieces of 16 bytes (4-bit: of 32 codes) that are aligned to 16 bytes */
  bool rounds; /* values count rounded to bf16 */
  // Quantized.
  const void* absmax;         /* 4-bit, packed tiles: f32 per block, or u8 codes when nested; INT8, FP8: f32 per row */
  const float* nested_absmax; /* or NULL */
  float nested_offset;
  int32_t nested_shift; /* log2 of the nested block size */
  int32_t block_shift;  /* log2 of the block size */
  float values[16];     /* of the 4-bit codes */
};

/** f32, bf16 or f16 elements, which count as they are. */
Operand dense_operand(const void* data, int32_t dtype, int64_t rows, int64_t cols, int64_t ld);

/** What the elements of a weight are. */
Elements elements_of(const q4j_weight& weight);

/** A weight, of a packed one the tiles; `rounds`: for products in bf16. */
Operand weight_operand(const q4j_weight& weight, bool rounds);

/** absmax of a 4-bit block. */
Q4J_DEVICE float block_absmax(const Operand& operand, int64_t block) {
  if (operand.nested_absmax == nullptr) return load_read_only(static_cast<const float*>(operand.absmax) + block);
  const uint8_t code = load_read_only(static_cast<const uint8_t*>(operand.absmax) + block);
  const float nested = load_read_only(operand.nested_absmax + (block >> operand.nested_shift));
  return add(multiply(signed_map.at[code], nested), operand.nested_offset);
}

struct EightValues {
  float at[kEight];
};

/** Of a dense matrix: the elements at `col` to `col` + 7 of a row that exists, 0 at cols and beyond. */
template <typename T>
Q4J_DEVICE EightValues read_dense(const Operand& operand, int64_t row, int64_t col) {
  const auto eight = load_eight(static_cast<const T*>(operand.data) + row * operand.ld, col, operand.cols, operand.wide);
  EightValues result;
  Q4J_UNROLL
  for (int i = 0; i < kEight; ++i) result.at[i] = element(eight, i);
  return result;
}

/** The same of a 4-bit one. The smallest block has 32 elements, so eight lie in two blocks at most. */
Q4J_DEVICE EightValues read_four_bit(const Operand& operand, int64_t row, int64_t col) {
  const int64_t first = row * operand.cols + col;
  const int64_t last = first + (col + kEight <= operand.cols ? kEight : operand.cols - col) - 1;
  const int64_t block = first >> operand.block_shift;
  const int64_t last_block = last >> operand.block_shift;
  const float absmax = block_absmax(operand, block);
  const float last_absmax = last_block == block ? absmax : block_absmax(operand, last_block);
  EightValues result;
  Q4J_UNROLL
  for (int i = 0; i < kEight; ++i) {
    const int64_t at = first + i;
    result.at[i] = 0.0f;
    if (at <= last) {
      const uint32_t byte = load_read_only(static_cast<const uint8_t*>(operand.data) + (at >> 1));
      const float value = operand.values[(at & 1) == 0 ? byte >> 4 : byte & 15u];
      result.at[i] = multiply(value, (at >> operand.block_shift) == block ? absmax : last_absmax);
    }
  }
  return result;
}

/** The same of a packed one. Eight columns are a nibble of each half of a word in each of four lanes. */
Q4J_DEVICE EightValues read_packed(const Operand& operand, int64_t row, int64_t col) {
  const CodePlace place = place_in_tiles(operand.cols / kTileCols, row, col);
  const int64_t row_blocks = operand.cols >> operand.block_shift;
  const int64_t block = col >> operand.block_shift;
  const int64_t at = absmax_in_tiles(row_blocks, row, block);
  float absmax;
  if (operand.nested_absmax == nullptr) {
    absmax = load_read_only(static_cast<const float*>(operand.absmax) + at);
  } else {
    const uint8_t code = load_read_only(static_cast<const uint8_t*>(operand.absmax) + at);
    const int64_t nested = (row * row_blocks + block) >> operand.nested_shift;
    absmax = add(multiply(signed_map.at[code], load_read_only(operand.nested_absmax + nested)), operand.nested_offset);
  }
  EightValues result;
  Q4J_UNROLL
  for (int t = 0; t < 4; ++t) {
    const uint8_t* byte = static_cast<const uint8_t*>(operand.data) + place.byte + t * 16;
    result.at[2 * t] = multiply(operand.values[load_read_only(byte) >> place.shift & 15], absmax);
    result.at[2 * t + 1] = multiply(operand.values[load_read_only(byte + 2) >> place.shift & 15], absmax);
  }
  return result;
}

/** Values of eight codes of an INT8 or FP8 row. */
Q4J_DEVICE EightValues rowwise_values(const Operand& operand, const Words2& codes, float scale) {
  const bool int8 = operand.elements == Elements::kInt8;
  EightValues result;
  Q4J_UNROLL
  for (int w = 0; w < 2; ++w) {
    float code[4];
    if (int8) {
      decode_int8_four(codes.word[w], code);
    } else {
      decode_e4m3_four(codes.word[w], code);
    }
    Q4J_UNROLL
    for (int i = 0; i < 4; ++i) result.at[4 * w + i] = int8 ? int8_value(code[i], scale) : multiply(code[i], scale);
  }
  return result;
}

/** The same as read_dense of an INT8 or FP8 one. */
Q4J_DEVICE EightValues read_rowwise(const Operand& operand, int64_t row, int64_t col) {
  const auto* codes = static_cast<const uint8_t*>(operand.data) + row * operand.cols;
  EightValues result = rowwise_values(operand, load_eight_bytes(codes, col, operand.cols, operand.wide),
                                      load_read_only(static_cast<const float*>(operand.absmax) + row));
  Q4J_UNROLL
  for (int i = 0; i < kEight; ++i) {
    if (col + i >= operand.cols) result.at[i] = 0.0f;  // the scale may be no number
  }
  return result;
}

/** The same of any matrix, and 0 also where it has no such row. `col` is a multiple of 8. */
Q4J_DEVICE EightValues read_eight(const Operand& operand, int64_t row, int64_t col) {
  EightValues result;
  if (row >= operand.rows || col >= operand.cols) {
    Q4J_UNROLL
    for (int i = 0; i < kEight; ++i) result.at[i] = 0.0f;
    return result;
  }
  switch (operand.elements) {
    case Elements::kF32:
      result = read_dense<float>(operand, row, col);
      break;
    case Elements::kBf16:
      result = read_dense<bf16>(operand, row, col);
      break;
    case Elements::kF16:
      result = read_dense<f16>(operand, row, col);
      break;
    case Elements::kFourBit:
      result = read_four_bit(operand, row, col);
      break;
    case Elements::kPackedTiles:
      result = read_packed(operand, row, col);
      break;
    default:
      result = read_rowwise(operand, row, col);
      break;
  }
  if (operand.rounds) {
    Q4J_UNROLL
    for (int i = 0; i < kEight; ++i) result.at[i] = widen(narrow<bf16>(result.at[i]));
  }
  return result;
}

/** Eight values rounded to bf16, in the order of memory. */
Q4J_DEVICE Words4 narrow_eight(const EightValues& values) {
  return {{narrow_pair<bf16>(values.at[0], values.at[1]), narrow_pair<bf16>(values.at[2], values.at[3]),
           narrow_pair<bf16>(values.at[4], values.at[5]), narrow_pair<bf16>(values.at[6], values.at[7])}};
}

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_LINEAR_OPERAND_H_
