// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Rung 3, forward: rung 2 with a quarter of the codes looked up in registers. Rung 2 is bound by shared memory, which gives it
 * 32 codes per clock; the permutes of the quarter go where there is time left.
 */
#include "linear_small/linear_small_2.h"

namespace q4j::cuda {

q4j_status linear_small_3_forward(const q4j_pack_context& context, const SmallProduct& product) {
  constexpr Order kB = Order::kContraction;
  const char* name = "linear_small_3";
  if (product.m <= 8) return start_small<1, kB>(context, product, name, linear_small_3<1, kB>);
  if (product.m <= 16) return start_small<2, kB>(context, product, name, linear_small_3<2, kB>);
  if (product.m <= 32) return start_small<4, kB>(context, product, name, linear_small_3<4, kB>);
  return start_small<8, kB>(context, product, name, linear_small_3<8, kB>);
}

}  // namespace q4j::cuda
