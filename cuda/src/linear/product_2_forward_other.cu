// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** y = x W^T: both factors' rows run along k. W is f32 or f16. */
#include "linear/product_2.h"

namespace q4j::cuda {

q4j_status product_2_forward_other(const q4j_pack_context& context, const Product& product, const Split& split) {
  return start_tiles_of<Order::kContraction, Order::kContraction, RoundedTile, Medium>(context, product, split);
}

}  // namespace q4j::cuda
