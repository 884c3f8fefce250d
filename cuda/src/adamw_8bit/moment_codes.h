// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Codes of a dynamic map and back, for kernels that code every element they touch.
 *
 * The eight halving steps of encode_8bit (codes.h) read shared memory eight times, the first steps from few addresses that lie
 * in the same bank. The maps are logarithmic with equal parts inside a decade, so the exponent and the upper bits of the
 * mantissa almost name the code: they number buckets so narrow that each holds one threshold at most. A table says how many
 * thresholds lie below a bucket, and one comparison settles the rest. Exact like the search; the compiler checks every bucket.
 */
#ifndef QLORA4J_CUDA_ADAMW_8BIT_MOMENT_CODES_H_
#define QLORA4J_CUDA_ADAMW_8BIT_MOMENT_CODES_H_

#include <array>
#include <cstdint>

#include "support/codes.h"
#include "support/device.h"

namespace q4j::cuda {

/** How the magnitudes of a map are cut into buckets. Below 2^-23, where no threshold lies, one bucket; from 1 up another. */
template <bool Signed>
struct MomentBuckets {
  /** Upper mantissa bits that count: near 1 thresholds are 0.0141 apart in the signed map, 0.0070 in the unsigned one; buckets
   * are 0.0078 and 0.0039 wide. */
  static constexpr int bits = Signed ? 6 : 7;
  static constexpr int shift = 23 - bits;
  static constexpr int octaves = 23;
  static constexpr int lowest = (127 - octaves) << bits;
  static constexpr int highest = octaves << bits;
  static constexpr int magnitudes = highest + 1;
  static constexpr int count = Signed ? 2 * magnitudes : magnitudes;
};

/** A map with what its search needs, as it lies in shared memory. */
template <bool Signed>
struct alignas(16) MomentCodes {
  float value[256];
  float threshold[256]; /* the last one is infinity */
  uint8_t below[(MomentBuckets<Signed>::count + 15) / 16 * 16];
};

/** Number of thresholds below x. */
constexpr uint8_t count_below(const std::array<float, 255>& thresholds, float x) {
  size_t count = 0;
  for (size_t step = 128; step > 0; step >>= 1) count += x > thresholds[count + step - 1] ? step : 0;
  return static_cast<uint8_t>(count);
}

/** The smallest or the largest value of a bucket of magnitudes. */
template <bool Signed>
constexpr float edge_of_bucket(int bucket, bool largest) {
  using Buckets = MomentBuckets<Signed>;
  if (largest && bucket == Buckets::highest) return kInfinity;
  if (!largest && bucket == 0) return 0.0f;
  const auto first = static_cast<uint32_t>(Buckets::lowest + bucket + (largest ? 1 : 0)) << Buckets::shift;
  return __builtin_bit_cast(float, largest ? first - 1u : first);
}

template <bool Signed>
constexpr MomentCodes<Signed> make_moment_codes() {
  using Buckets = MomentBuckets<Signed>;
  const std::array<float, 256>& map = Signed ? dynamic_signed_map : dynamic_unsigned_map;
  const std::array<float, 255>& thresholds = Signed ? dynamic_signed_thresholds : dynamic_unsigned_thresholds;
  MomentCodes<Signed> result{};
  for (size_t i = 0; i < 256; ++i) result.value[i] = map[i];
  for (size_t i = 0; i < 255; ++i) result.threshold[i] = thresholds[i];
  result.threshold[255] = kInfinity;
  for (int b = 0; b < Buckets::magnitudes; ++b) {
    result.below[b] = count_below(thresholds, edge_of_bucket<Signed>(b, false));
    if (Signed) result.below[Buckets::magnitudes + b] = count_below(thresholds, -edge_of_bucket<Signed>(b, true));
  }
  return result;
}

/** Whether every bucket holds one threshold at most. */
template <bool Signed>
constexpr bool buckets_decide(const MomentCodes<Signed>& codes) {
  using Buckets = MomentBuckets<Signed>;
  for (int b = 0; b < Buckets::count; ++b) {
    const bool negative = b >= Buckets::magnitudes;
    const float largest = negative ? -edge_of_bucket<Signed>(b - Buckets::magnitudes, false) : edge_of_bucket<Signed>(b, true);
    if (codes.below[b] < 255 && largest > codes.threshold[codes.below[b] + 1]) return false;
  }
  return true;
}
static_assert(buckets_decide<true>(make_moment_codes<true>()), "one threshold per bucket of the signed map");
static_assert(buckets_decide<false>(make_moment_codes<false>()), "one threshold per bucket of the unsigned map");

/** The code of x: the number of thresholds below it. x is not NaN, and not negative for the unsigned map. */
template <bool Signed>
Q4J_DEVICE uint32_t encode_moment(const MomentCodes<Signed>& codes, float x) {
  using Buckets = MomentBuckets<Signed>;
  const uint32_t bits = float_bits(x);
  int bucket = static_cast<int>((bits & 0x7fffffffu) >> Buckets::shift) - Buckets::lowest;
  bucket = bucket < 0 ? 0 : bucket;
  bucket = bucket > Buckets::highest ? Buckets::highest : bucket;
  if (Signed) bucket += (bits >> 31) != 0 ? Buckets::magnitudes : 0;
  const uint32_t below = codes.below[bucket];
  return below + (x > codes.threshold[below] ? 1u : 0u);
}

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_ADAMW_8BIT_MOMENT_CODES_H_
