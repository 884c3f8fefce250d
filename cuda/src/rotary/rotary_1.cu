// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Rung 1: the definition, one thread per token and pair. */
#include "rotary/rotary.h"
#include "rotary/rotation.h"
#include "support/dispatch.h"
#include "support/launch.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 256;

template <typename T>
Q4J_KERNEL(kThreads, 4)
rotary_1_pairs(const Rotary r) {
  const int64_t step = static_cast<int64_t>(grid_blocks()) * kThreads;
  for (int64_t i = static_cast<int64_t>(block_index()) * kThreads + thread_index(); i < r.tokens * r.half; i += step) {
    const int64_t token = i / r.half;
    const int pair = static_cast<int>(i - token * r.half);
    const Rotation rotation = rotation_of<T>(r, token, pair);
    T* low = static_cast<T*>(r.x) + token * r.token_stride + pair;
    for (int64_t head = 0; head < r.heads; ++head, low += r.head_stride) {
      const float a = widen(low[0]);
      const float b = widen(low[r.half]);
      low[0] = narrow<T>(rotation.low(a, b));
      low[r.half] = narrow<T>(rotation.high(a, b));
    }
  }
}

}  // namespace

q4j_status rotary_1(const q4j_pack_context& context, const Rotary& arguments) {
  if (arguments.heads == 0) return Q4J_OK;
  return with_activation_type(arguments.dtype, [&](auto type) {
    const Grid grid = {blocks_for(arguments.tokens * arguments.half, kThreads), kThreads};
    return launch(context, grid, "rotary_1_pairs", rotary_1_pairs<decltype(type)>, arguments);
  });
}

}  // namespace q4j::cuda
