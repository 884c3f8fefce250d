// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The two short cuts of adamw_8bit, division by one number and the search for a code, give what the long way gives. */
#include <cmath>
#include <cstdint>
#include <limits>

#include "adamw_8bit/moment_codes.h"
#include "expect.h"
#include "quant.h"
#include "support/division.h"

namespace {

using namespace q4j;
using namespace q4j::cuda;

constexpr uint32_t kLowest24 = 1u << 23;
constexpr uint32_t kEnd24 = 1u << 24;

/**
 * Every quotient of 24-bit numbers x / y that lies close to the middle between two f32: 2^k x - m y = gap for an odd m of 25
 * bits, k = 24 for x >= y and 25 for x < y. Trailing zeros of y and of the gap are equal in number, because m is odd; then m
 * is -gap / y modulo 2^k without them.
 */
void hard_quotients_are_rounded_right() {
  constexpr int most = 16;  // twice what the error model needs (division.h)
  int64_t cases = 0;
  int64_t wrong = 0;
  for (uint32_t y = kLowest24; y < kEnd24; ++y) {
    const int zeros = __builtin_ctz(y);
    if (zeros > 4) continue;  // no gap up to 16 has as many
    const uint32_t odd = y >> zeros;
    uint32_t inverse = odd;  // right in 3 bits; every round doubles them
    for (int round = 0; round < 4; ++round) inverse *= 2u - odd * inverse;
    const float divisor = std::ldexp(static_cast<float>(y), -23);
    const float reciprocal = 1.0f / divisor;
    for (int gap = -most; gap <= most; ++gap) {
      if (gap == 0 || __builtin_ctz(static_cast<unsigned>(gap)) != zeros) continue;
      for (const int k : {24, 25}) {
        const uint64_t modulus = uint64_t{1} << (k - zeros);
        const uint32_t first = static_cast<uint32_t>(-(gap / (1 << zeros))) * inverse & static_cast<uint32_t>(modulus - 1);
        for (uint64_t m = first; m < (uint64_t{1} << 25); m += modulus) {
          if (m < (uint64_t{1} << 24)) continue;
          const int64_t product = static_cast<int64_t>(m * y) + gap;
          const int64_t x = product >> k;
          if (x < kLowest24 || x >= kEnd24) continue;
          const float dividend = std::ldexp(static_cast<float>(x), -23);
          ++cases;
          if (x << k != product || !(divide_by(divisor, reciprocal, dividend) == dividend / divisor)) ++wrong;
        }
      }
    }
  }
  EXPECT(cases > 90'000'000);
  EXPECT(wrong == 0);
}

/** Pairs x <= absmax from all of f32. */
void quotients_by_absmax_are_rounded_right() {
  uint64_t state = 1;
  const auto random = [&] {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state >> 33);
  };
  int wrong = 0;
  int subnormal = 0;
  for (int i = 0; i < 2'000'000; ++i) {
    const float absmax = float_of(random() % 0x7f800000u);
    // Mostly of about the same size, sometimes of any.
    const uint32_t below = i % 4 == 0 ? random() : random() % (24u << 23);
    const uint32_t bits = bits_of(absmax) - (below < bits_of(absmax) ? below : bits_of(absmax));
    const float x = float_of(bits | (i % 2 == 0 ? 0u : 0x80000000u));
    if (absmax == 0.0f) continue;
    const float expected = x / absmax;
    const float found = divide_by(block_divisor(absmax), x);
    subnormal += absmax < 1.2e-38f ? 1 : 0;
    if (std::fabs(expected) >= 0x1p-100f ? !(found == expected) : !(std::fabs(found) < 0x1p-99f)) ++wrong;
  }
  EXPECT(wrong == 0);
  EXPECT(subnormal > 1000);
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT(divide_by(block_divisor(0.0f), 0.0f) == 0.0f);
  EXPECT(std::isnan(divide_by(block_divisor(0.0f), std::nanf(""))));
  EXPECT(divide_by(block_divisor(infinity), -3e38f) == 0.0f);
  EXPECT(std::isnan(divide_by(block_divisor(infinity), infinity)));
}

template <bool Signed>
void codes_are_the_nearest() {
  static constexpr MomentCodes<Signed> codes = make_moment_codes<Signed>();
  const std::array<float, 255>& thresholds = Signed ? dynamic_signed_thresholds : dynamic_unsigned_thresholds;
  int wrong = 0;
  const auto check = [&](float x) {
    if (std::isnan(x) || (!Signed && std::signbit(x))) return;
    if (encode_moment(codes, x) != code_8bit(thresholds, x)) ++wrong;
  };
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 509) check(float_of(static_cast<uint32_t>(bits)));
  for (const float threshold : thresholds) {
    for (int step = -3; step <= 3; ++step) check(float_of(bits_of(threshold) + static_cast<uint32_t>(step)));
  }
  // The edges of buckets.
  for (uint32_t edge = 0; edge < 0x7f800000u; edge += 1u << 16) {
    for (const uint32_t sign : {0u, 0x80000000u}) {
      check(float_of(edge | sign));
      check(float_of((edge + 0xffffu) | sign));
    }
  }
  EXPECT(wrong == 0);
}

}  // namespace

int main() {
  hard_quotients_are_rounded_right();
  quotients_by_absmax_are_rounded_right();
  codes_are_the_nearest<true>();
  codes_are_the_nearest<false>();
  return q4j::test::finish("moment_codes");
}
