// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Code tables of the 4-bit and 8-bit formats, with the thresholds that decide between neighbouring codes. All are built at
 * compile time, so that no instruction set or rounding mode of the machine can change a bit of them.
 */
#ifndef QLORA4J_SUPPORT_TABLES_H_
#define QLORA4J_SUPPORT_TABLES_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace q4j {

/** NF4 values by code; ascending. bitsandbytes' table, given as the shortest decimals that name these f32. */
constexpr std::array<float, 16> nf4_values = {-1.0f,         -0.6961928f, -0.52507305f, -0.3949175f, -0.28444138f, -0.18477343f,
                                              -0.091050036f, 0.0f,        0.0795803f,   0.1609302f,  0.2461123f,   0.33791524f,
                                              0.44070983f,   0.562617f,   0.72295684f,  1.0f};

/** FP4 (E2M1 with bitsandbytes' subnormal) by code: sixths and twelfths of the largest value, bit 3 is the sign. Code 8 ("minus
 * zero") is +0. Not sorted. */
constexpr std::array<float, 16> fp4_values = {0.0f,         0.0052083333f, 0.6666667f,   1.0f,           0.33333333f, 0.5f,
                                              0.16666667f,  0.25f,         0.0f,         -0.0052083333f, -0.6666667f, -1.0f,
                                              -0.33333333f, -0.5f,         -0.16666667f, -0.25f};

/** FP4 codes by ascending value. Code 0 stands before code 8: bitsandbytes' CPU rule gives tiny positive values code 8. */
constexpr std::array<uint8_t, 16> fp4_codes_by_value = {11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3};

/** NF4 codes by ascending value. */
constexpr std::array<uint8_t, 16> nf4_codes_by_value = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/** (value[i] + value[i+1]) / 2 in f32 for values in ascending order. The rank of x is the number of midpoints m with x > m. */
static constexpr std::array<float, 15> midpoints_4bit(const std::array<float, 16>& values,
                                                      const std::array<uint8_t, 16>& codes_by_value) {
  std::array<float, 15> result{};
  for (std::size_t i = 0; i < 15; ++i) result[i] = (values[codes_by_value[i]] + values[codes_by_value[i + 1]]) / 2.0f;
  return result;
}

constexpr std::array<float, 15> nf4_midpoints = midpoints_4bit(nf4_values, nf4_codes_by_value);
constexpr std::array<float, 15> fp4_midpoints = midpoints_4bit(fp4_values, fp4_codes_by_value);

/** A block's absmax is not taken smaller than this when its elements are scaled. */
constexpr float smallest_absmax = 1e-38f;

/** The positive part of a dynamic 8-bit map: decades 10^-6 to 1, each cut into 2^i (signed) or 2^(i+1) (unsigned) equal parts
 * of [0.1, 1]. */
template <std::size_t Count>
static constexpr std::array<float, Count> dynamic_positive_values(bool is_signed) {
  // f32 powers of ten, as the scalar of a f32 multiplication would be rounded.
  constexpr float decades[7] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
  std::array<float, Count> result{};
  std::size_t at = 0;
  for (int i = 0; i < 7; ++i) {
    const int parts = 1 << (is_signed ? i : i + 1);
    const float step = (1.0f - 0.1f) / static_cast<float>(parts);
    float lower = 0.1f;
    for (int k = 0; k < parts; ++k) {
      // Boundaries count from the nearer end with one rounding, as torch.linspace does on a machine with fused multiply-add.
      const int next = k + 1;
      const double offset = static_cast<double>(step) * (next < (parts + 1) / 2 ? next : parts - next);
      const float upper = static_cast<float>(next < (parts + 1) / 2 ? static_cast<double>(0.1f) + offset : 1.0 - offset);
      result[at++] = decades[i] * ((lower + upper) / 2.0f);
      lower = upper;
    }
  }
  result[at] = 1.0f;
  return result;
}

static constexpr std::array<float, 256> make_dynamic_signed_map() {
  constexpr std::array<float, 128> positive = dynamic_positive_values<128>(true);
  std::array<float, 256> result{};
  for (std::size_t i = 0; i < 127; ++i) result[i] = -positive[126 - i];  // 1.0 has no negative twin
  result[127] = 0.0f;
  for (std::size_t i = 0; i < 128; ++i) result[128 + i] = positive[i];
  return result;
}

static constexpr std::array<float, 256> make_dynamic_unsigned_map() {
  constexpr std::array<float, 255> positive = dynamic_positive_values<255>(false);
  std::array<float, 256> result{};
  for (std::size_t i = 0; i < 255; ++i) result[i + 1] = positive[i];
  return result;
}

/** 127 negative values from -0.99296874, 0 at code 127, 128 positive values up to 1. Ascending. */
constexpr std::array<float, 256> dynamic_signed_map = make_dynamic_signed_map();

/** 0 at code 0, 255 positive values up to 1. Ascending. */
constexpr std::array<float, 256> dynamic_unsigned_map = make_dynamic_unsigned_map();

/**
 * Thresholds of an exact nearest search with ties to the lower index: code(x) is the number of thresholds t with x > t.
 * The exact midpoint of two f32 may not be an f32; the largest f32 not above it decides the same for every f32 x.
 */
static constexpr std::array<float, 255> exact_thresholds(const std::array<float, 256>& map) {
  std::array<float, 255> result{};
  for (std::size_t i = 0; i < 255; ++i) {
    const double midpoint =
        (static_cast<double>(map[i]) + static_cast<double>(map[i + 1])) / 2.0;  // exact: neighbours are close
    float below = static_cast<float>(midpoint);
    if (static_cast<double>(below) > midpoint) {
      // One step down: f32 bit patterns are ordered by magnitude. Midpoints are never zero or infinite.
      const uint32_t bits = __builtin_bit_cast(uint32_t, below);
      below = __builtin_bit_cast(float, below > 0 ? bits - 1u : bits + 1u);
    }
    result[i] = below;
  }
  return result;
}

constexpr std::array<float, 255> dynamic_signed_thresholds = exact_thresholds(dynamic_signed_map);
constexpr std::array<float, 255> dynamic_unsigned_thresholds = exact_thresholds(dynamic_unsigned_map);

}  // namespace q4j

#endif  // QLORA4J_SUPPORT_TABLES_H_
