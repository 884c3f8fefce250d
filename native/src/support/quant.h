// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Scalar pieces of the quantized formats that every CPU pack shares, so that rounding is decided in one place.
 *
 * Compile with -ffp-contract=off: the double-quantized absmax is a multiply and an add, each rounded, never a fused
 * multiply-add.
 */
#ifndef QLORA4J_SUPPORT_QUANT_H_
#define QLORA4J_SUPPORT_QUANT_H_

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "half.h"
#include "qlora4j/types.h"
#include "tables.h"

namespace q4j {

/** Quotient rounded up; divisor > 0. */
static inline int64_t ceil_div(int64_t value, int64_t divisor) { return value / divisor + (value % divisor != 0 ? 1 : 0); }

static inline bool is_4bit(int32_t format) { return format == Q4J_WEIGHT_NF4 || format == Q4J_WEIGHT_FP4; }

static inline const std::array<float, 16>& values_4bit(int32_t format) {
  return format == Q4J_WEIGHT_FP4 ? fp4_values : nf4_values;
}

/**
 * The 4-bit code of an element scaled to [-1, 1]: the nearest value, the lower one on a midpoint. NaN gives the lowest value's
 * code. Values beyond the range need no clamp: they lie beyond the last threshold.
 */
static inline uint8_t code_4bit(int32_t format, float scaled) {
  const bool fp4 = format == Q4J_WEIGHT_FP4;
  const std::array<float, 15>& midpoints = fp4 ? fp4_midpoints : nf4_midpoints;
  unsigned rank = 0;
  for (const float midpoint : midpoints) rank += scaled > midpoint ? 1u : 0u;
  return fp4 ? fp4_codes_by_value[rank] : static_cast<uint8_t>(rank);
}

/** The code of element `index`: the even element sits in the high nibble. */
static inline unsigned nibble(const uint8_t* packed, int64_t index) {
  const unsigned byte = packed[index >> 1];
  return (index & 1) == 0 ? byte >> 4 : byte & 15u;
}

/** |a| where it is larger than m, or NaN; so a block with a NaN has a NaN absmax. */
static inline float absmax_of(float m, float a) {
  const float magnitude = std::fabs(a);
  return magnitude > m || std::isnan(magnitude) ? magnitude : m;
}

/** The 8-bit code of a scaled value: exact nearest in the map, ties to the lower index. NaN gives code 0. */
static inline uint8_t code_8bit(const std::array<float, 255>& thresholds, float x) {
  std::size_t code = 0;  // number of thresholds below x, by halving steps
  for (std::size_t step = 128; step > 0; step >>= 1) {
    if (x > thresholds[code + step - 1]) code += step;
  }
  return static_cast<uint8_t>(code);
}

/** The 8-bit code of x in a block with this absmax. An all-zero block holds the code of 0, not that of 0 / 0. */
static inline uint8_t code_8bit_of_block(const std::array<float, 255>& thresholds, float x, float absmax) {
  return code_8bit(thresholds, absmax == 0.0f ? 0.0f : x / absmax);
}

/** absmax of block `block` of a 4-bit weight. */
static inline float dequantized_absmax(const q4j_weight& weight, int64_t block) {
  if (weight.nested_block_size == 0) return static_cast<const float*>(weight.absmax)[block];
  const uint8_t code = static_cast<const uint8_t*>(weight.absmax)[block];
  const float product =
      dynamic_signed_map[code] * static_cast<const float*>(weight.nested_absmax)[block / weight.nested_block_size];
  return product + weight.nested_offset;
}

/** Element `index` of the row-major flattening of a 4-bit weight, in f32. */
static inline float dequantized_4bit(const q4j_weight& weight, int64_t index) {
  const float value = values_4bit(weight.format)[nibble(static_cast<const uint8_t*>(weight.data), index)];
  return value * dequantized_absmax(weight, index / weight.block_size);
}

}  // namespace q4j

#endif  // QLORA4J_SUPPORT_QUANT_H_
