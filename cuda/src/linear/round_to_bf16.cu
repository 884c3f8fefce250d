// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** A thread takes eight elements: two loads and one store of 16 bytes, or two stores in place. */
#include "linear/slim_dense.h"
#include "support/elements.h"
#include "support/launch.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 256;

Q4J_KERNEL(kThreads, 4)
linear_round_to_bf16(const RoundToBf16 r) {
  const int64_t from = (static_cast<int64_t>(block_index()) * kThreads + thread_index()) * kEight;
  if (from >= r.n) return;
  const bool vectors = is_aligned(r.values, sizeof(Words4)) && is_aligned(r.output, sizeof(Words4));
  const Eight<float> eight = load_eight(r.values, from, r.n, vectors);
  float value[kEight];
  Q4J_UNROLL
  for (int i = 0; i < kEight; ++i) value[i] = widen(narrow<bf16>(element(eight, i)));
  if (r.dtype == Q4J_BF16) {
    store_eight(static_cast<bf16*>(r.output), from, r.n, vectors, value);
  } else {
    store_eight(static_cast<float*>(r.output), from, r.n, vectors, value);
  }
}

}  // namespace

q4j_status round_to_bf16(const q4j_pack_context& context, const RoundToBf16& arguments) {
  return launch(context, {blocks_for(arguments.n, int64_t{kThreads} * kEight), kThreads}, "linear_round_to_bf16",
                linear_round_to_bf16, arguments);
}

}  // namespace q4j::cuda
