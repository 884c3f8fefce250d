// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Tiles of a packed weight in the registers of a warp, and their codes as bf16. A value is looked up by a shuffle: one
 * instruction a code, and no table in shared memory. Of the two ways in pack_weight/packed_values.h the table of pairs takes
 * no more instructions but 64 KB, which a block with 128 KiB of stages (wgmma.h) has not, and the planes take 16 values for
 * every absmax, which pays where one thread decodes many codes of it: here a lane has eight.
 */
#ifndef QLORA4J_CUDA_LINEAR_TILE_CODES_H_
#define QLORA4J_CUDA_LINEAR_TILE_CODES_H_

#include "dequantize_4bit/scale.h"
#include "linear/packed_tiles.h"
#include "pack_weight/packed_layout.h"
#include "support/elements.h"

namespace q4j::cuda {

/** The tables of a format: one of its 16 values in every lane, twice in a warp, and the nested map in shared memory. */
struct Tables {
  float value;
  const float* map;
};

struct Map {
  float at[256];
};

template <int Format>
Q4J_DEVICE Tables load_values(const PackedTiles& w) {
  auto& map = block_shared<Map>();
  if (w.nested_absmax != nullptr && thread_index() < 256) map.at[thread_index()] = signed_map.at[thread_index()];
  const int code = lane_index() % 16;
  return {Format == Q4J_WEIGHT_NF4 ? nf4_by_code.at[code] : fp4_by_code.at[code], map.at};
}

/** What a lane loads of W for one tile of 16 rows and 64 columns. */
struct LoadedTile {
  uint32_t word[4];
  float scale; /* f32 absmax, or the map's value of its code: of row p / 2 + 8 (p % 2), p = lane % 16 */
  float nested;
};

/** Words first ... first + 2 * Pairs of the lane's four, and the scale of row lane % 16 in the layout's order. */
template <int Pairs>
Q4J_DEVICE LoadedTile load_tile(const PackedTiles& w, const Tables& tables, int strip, int column_tile, int first) {
  LoadedTile tile = {};
  if (strip >= w.strips || column_tile >= w.row_tiles) return tile;
  const int64_t at = static_cast<int64_t>(strip) * w.row_tiles + column_tile;
  const uint8_t* codes = w.codes + at * kTileBytes + lane_index() * 16 + first * 4;
  if constexpr (Pairs == 2) {
    const Words4 words = load_read_only(reinterpret_cast<const Words4*>(codes));
    Q4J_UNROLL
    for (int j = 0; j < 4; ++j) tile.word[j] = words.word[j];
  } else {
    const Words2 words = load_read_only(reinterpret_cast<const Words2*>(codes));
    tile.word[0] = words.word[0];
    tile.word[1] = words.word[1];
  }
  const int p = lane_index() % 16;
  const int block = column_tile >> w.block_shift;
  const int64_t element = (static_cast<int64_t>(strip) * w.row_blocks + block) * kTileRows + p;
  if (w.nested_absmax == nullptr) {
    tile.scale = load_read_only(static_cast<const float*>(w.absmax) + element);
  } else {
    const int64_t row = static_cast<int64_t>(strip) * kTileRows + p / 2 + 8 * (p % 2);
    tile.scale = tables.map[load_read_only(static_cast<const uint8_t*>(w.absmax) + element)];
    tile.nested = load_read_only(w.nested_absmax + ((row * w.row_blocks + block) >> w.nested_shift));
  }
  return tile;
}

/** absmax of the lane's row of load_tile. */
Q4J_DEVICE float absmax_of(const PackedTiles& w, const LoadedTile& tile) {
  return w.nested_absmax == nullptr ? tile.scale : add(multiply(tile.scale, tile.nested), w.nested_offset);
}

/** Two codes of a word, 16 bits apart, as a pair of bf16: nibble f of each half. */
Q4J_DEVICE uint32_t decode_pair(const Tables& tables, uint32_t word, int f, float low_scale, float high_scale) {
  return narrow_pair<bf16>(multiply(shuffle_16(tables.value, static_cast<int>(word >> (4 * f))), low_scale),
                           multiply(shuffle_16(tables.value, static_cast<int>(word >> (16 + 4 * f))), high_scale));
}

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_LINEAR_TILE_CODES_H_
