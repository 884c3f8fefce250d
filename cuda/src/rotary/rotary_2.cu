// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Rung 2: cosine and sine once per block and pair, in shared memory; elements in vectors. */
#include <algorithm>

#include "rotary/rotary.h"
#include "rotary/rotation.h"
#include "support/dispatch.h"
#include "support/launch.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kMostPairs = 1024;

struct Rotations {
  float cosine[kMostPairs];
  float sine[kMostPairs];
};

/** `tokens_at_once` tokens per block: as many as give every thread one pair to work out. */
template <typename T>
Q4J_KERNEL(kThreads, 4)
rotary_2_tokens(const Rotary r, int tokens_at_once) {
  constexpr int kN = kPerVector<T>;
  auto& rotations = block_shared<Rotations>();
  const int vectors = r.half / kN;
  const auto heads = static_cast<int>(r.heads);
  const int64_t step = static_cast<int64_t>(grid_blocks()) * tokens_at_once;
  for (int64_t first = static_cast<int64_t>(block_index()) * tokens_at_once; first < r.tokens; first += step) {
    const int tokens = first + tokens_at_once < r.tokens ? tokens_at_once : static_cast<int>(r.tokens - first);
    block_barrier();  // the rotations of the last tokens have been read
    for (int i = thread_index(); i < tokens * r.half; i += kThreads) {
      const Rotation rotation = rotation_of<T>(r, first + i / r.half, i % r.half);
      rotations.cosine[i] = rotation.cosine;
      rotations.sine[i] = rotation.sine;
    }
    block_barrier();
    for (int i = thread_index(); i < tokens * heads * vectors; i += kThreads) {
      const int head_of_all = i / vectors;
      const int token = head_of_all / heads;
      const int pair = (i - head_of_all * vectors) * kN;
      T* low = static_cast<T*>(r.x) + (first + token) * r.token_stride + (head_of_all - token * heads) * r.head_stride + pair;
      const Words4 lows = load_vector(low);
      const Words4 highs = load_vector(low + r.half);
      float rotated_low[kN];
      float rotated_high[kN];
      Q4J_UNROLL
      for (int e = 0; e < kN; ++e) {
        const int at = token * r.half + pair + e;
        const Rotation rotation = {rotations.cosine[at], rotations.sine[at]};
        rotated_low[e] = rotation.low(element<T>(lows, e), element<T>(highs, e));
        rotated_high[e] = rotation.high(element<T>(lows, e), element<T>(highs, e));
      }
      store_vector(low, rotated_low);
      store_vector(low + r.half, rotated_high);
    }
  }
}

}  // namespace

q4j_status rotary_2(const q4j_pack_context& context, const Rotary& arguments) {
  if (arguments.heads == 0) return Q4J_OK;
  return with_activation_type(arguments.dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int kN = kPerVector<T>;
    const bool wide = are_aligned({arguments.x}) && arguments.half % kN == 0 &&
                      (arguments.token_stride % kN == 0 || arguments.tokens == 1) &&
                      (arguments.head_stride % kN == 0 || arguments.heads == 1);
    // The vectors of a block are counted in 32 bits.
    if (!wide || arguments.half > kMostPairs || arguments.heads > 1 << 20) return rotary_1(context, arguments);
    const int tokens_at_once = std::max(1, kThreads / arguments.half);
    const Grid grid = {blocks_for(arguments.tokens, tokens_at_once), kThreads};
    return launch(context, grid, "rotary_2_tokens", rotary_2_tokens<T>, arguments, tokens_at_once);
  });
}

}  // namespace q4j::cuda
