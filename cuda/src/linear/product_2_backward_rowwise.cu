// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** dx = dy W: the same bytes of W, whose rows are a k each now. W is INT8 or FP8. */
#include "linear/product_2.h"
#include "linear/rowwise_tile.h"

namespace q4j::cuda {

q4j_status product_2_backward_rowwise(const q4j_pack_context& context, const Product& product, Path path, const Split& split) {
  constexpr Order kA = Order::kContraction;
  constexpr Order kB = Order::kOuter;
  switch (path) {
    case Path::kMedium:
      return start_tiles_of<kA, kB, RowwiseTile, Medium>(context, product, split);
    default:
      return start_tiles_of<kA, kB, RowwiseTile, Small>(context, product, split);
  }
}

}  // namespace q4j::cuda
