// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The kernels' dropout mask against the definition. */
#include "support/dropout.h"

#include "expect.h"

namespace {

void mask_is_philox() {
  uint64_t state = 7;
  const auto next = [&] {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return state ^ (state >> 29);
  };
  for (int i = 0; i < 200; ++i) {
    q4j_dropout dropout = {};
    dropout.size = sizeof dropout;
    dropout.probability = i % 4 == 0 ? 0.5f : static_cast<float>(1 + next() % 97) / 100.0f;
    dropout.seed = next();
    dropout.step = static_cast<uint32_t>(next());
    dropout.micro_batch = static_cast<uint32_t>(next() >> 20);
    dropout.linear = static_cast<uint32_t>(next() >> 24);
    dropout.row_offset = i % 3 == 0 ? 0 : static_cast<int64_t>(next() >> (16 + i % 40));
    const auto columns = static_cast<int64_t>(1 + next() % 100000);
    const q4j::cuda::DropoutMask mask = q4j::cuda::make_dropout_mask(dropout, columns);
    EXPECT(mask.on && mask.scale == q4j::dropout_scale(dropout.probability));
    const uint32_t threshold = q4j::dropout_threshold(dropout.probability);
    int same = 0;
    for (int j = 0; j < 100; ++j) {
      const auto row = static_cast<int64_t>(next() % 3000000);
      const auto column = static_cast<int64_t>(next() % static_cast<uint64_t>(columns));
      const bool keeps = q4j::cuda::dropout_keeps(mask, static_cast<uint32_t>(row), static_cast<uint32_t>(column));
      same += keeps == q4j::dropout_keeps(dropout, threshold, row, columns, column) ? 1 : 0;
    }
    EXPECT(same == 100);
  }
  EXPECT(!q4j::cuda::make_dropout_mask(q4j_dropout{}, 5).on);
}

}  // namespace

int main() {
  mask_is_philox();
  return q4j::test::finish("dropout");
}
