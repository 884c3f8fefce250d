// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * xa = x a^T for a few rows of x, as in decoding: a block for each row of a, which it reads once. With so few rows the tiles of
 * product_2_slim.cu would be cut into a hundred parts along k, and adding the parts up would take longer than the product.
 */
#include "linear/inner_few.h"
#include "support/launch.h"
#include "support/reduce.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 256;

Q4J_KERNEL(kThreads, 2)
linear_inner_few(const Product p) {
  RowReduction<Sum, kMostInnerRows> reduce(kThreads);
  const int64_t r = block_index();
  const auto* a = static_cast<const float*>(p.b.data) + r * p.b.ld;
  const auto* x = static_cast<const bf16*>(p.a.data);
  const bool wide_a = is_aligned(p.b.data, sizeof(Words4)) && p.b.ld % 4 == 0;
  const bool wide_x = is_aligned(p.a.data, sizeof(Words4)) && p.a.ld % kEight == 0;
  float sum[kMostInnerRows] = {};
  Q4J_NO_UNROLL
  for (int64_t from = int64_t{thread_index()} * kEight; from < p.k; from += int64_t{kThreads} * kEight) {
    const Eight<float> of_a = load_eight(a, from, p.k, wide_a);
    float value[kEight];
    Q4J_UNROLL
    for (int i = 0; i < kEight; ++i) value[i] = p.exact ? element(of_a, i) : widen(narrow<bf16>(element(of_a, i)));
    Q4J_UNROLL
    for (int row = 0; row < kMostInnerRows; ++row) {
      if (row >= p.m) continue;
      const Eight<bf16> of_x = load_eight(x + row * p.a.ld, from, p.k, wide_x);
      Q4J_UNROLL
      for (int i = 0; i < kEight; ++i) sum[row] = multiply_add(element(of_x, i), value[i], sum[row]);
    }
  }
  reduce(sum);
  if (thread_index() != 0) return;
  Q4J_UNROLL
  for (int row = 0; row < kMostInnerRows; ++row) {
    if (row < p.m) write_one(p.output, row, r, sum[row]);
  }
}

}  // namespace

bool inner_few_takes(const Product& p) {
  return p.m <= kMostInnerRows && p.a.elements == Elements::kBf16 && !p.a_mask.on && p.n < 0x7fffffff;
}

q4j_status inner_few(const q4j_pack_context& context, const Product& product) {
  return launch(context, {static_cast<int>(product.n), kThreads}, "linear_inner_few", linear_inner_few, product);
}

}  // namespace q4j::cuda
