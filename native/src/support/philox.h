// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011) and the dropout mask drawn
 * from it.
 */
#ifndef QLORA4J_SUPPORT_PHILOX_H_
#define QLORA4J_SUPPORT_PHILOX_H_

#include <array>
#include <cstdint>

#include "qlora4j/types.h"

namespace q4j {

constexpr uint32_t philox_multiplier_0 = 0xD2511F53u;
constexpr uint32_t philox_multiplier_1 = 0xCD9E8D57u;
constexpr uint32_t philox_weyl_0 = 0x9E3779B9u;
constexpr uint32_t philox_weyl_1 = 0xBB67AE85u;
constexpr int philox_rounds = 10;

/** The four output words for a counter and a key. */
static inline std::array<uint32_t, 4> philox4x32_10(const std::array<uint32_t, 4>& counter,
                                                    const std::array<uint32_t, 2>& key) {
  uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
  uint32_t k0 = key[0], k1 = key[1];
  for (int round = 0; round < philox_rounds; ++round) {
    const uint64_t product_0 = static_cast<uint64_t>(philox_multiplier_0) * c0;
    const uint64_t product_1 = static_cast<uint64_t>(philox_multiplier_1) * c2;
    const uint32_t high_0 = static_cast<uint32_t>(product_0 >> 32);
    const uint32_t high_1 = static_cast<uint32_t>(product_1 >> 32);
    c0 = high_1 ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(product_1);
    c2 = high_0 ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(product_0);
    k0 += philox_weyl_0;
    k1 += philox_weyl_1;
  }
  return {c0, c1, c2, c3};
}

/** Elements whose word 0 is below this are dropped: round(probability * 2^32). Exact, because a float has 24 bits. */
static inline uint32_t dropout_threshold(float probability) {
  return static_cast<uint32_t>(static_cast<double>(probability) * 4294967296.0 + 0.5);
}

/** What kept elements are multiplied by: 1 / (1 - probability), computed in f64 and rounded once. */
static inline float dropout_scale(float probability) {
  return static_cast<float>(1.0 / (1.0 - static_cast<double>(probability)));
}

/** Whether element (row, column) of a matrix with `columns` columns is kept. `row` counts from the call's row_offset. */
static inline bool dropout_keeps(const q4j_dropout& dropout, uint32_t threshold, int64_t row, int64_t columns, int64_t column) {
  const uint64_t index =
      (static_cast<uint64_t>(row) + static_cast<uint64_t>(dropout.row_offset)) * static_cast<uint64_t>(columns) +
      static_cast<uint64_t>(column);
  const std::array<uint32_t, 4> words =
      philox4x32_10({dropout.step, dropout.micro_batch, dropout.linear, static_cast<uint32_t>(index)},
                    {static_cast<uint32_t>(dropout.seed), static_cast<uint32_t>(dropout.seed >> 32)});
  return words[0] >= threshold;
}

}  // namespace q4j

#endif  // QLORA4J_SUPPORT_PHILOX_H_
