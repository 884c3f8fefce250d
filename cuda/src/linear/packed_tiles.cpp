// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#include "linear/packed_tiles.h"

#include "pack_weight/packed_layout.h"

namespace q4j::cuda {

PackedTiles tiles_of(const q4j_weight& weight) {
  const PackedLayout layout = packed_layout(weight);
  const auto* memory = static_cast<const uint8_t*>(weight.data);
  PackedTiles tiles = {};
  tiles.codes = memory;
  tiles.absmax = memory + layout.absmax_at;
  if (weight.nested_block_size > 0) {
    tiles.nested_absmax = reinterpret_cast<const float*>(memory + layout.nested_at);
    tiles.nested_offset = weight.nested_offset;
    tiles.nested_shift = __builtin_ctz(static_cast<unsigned>(weight.nested_block_size));
  }
  tiles.block_shift = __builtin_ctz(static_cast<unsigned>(weight.block_size / kTileCols));
  tiles.row_tiles = static_cast<int32_t>(layout.row_tiles);
  tiles.row_blocks = static_cast<int32_t>(layout.row_blocks);
  tiles.strips = static_cast<int32_t>(weight.rows / kTileRows);
  return tiles;
}

}  // namespace q4j::cuda
