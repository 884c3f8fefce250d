// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** dw += dy^T x: the rows of both factors are a k each. */
#include "linear/product_2.h"

namespace q4j::cuda {

q4j_status product_2_gradient(const q4j_pack_context& context, const Product& product, const Split& split) {
  return start_tiles_of<Order::kOuter, Order::kOuter, CopiedTile, Medium>(context, product, split);
}

}  // namespace q4j::cuda
