// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Rung 1: one thread per block of moments. It goes over the block twice: for the largest moments, then to write. */
#include "adamw_8bit/adamw_8bit.h"
#include "quant.h"
#include "support/codes.h"
#include "support/launch.h"

namespace q4j::cuda {

namespace {

Q4J_TABLE Table<float, 256> unsigned_map = table_of(dynamic_unsigned_map);
Q4J_TABLE Table<float, 255> signed_thresholds = table_of(dynamic_signed_thresholds);
Q4J_TABLE Table<float, 255> unsigned_thresholds = table_of(dynamic_unsigned_thresholds);

Q4J_DEVICE uint8_t code_of(const float* thresholds, float moment, float absmax) {
  return moment != moment ? uint8_t{0} : static_cast<uint8_t>(encode_8bit_of_block(thresholds, moment, absmax));
}

Q4J_KERNEL(kThreads8, 1) adamw_8bit_1_blocks(const Step8 step, const Slot8 slot) {
  const int64_t block = static_cast<int64_t>(block_index()) * kThreads8 + thread_index();
  const int64_t begin = block << step.block_shift;
  if (begin >= slot.length) return;
  const int64_t end = begin + step.block_size < slot.length ? begin + step.block_size : slot.length;
  const float old_first = slot.absmax[0][block];
  const float old_second = slot.absmax[1][block];
  float first_absmax = 0.0f;
  float second_absmax = 0.0f;
  for (const bool writes : {false, true}) {
    for (int64_t i = begin; i < end; ++i) {
      float first = multiply(signed_map.at[slot.codes[0][i]], old_first);
      float second = multiply(unsigned_map.at[slot.codes[1][i]], old_second);
      advance(step, slot.gradient[i], first, second);
      if (writes) {
        const float quotient = divide(square_root(second), step.root);
        slot.parameter[i] = stepped(step, slot.decay, slot.parameter[i], first, quotient);
        slot.codes[0][i] = code_of(signed_thresholds.at, first, first_absmax);
        slot.codes[1][i] = code_of(unsigned_thresholds.at, second, second_absmax);
      } else {
        first_absmax = maximum_number(first_absmax, absolute(first));
        second_absmax = maximum_number(second_absmax, absolute(second));
      }
    }
  }
  slot.absmax[0][block] = first_absmax;
  slot.absmax[1][block] = second_absmax;
}

}  // namespace

q4j_status adamw_8bit_1(const q4j_pack_context& context, const Step8& step, const Slot8& slot) {
  const int64_t blocks = ceil_div(slot.length, step.block_size);
  const Grid grid = {blocks_for(blocks, kThreads8), kThreads8};
  return launch(context, grid, "adamw_8bit_1_blocks", adamw_8bit_1_blocks, step, slot);
}

}  // namespace q4j::cuda
