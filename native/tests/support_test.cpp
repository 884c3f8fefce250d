// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The shared scalar pieces: Philox, the code tables, the exact searches and the 16-bit conversions. */
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "expect.h"
#include "half.h"
#include "philox.h"
#include "quant.h"
#include "tables.h"

namespace {

using namespace q4j;

/** SHA-256 (FIPS 180-4) in hexadecimal. */
std::string sha256(const void* data, std::size_t bytes) {
  // Round constants and initial state are the fractional bits of cube and square roots of the first primes.
  std::array<uint32_t, 64> k{};
  std::array<uint32_t, 8> h{};
  int prime = 2;
  for (std::size_t i = 0; i < 64; ++prime) {
    bool composite = false;
    for (int d = 2; d * d <= prime; ++d) composite = composite || prime % d == 0;
    if (composite) continue;
    const auto fraction = [](long double root) { return static_cast<uint32_t>(std::ldexp(root - std::floor(root), 32)); };
    k[i] = fraction(std::cbrt(static_cast<long double>(prime)));
    if (i < 8) h[i] = fraction(std::sqrt(static_cast<long double>(prime)));
    ++i;
  }
  std::vector<unsigned char> message(static_cast<const unsigned char*>(data), static_cast<const unsigned char*>(data) + bytes);
  message.push_back(0x80);
  while (message.size() % 64 != 56) message.push_back(0);
  for (int shift = 56; shift >= 0; shift -= 8)
    message.push_back(static_cast<unsigned char>(static_cast<uint64_t>(bytes) * 8 >> shift));
  const auto rotate = [](uint32_t x, int n) { return x >> n | x << (32 - n); };
  for (std::size_t block = 0; block < message.size(); block += 64) {
    std::array<uint32_t, 64> w{};
    for (std::size_t i = 0; i < 16; ++i) {
      for (std::size_t j = 0; j < 4; ++j) w[i] = w[i] << 8 | message[block + i * 4 + j];
    }
    for (std::size_t i = 16; i < 64; ++i) {
      const uint32_t s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
      const uint32_t s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    std::array<uint32_t, 8> v = h;
    for (std::size_t i = 0; i < 64; ++i) {
      const uint32_t s1 = rotate(v[4], 6) ^ rotate(v[4], 11) ^ rotate(v[4], 25);
      const uint32_t choice = (v[4] & v[5]) ^ (~v[4] & v[6]);
      const uint32_t t1 = v[7] + s1 + choice + k[i] + w[i];
      const uint32_t s0 = rotate(v[0], 2) ^ rotate(v[0], 13) ^ rotate(v[0], 22);
      const uint32_t majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
      v = {t1 + s0 + majority, v[0], v[1], v[2], v[3] + t1, v[4], v[5], v[6]};
    }
    for (std::size_t i = 0; i < 8; ++i) h[i] += v[i];
  }
  std::string text;
  char word[9];
  for (const uint32_t value : h) {
    std::snprintf(word, sizeof word, "%08x", value);
    text += word;
  }
  return text;
}

// The known answers that come with Random123, the authors' library: zeros, ones, and digits of pi.
void philox_known_answers() {
  using Words = std::array<uint32_t, 4>;
  EXPECT((philox4x32_10({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT((philox4x32_10({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}) == Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT((philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
          Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

void dropout() {
  EXPECT(dropout_threshold(0.0f) == 0);
  EXPECT(dropout_threshold(0.5f) == 0x80000000u);
  EXPECT(dropout_threshold(0.1f) == 429496736u);  // 0.1f * 2^32 exactly: 0.1f is 13421773 * 2^-27
  EXPECT(dropout_threshold(std::nextafter(1.0f, 0.0f)) == 0xffffff00u);
  EXPECT(dropout_scale(0.5f) == 2.0f);

  q4j_dropout d = {};
  d.size = sizeof d;
  d.probability = 0.25f;
  d.seed = 0x0123456789abcdefull;
  d.step = 3;
  d.micro_batch = 1;
  d.linear = 17;
  const uint32_t threshold = dropout_threshold(d.probability);
  constexpr int64_t rows = 300, columns = 200;
  int64_t kept = 0;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) kept += dropout_keeps(d, threshold, r, columns, c) ? 1 : 0;
  }
  // 60,000 draws: the standard deviation of the share is sqrt(0.25 * 0.75 / 60000) = 0.0018; five of them.
  EXPECT(std::fabs(static_cast<double>(kept) / static_cast<double>(rows * columns) - 0.75) < 5 * 0.0018);

  // A chunk that starts at row 100 draws the rows of the whole.
  q4j_dropout chunk = d;
  chunk.row_offset = 100;
  bool same = true;
  for (int64_t r = 0; r < 50; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      same = same && dropout_keeps(chunk, threshold, r, columns, c) == dropout_keeps(d, threshold, r + 100, columns, c);
    }
  }
  EXPECT(same);
  // Key words: the seed's low half first.
  const uint32_t word = philox4x32_10({3, 1, 17, 5 * columns + 6}, {0x89abcdefu, 0x01234567u})[0];
  EXPECT(dropout_keeps(d, threshold, 5, columns, 6) == (word >= threshold));
}

void tables() {
  // SHA-256 of bitsandbytes' maps as 256 little-endian f32.
  EXPECT(sha256("abc", 3) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT(sha256(dynamic_signed_map.data(), sizeof dynamic_signed_map) ==
         "e732639a65f497b4ad684bb166a4467708255edd5207757de8b8f0c7e1fda89c");
  EXPECT(sha256(dynamic_unsigned_map.data(), sizeof dynamic_unsigned_map) ==
         "305f002cc11278fb769d13b25b9fd0c7c83c8402c40a878fe086f4039fde6398");
  constexpr std::array<uint32_t, 16> nf4_bits = {0xbf800000, 0xbf3239b1, 0xbf066b30, 0xbeca32a0, 0xbe91a24d, 0xbe3d353f,
                                                 0xbdba7871, 0,          0x3da2faff, 0x3e24cae3, 0x3e7c04dd, 0x3ead033a,
                                                 0x3ee1a4b8, 0x3f1007ab, 0x3f3913b3, 0x3f800000};
  constexpr std::array<uint32_t, 15> midpoint_bits = {0xbf591cd8, 0xbf1c5270, 0xbeeb8480, 0xbeadea76, 0xbe703cec,
                                                      0xbe0d38bc, 0xbd3a7871, 0x3d22faff, 0x3df64862, 0x3e5067e0,
                                                      0x3e9582d4, 0x3ec753f9, 0x3f006d04, 0x3f248daf, 0x3f5c89da};
  bool equal = true;
  for (std::size_t i = 0; i < 16; ++i) equal = equal && bits_of(nf4_values[i]) == nf4_bits[i];
  for (std::size_t i = 0; i < 15; ++i) equal = equal && bits_of(nf4_midpoints[i]) == midpoint_bits[i];
  EXPECT(equal);
  bool ascending = true;
  for (std::size_t i = 0; i < 15; ++i)
    ascending = ascending && fp4_values[fp4_codes_by_value[i]] <= fp4_values[fp4_codes_by_value[i + 1]];
  EXPECT(ascending);
}

void codes_4bit() {
  for (const int32_t format : {int32_t{Q4J_WEIGHT_NF4}, int32_t{Q4J_WEIGHT_FP4}}) {
    const auto& midpoints = format == Q4J_WEIGHT_FP4 ? fp4_midpoints : nf4_midpoints;
    const auto& by_value = format == Q4J_WEIGHT_FP4 ? fp4_codes_by_value : nf4_codes_by_value;
    for (std::size_t i = 0; i < 15; ++i) {
      EXPECT(code_4bit(format, midpoints[i]) == by_value[i]);  // on the midpoint: the lower value
      EXPECT(code_4bit(format, std::nextafter(midpoints[i], 2.0f)) == by_value[i + 1]);
    }
    EXPECT(code_4bit(format, 1.0f) == by_value[15]);
    EXPECT(code_4bit(format, -1.0f) == by_value[0]);
    EXPECT(code_4bit(format, std::nanf("")) == by_value[0]);
  }
  EXPECT(code_4bit(Q4J_WEIGHT_NF4, 0.0f) == 7);
  EXPECT(code_4bit(Q4J_WEIGHT_FP4, 0.0f) == 0);
}

uint8_t nearest_by_search(const std::array<float, 256>& map, float x) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < 256; ++i) {
    // Distances of f32 are exact in long double's 64 bits where it matters: near the two candidates.
    if (std::fabs(static_cast<long double>(x) - map[i]) < std::fabs(static_cast<long double>(x) - map[best])) best = i;
  }
  return static_cast<uint8_t>(best);
}

void codes_8bit() {
  std::mt19937_64 random(20260822);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  int different = 0;
  for (const bool is_signed : {true, false}) {
    const auto& map = is_signed ? dynamic_signed_map : dynamic_unsigned_map;
    const auto& thresholds = is_signed ? dynamic_signed_thresholds : dynamic_unsigned_thresholds;
    const auto check = [&](float x) { different += code_8bit(thresholds, x) != nearest_by_search(map, x) ? 1 : 0; };
    for (int i = 0; i < 20000; ++i) check(uniform(random) * (i % 2 == 0 ? 1.0f : 1e-4f));
    for (const float t : thresholds) {
      check(t);
      check(std::nextafter(t, 2.0f));
      check(std::nextafter(t, -2.0f));
    }
    for (const float value : map) check(value);
  }
  EXPECT(different == 0);
  EXPECT(code_8bit_of_block(dynamic_signed_thresholds, 0.0f, 0.0f) == 127);
  EXPECT(code_8bit_of_block(dynamic_unsigned_thresholds, 0.0f, 0.0f) == 0);
}

// The nearest bf16 or f16 by definition: among the candidate and its neighbours the closest, the even one on a tie.
template <typename T>
bool is_nearest(float x, T candidate) {
  const long double exact = x;
  const long double distance = std::fabs(static_cast<long double>(to_f32(candidate)) - exact);
  for (const int step : {-1, 1}) {
    const T neighbour = {static_cast<uint16_t>(candidate.bits + step)};
    if (!std::isfinite(to_f32(neighbour)) || ((neighbour.bits ^ candidate.bits) & 0x8000u) != 0) continue;
    const long double other = std::fabs(static_cast<long double>(to_f32(neighbour)) - exact);
    if (other < distance || (other == distance && (candidate.bits & 1u) != 0)) return false;
  }
  return std::signbit(x) == ((candidate.bits & 0x8000u) != 0);
}

void conversions() {
  bool round_trip = true;
  for (uint32_t i = 0; i < 65536; ++i) {
    const f16 h = {static_cast<uint16_t>(i)};
    const bf16 b = {static_cast<uint16_t>(i)};
    round_trip =
        round_trip && (std::isnan(to_f32(h)) ? std::isnan(to_f32(f16_from_f32(to_f32(h)))) : f16_from_f32(to_f32(h)).bits == i);
    round_trip = round_trip &&
                 (std::isnan(to_f32(b)) ? std::isnan(to_f32(bf16_from_f32(to_f32(b)))) : bf16_from_f32(to_f32(b)).bits == i);
  }
  EXPECT(round_trip);
  EXPECT(to_f32(f16{0x0001}) == 0x1p-24f);
  EXPECT(to_f32(f16{0x7bff}) == 65504.0f);
  EXPECT(f16_from_f32(65520.0f).bits == 0x7c00);  // halfway to 2^16 goes to the even side: infinity
  EXPECT(f16_from_f32(std::nextafter(65520.0f, 0.0f)).bits == 0x7bff);
  EXPECT(bf16_from_f32(3.4e38f).bits == 0x7f80);  // above the largest bf16 and its half step
  EXPECT(std::isnan(to_f32(bf16_from_f32(float_of(0x7f800001u)))));

  std::mt19937 random(20260823);
  int wrong = 0;
  for (int i = 0; i < 200000; ++i) {
    const float x = float_of(static_cast<uint32_t>(random()));
    if (!std::isfinite(x)) continue;
    if (std::fabs(x) < 3.3e38f) wrong += is_nearest(x, bf16_from_f32(x)) ? 0 : 1;
    const float small = std::ldexp(
        x, -std::ilogb(x) + static_cast<int>(random() % 42) - 27);  // 2^-27 to 2^15: below the range of f16 and most of it
    wrong += is_nearest(small, f16_from_f32(small)) ? 0 : 1;
  }
  EXPECT(wrong == 0);
}

/** E4M3 by definition: the nearest of all its values, the even code on a tie, 448 for everything above. */
uint32_t nearest_e4m3(float magnitude) {
  uint32_t best = 0;
  for (uint32_t code = 1; code < 0x7f; ++code) {
    const double distance =
        std::fabs(static_cast<double>(to_f32(e4m3{static_cast<uint8_t>(code)})) - static_cast<double>(magnitude));
    const double least =
        std::fabs(static_cast<double>(to_f32(e4m3{static_cast<uint8_t>(best)})) - static_cast<double>(magnitude));
    if (distance < least || (distance == least && code % 2 == 0)) best = code;
  }
  return best;
}

void conversions_e4m3() {
  EXPECT(to_f32(e4m3{0x01}) == 0x1p-9f);
  EXPECT(to_f32(e4m3{0x08}) == 0x1p-6f);
  EXPECT(to_f32(e4m3{0x38}) == 1.0f);
  EXPECT(to_f32(e4m3{0x7e}) == 448.0f);
  EXPECT(to_f32(e4m3{0xfe}) == -448.0f);
  EXPECT(std::isnan(to_f32(e4m3{0x7f})) && std::isnan(to_f32(e4m3{0xff})));
  EXPECT(e4m3_from_f32(std::numeric_limits<float>::infinity()).bits == 0x7e);
  EXPECT(e4m3_from_f32(-1e9f).bits == 0xfe);
  EXPECT(e4m3_from_f32(-0.0f).bits == 0x80);
  EXPECT(e4m3_from_f32(std::numeric_limits<float>::quiet_NaN()).bits == 0x7f);
  int wrong = 0;
  for (int code = 0; code < 0x7f; ++code) {
    const float value = to_f32(e4m3{static_cast<uint8_t>(code)});
    const float next = to_f32(e4m3{static_cast<uint8_t>(std::min(code + 1, 0x7e))});
    const float middle = (value + next) / 2.0f;  // exact: one more bit than E4M3 has
    for (const float x : {value, middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f)}) {
      wrong += e4m3_from_f32(x).bits == nearest_e4m3(x) ? 0 : 1;
      wrong += e4m3_from_f32(-x).bits == (nearest_e4m3(x) | 0x80u) ? 0 : 1;
    }
  }
  EXPECT(wrong == 0);
}

}  // namespace

int main() {
  philox_known_answers();
  dropout();
  tables();
  codes_4bit();
  codes_8bit();
  conversions();
  conversions_e4m3();
  return q4j::test::finish("support_test");
}
