// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** y = x W^T: both factors' rows run along k. */
#include "linear/product_2.h"

namespace q4j::cuda {

q4j_status product_2_forward_4bit(const q4j_pack_context& context, const Product& product, Path path, const Split& split) {
  constexpr Order kA = Order::kContraction;
  constexpr Order kB = Order::kContraction;
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
