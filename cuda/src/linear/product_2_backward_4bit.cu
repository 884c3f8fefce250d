// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** dx = dy W: the same bytes of W, whose rows are a k each now, so fragments are transposed as they are loaded. */
#include "linear/product_2.h"

namespace q4j::cuda {

q4j_status product_2_backward_4bit(const q4j_pack_context& context, const Product& product, Path path, const Split& split) {
  constexpr Order kA = Order::kContraction;
  constexpr Order kB = Order::kOuter;
  switch (path) {
    case Path::kLarge:
      return start_tiles_of<kA, kB, FourBitTile, Large>(context, product, split);
    case Path::kMedium:
      return start_tiles_of<kA, kB, FourBitTile, Medium>(context, product, split);
    default:
      return start_tiles_of<kA, kB, FourBitTile, Small>(context, product, split);
  }
}

}  // namespace q4j::cuda
