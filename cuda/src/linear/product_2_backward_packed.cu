// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The weight packed as tiles, dx = dy W: the weight's rows are a k each. Few rows have kernels of their own (linear_small/).
 */
#include "linear/packed_tile.h"
#include "linear/product_2.h"

namespace q4j::cuda {

q4j_status product_2_backward_packed(const q4j_pack_context& context, const Product& product, Path path, const Split& split) {
  constexpr Order kA = Order::kContraction;
  constexpr Order kB = Order::kOuter;
  return path == Path::kLarge ? start_tiles_of<kA, kB, PackedTile, Large>(context, product, split)
                              : start_tiles_of<kA, kB, PackedTile, Medium>(context, product, split);
}

}  // namespace q4j::cuda
