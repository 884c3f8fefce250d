// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The code tables of native/src/support/tables.h as kernels read them, and the searches for the nearest code. */
#ifndef QLORA4J_CUDA_SUPPORT_CODES_H_
#define QLORA4J_CUDA_SUPPORT_CODES_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "qlora4j/types.h"
#include "support/device.h"
#include "tables.h"

namespace q4j::cuda {

/** A plain array: std::array's operators are host functions. */
template <typename T, int Count>
struct Table {
  T at[Count];
};

template <typename T, size_t Count>
constexpr Table<T, static_cast<int>(Count)> table_of(const std::array<T, Count>& values) {
  Table<T, static_cast<int>(Count)> result{};
  for (size_t i = 0; i < Count; ++i) result.at[i] = values[i];
  return result;
}

// ---------------------------------------------------------------- 4-bit

/** Values, thresholds and codes of one 4-bit format. */
template <int Format>
struct Format4;

template <>
struct Format4<Q4J_WEIGHT_NF4> {
  static constexpr std::array<float, 16> values = nf4_values;
  static constexpr std::array<float, 15> midpoints = nf4_midpoints;
  static constexpr std::array<uint8_t, 16> codes_by_value = nf4_codes_by_value;
};

template <>
struct Format4<Q4J_WEIGHT_FP4> {
  static constexpr std::array<float, 16> values = fp4_values;
  static constexpr std::array<float, 15> midpoints = fp4_midpoints;
  static constexpr std::array<uint8_t, 16> codes_by_value = fp4_codes_by_value;
};

/**
 * A shorter search for the nearest 4-bit code, exact like the count over all thresholds. [-1, 1] is cut into buckets by
 * rounding a scaled value to an integer (a single multiply-add whose low bits are the bucket), so narrow that a bucket holds
 * one threshold at most. The bucket's entry holds that threshold and the codes on both its sides. A rounded multiply-add is
 * monotone, therefore every value of bucket k lies above all thresholds of lower buckets, whatever the rounding at a bucket's
 * edge.
 *
 * NF4 buckets the signed value. FP4's thresholds around zero are 0.0026 apart, so it buckets the magnitude and settles the sign
 * afterwards. An entry is 8 bytes; 32 of them in shared memory cost a warp one or two accesses per code.
 *
 * NaN, whose multiply-add has all mantissa bits set, lands in bucket 31, where both codes are the lowest value's, as the count
 * gives it.
 */
struct alignas(8) Bucket {
  float threshold;
  uint32_t codes; /* at or below the threshold: bits 0 to 3; above: bits 8 to 11 */
};

constexpr int kBuckets = 32;
/** 1.5 * 2^23: adding it leaves the rounded integer in the low bits of the sum. */
constexpr float kMagic = 12582912.0f;
constexpr float kInfinity = __builtin_huge_valf();

template <int Format>
struct BucketRule;
template <>
struct BucketRule<Q4J_WEIGHT_NF4> {
  static constexpr float scale = 14.4f; /* width 0.0694; the closest thresholds are 0.0805 apart */
  static constexpr float shift = 15.0f; /* buckets 1 to 29 */
};
template <>
struct BucketRule<Q4J_WEIGHT_FP4> {
  static constexpr float scale = 14.4f; /* the closest thresholds of the magnitude are 0.0833 apart */
  static constexpr float shift = 0.0f;  /* buckets 0 to 14 */
};

/** The bucket of a threshold, and proof that no rounding of the multiply-add could have said another. */
constexpr int bucket_of_threshold(float threshold, float scale, float shift) {
  const double exact = static_cast<double>(threshold) * static_cast<double>(scale) + static_cast<double>(shift);
  const int rounded = static_cast<int>(exact + 0.5);  // never negative
  const double distance = exact + 0.5 - rounded;
  return distance > 1e-4 && distance < 1.0 - 1e-4 ? rounded : -1;
}

template <int Format>
constexpr Table<Bucket, kBuckets> make_buckets() {
  // NF4: all 15 thresholds, codes are ranks. FP4: the 7 thresholds of the magnitude, which are the last ones, and the
  // positive codes by rank, from code 0 on.
  constexpr bool fp4 = Format == Q4J_WEIGHT_FP4;
  constexpr int first = fp4 ? 8 : 0;
  Table<Bucket, kBuckets> result{};
  size_t passed = 0;
  for (int bucket = 0; bucket < kBuckets; ++bucket) {
    const uint8_t below = Format4<Format>::codes_by_value[first + passed];
    uint8_t above = below;
    float threshold = kInfinity;
    if (first + passed < 15) {
      const float next = Format4<Format>::midpoints[first + passed];
      if (bucket_of_threshold(next, BucketRule<Format>::scale, BucketRule<Format>::shift) == bucket) {
        threshold = next;
        above = Format4<Format>::codes_by_value[first + ++passed];
      }
    }
    // FP4 ranks its magnitudes from code 8 ("minus zero"), which is the zero of positive values; see encode.
    result.at[bucket] = {threshold, static_cast<uint32_t>(below) | static_cast<uint32_t>(above) << 8};
  }
  const uint32_t lowest = Format4<Format>::codes_by_value[0];
  result.at[kBuckets - 1] = {kInfinity, lowest | lowest << 8};
  return result;
}

/** Number of different thresholds in a table of buckets: all must have found a bucket of their own. */
constexpr int thresholds_in(const Table<Bucket, kBuckets>& table) {
  int count = 0;
  for (int i = 0; i < kBuckets; ++i) count += table.at[i].threshold < kInfinity ? 1 : 0;
  return count;
}
static_assert(thresholds_in(make_buckets<Q4J_WEIGHT_NF4>()) == 15, "every NF4 threshold has a bucket of its own");
static_assert(thresholds_in(make_buckets<Q4J_WEIGHT_FP4>()) == 7, "every FP4 threshold has a bucket of its own");

/** The code of a scaled element by the table of its format. */
template <int Format>
Q4J_DEVICE uint32_t encode_4bit(const Table<Bucket, kBuckets>& buckets, float scaled) {
  if constexpr (Format == Q4J_WEIGHT_NF4) {
    const float sum = multiply_add(scaled, BucketRule<Format>::scale, kMagic + BucketRule<Format>::shift);
    const Bucket entry = buckets.at[float_bits(sum) & (kBuckets - 1)];
    return (scaled > entry.threshold ? entry.codes >> 8 : entry.codes) & 15u;
  } else {
    const float magnitude = absolute(scaled);
    const float sum = multiply_add(magnitude, BucketRule<Format>::scale, kMagic + BucketRule<Format>::shift);
    const Bucket entry = buckets.at[float_bits(sum) & (kBuckets - 1)];
    // On a threshold the lower value wins: the smaller magnitude of a positive value, the larger one of a negative value.
    const bool negative = scaled < 0.0f;
    const bool above = negative ? magnitude >= entry.threshold : magnitude > entry.threshold;
    const uint32_t code = (above ? entry.codes >> 8 : entry.codes) & 15u;
    // Code 8 stands for a magnitude next to zero: it is the code of tiny positive values, 0 that of zero and tiny negative
    // ones.
    if (code == 8u) return scaled > 0.0f ? 8u : 0u;
    return negative ? code | 8u : code;
  }
}

// ---------------------------------------------------------------- 8-bit

/** What a code stands for; also of the codes of a doubly quantized absmax. */
Q4J_TABLE Table<float, 256> signed_map = table_of(dynamic_signed_map);

/** The number of thresholds below x: the code of x in a dynamic map. NaN gives 0. */
Q4J_DEVICE uint32_t encode_8bit(const float* thresholds, float x) {
  uint32_t code = 0;
  Q4J_UNROLL
  for (uint32_t step = 128; step > 0; step >>= 1) {
    if (x > thresholds[code + step - 1]) code += step;
  }
  return code;
}

/** The code of x in a block with this absmax. An all-zero block holds the code of 0, not that of 0 / 0. */
Q4J_DEVICE uint32_t encode_8bit_of_block(const float* thresholds, float x, float absmax) {
  return encode_8bit(thresholds, absmax == 0.0f ? 0.0f : divide(x, absmax));
}

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_SUPPORT_CODES_H_
