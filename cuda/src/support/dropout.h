// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The dropout mask of native/src/support/philox.h, drawn where it is needed and never stored. Three of the counter's words are
 * the same for a whole matrix, so the host works out everything of Philox' ten rounds that does not depend on the fourth: of 20
 * products a thread makes 15.
 */
#ifndef QLORA4J_CUDA_SUPPORT_DROPOUT_H_
#define QLORA4J_CUDA_SUPPORT_DROPOUT_H_

#include <cstdint>

#include "philox.h"
#include "support/device.h"

namespace q4j::cuda {

struct DropoutMask {
  bool on;
  float scale;        /* of what is kept; 1 when off */
  uint32_t threshold; /* elements whose word is below are dropped */
  uint32_t columns;
  uint32_t first; /* index of element (0, 0) */
  // What is known after three rounds.
  uint32_t second[2]; /* round 2: words 0 and 1 without the index */
  uint32_t third[3];  /* round 3: words 0, 1 and 2 without the index */
  uint32_t even_key[7];
  uint32_t odd_key[6];
};

constexpr uint32_t high_product(uint32_t a, uint32_t b) { return static_cast<uint32_t>((static_cast<uint64_t>(a) * b) >> 32); }

/** The mask of a matrix with `columns` columns. */
inline DropoutMask make_dropout_mask(const q4j_dropout& dropout, int64_t columns) {
  DropoutMask mask = {};
  mask.scale = 1.0f;
  if (!(dropout.probability > 0.0f)) return mask;
  mask.on = true;
  mask.scale = dropout_scale(dropout.probability);
  mask.threshold = dropout_threshold(dropout.probability);
  mask.columns = static_cast<uint32_t>(columns);
  mask.first = static_cast<uint32_t>(dropout.row_offset) * mask.columns;
  uint32_t key[2][philox_rounds];
  for (uint32_t round = 0; round < philox_rounds; ++round) {
    key[0][round] = static_cast<uint32_t>(dropout.seed) + round * philox_weyl_0;
    key[1][round] = static_cast<uint32_t>(dropout.seed >> 32) + round * philox_weyl_1;
  }
  // Round 1 leaves word 2 alone to the index.
  const uint32_t word_0 = high_product(philox_multiplier_1, dropout.linear) ^ dropout.micro_batch ^ key[0][0];
  const uint32_t word_1 = philox_multiplier_1 * dropout.linear;
  const uint32_t word_3 = philox_multiplier_0 * dropout.step;
  mask.second[0] = high_product(philox_multiplier_0, dropout.step) ^ key[1][0];
  // Round 2: words 0 and 1 depend on the index, 2 and 3 do not.
  mask.second[1] = word_1 ^ key[0][1];
  const uint32_t word_2 = high_product(philox_multiplier_0, word_0) ^ word_3 ^ key[1][1];
  // Round 3: word 1 does not.
  mask.third[0] = high_product(philox_multiplier_1, word_2) ^ key[0][2];
  mask.third[1] = philox_multiplier_1 * word_2;
  mask.third[2] = (philox_multiplier_0 * word_0) ^ key[1][2];
  for (int round = 3; round < philox_rounds; ++round) mask.even_key[round - 3] = key[0][round];
  for (int round = 3; round < philox_rounds - 1; ++round) mask.odd_key[round - 3] = key[1][round];
  return mask;
}

/** Whether the element is kept. The mask must be on. */
Q4J_DEVICE bool dropout_keeps(const DropoutMask& mask, uint32_t row, uint32_t column) {
  const auto product = [](uint32_t a, uint32_t b) { return static_cast<uint64_t>(a) * b; };
  const auto high = [](uint64_t value) { return static_cast<uint32_t>(value >> 32); };
  const auto low = [](uint64_t value) { return static_cast<uint32_t>(value); };
  const uint64_t first = product(philox_multiplier_1, (mask.first + row * mask.columns + column) ^ mask.second[0]);
  const uint64_t second = product(philox_multiplier_0, high(first) ^ mask.second[1]);
  uint32_t word_0 = mask.third[0] ^ low(first);
  uint32_t word_1 = mask.third[1];
  uint32_t word_2 = high(second) ^ mask.third[2];
  uint32_t word_3 = low(second);
  Q4J_UNROLL
  for (int round = 0; round < philox_rounds - 4; ++round) {
    const uint64_t product_0 = product(philox_multiplier_0, word_0);
    const uint64_t product_1 = product(philox_multiplier_1, word_2);
    word_0 = high(product_1) ^ word_1 ^ mask.even_key[round];
    word_1 = low(product_1);
    word_2 = high(product_0) ^ word_3 ^ mask.odd_key[round];
    word_3 = low(product_0);
  }
  const uint32_t drawn = high(product(philox_multiplier_1, word_2)) ^ word_1 ^ mask.even_key[philox_rounds - 4];
  return drawn >= mask.threshold;
}

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_SUPPORT_DROPOUT_H_
