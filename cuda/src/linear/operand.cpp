// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#include "linear/operand.h"

#include "half.h"
#include "linear/packed_tiles.h"
#include "pack_weight/packed_layout.h"

namespace q4j::cuda {

namespace {

constexpr int64_t kPiece = 16; /* bytes */

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % kPiece == 0; }

/** log2 of a block size, which is a power of two. */
int32_t shift_of(int32_t size) { return __builtin_ctz(static_cast<unsigned>(size)); }

}  // namespace

Operand dense_operand(const void* data, int32_t dtype, int64_t rows, int64_t cols, int64_t ld) {
  Operand operand = {};
  operand.data = data;
  operand.rows = rows;
  operand.cols = cols;
  operand.ld = ld;
  operand.elements = dtype == Q4J_F32 ? Elements::kF32 : dtype == Q4J_BF16 ? Elements::kBf16 : Elements::kF16;
  const int64_t bytes = dtype_bytes(dtype);
  operand.wide = aligned(data) && cols * bytes % kPiece == 0 && ld * bytes % kPiece == 0;
  return operand;
}

Elements elements_of(const q4j_weight& weight) {
  switch (weight.format) {
    case Q4J_WEIGHT_NF4:
    case Q4J_WEIGHT_FP4:
      return weight.layout == Q4J_LAYOUT_PACKED && packed_layout(weight).tiles ? Elements::kPackedTiles : Elements::kFourBit;
    case Q4J_WEIGHT_INT8:
      return Elements::kInt8;
    case Q4J_WEIGHT_FP8:
      return Elements::kFp8;
    default:
      return weight.dtype == Q4J_F32 ? Elements::kF32 : weight.dtype == Q4J_BF16 ? Elements::kBf16 : Elements::kF16;
  }
}

Operand weight_operand(const q4j_weight& weight, bool rounds) {
  Operand operand = {};
  operand.elements = elements_of(weight);
  switch (operand.elements) {
    case Elements::kFourBit:
    case Elements::kPackedTiles: {
      const std::array<float, 16>& values = weight.format == Q4J_WEIGHT_FP4 ? fp4_values : nf4_values;
      for (size_t i = 0; i < values.size(); ++i) operand.values[i] = values[i];
      operand.absmax = weight.absmax;
      operand.block_shift = shift_of(weight.block_size);
      if (weight.nested_block_size > 0) {
        operand.nested_absmax = static_cast<const float*>(weight.nested_absmax);
        operand.nested_offset = weight.nested_offset;
        operand.nested_shift = shift_of(weight.nested_block_size);
      }
      if (operand.elements == Elements::kPackedTiles) {
        const PackedTiles tiles = tiles_of(weight);
        operand.absmax = tiles.absmax;
        operand.nested_absmax = tiles.nested_absmax;
      }
      operand.wide = aligned(weight.data) && weight.cols % 32 == 0 && weight.rows * (weight.cols / 32) <= 0x7fffffff;
      break;
    }
    case Elements::kInt8:
    case Elements::kFp8:
      operand.absmax = weight.absmax;
      operand.wide = aligned(weight.data) && weight.cols % kPiece == 0;
      break;
    default:
      operand = dense_operand(weight.data, weight.dtype, weight.rows, weight.cols, weight.ld);
  }
  operand.data = weight.data;
  operand.rows = weight.rows;
  operand.cols = weight.cols;
  if (weight.format != Q4J_WEIGHT_DENSE) operand.ld = weight.cols;
  operand.rounds = rounds;
  return operand;
}

}  // namespace q4j::cuda
