// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Rung 1: the definition, one block per row. */
#include "cross_entropy/cross_entropy.h"
#include "cross_entropy/row_loss.h"
#include "support/dispatch.h"
#include "support/elements.h"
#include "support/launch.h"
#include "support/reduce.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 256;

template <typename T>
Q4J_KERNEL(kThreads, 4)
cross_entropy_1_rows(const CrossEntropy c) {
  RowReduction<Maximum, 1> reduce_largest(kThreads);
  RowReduction<Sum, 2> reduce_sums(kThreads);
  for (int64_t row = block_index(); row < c.m; row += grid_blocks()) {
    const T* logits = static_cast<const T*>(c.logits) + row * c.ldlogits;
    T* dlogits = c.dlogits == nullptr ? nullptr : static_cast<T*>(c.dlogits) + row * c.lddlogits;
    const int32_t label = c.labels[row];
    if (label == kIgnoredLabel) {
      if (thread_index() == 0) c.loss[row] = 0.0f;
      for (int64_t j = thread_index(); j < c.n && dlogits != nullptr; j += kThreads) dlogits[j] = narrow<T>(0.0f);
      continue;
    }
    float largest[1] = {Maximum::kNothing};
    for (int64_t j = thread_index(); j < c.n; j += kThreads) largest[0] = maximum(largest[0], widen(logits[j]));
    reduce_largest(largest);
    float sums[2] = {0.0f, 0.0f};
    for (int64_t j = thread_index(); j < c.n; j += kThreads) {
      const float z = widen(logits[j]);
      sums[0] += exponential(z - largest[0]);
      sums[1] += z;
    }
    // The gradient may overwrite the label's logit behind the barrier in this reduction.
    const float own = is_class(c, label) ? widen(logits[label]) : bits_float(0x7fffffffu);
    reduce_sums(sums);
    const RowSums found = {largest[0], sums[0], sums[1]};
    if (thread_index() == 0) c.loss[row] = row_loss(c, found, own);
    if (dlogits == nullptr) continue;
    const RowGradient gradient = row_gradient(c, found, label);
    for (int64_t j = thread_index(); j < c.n; j += kThreads) {
      const float e = exponential(widen(logits[j]) - largest[0]);
      dlogits[j] = narrow<T>(j == label ? label_gradient(c, found, e) : gradient.of(e));
    }
  }
}

}  // namespace

q4j_status cross_entropy_1(const q4j_pack_context& context, const CrossEntropy& arguments) {
  return with_activation_type(arguments.dtype, [&](auto type) {
    const Grid grid = {blocks_for(arguments.m, 1), kThreads};
    return launch(context, grid, "cross_entropy_1_rows", cross_entropy_1_rows<decltype(type)>, arguments);
  });
}

}  // namespace q4j::cuda
