// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Rung 2, forward. */
#include "linear_small/linear_small_2.h"

namespace q4j::cuda {

q4j_status linear_small_2_forward(const q4j_pack_context& context, const SmallProduct& product) {
  constexpr Order kB = Order::kContraction;
  const char* name = "linear_small_2";
  if (product.m <= 8) return start_small<1, kB>(context, product, name, linear_small_2<1, kB>);
  if (product.m <= 16) return start_small<2, kB>(context, product, name, linear_small_2<2, kB>);
  if (product.m <= 32) return start_small<4, kB>(context, product, name, linear_small_2<4, kB>);
  return start_small<8, kB>(context, product, name, linear_small_2<8, kB>);
}

}  // namespace q4j::cuda
