// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The compute layout of 4-bit weights: what pack_weight makes and every linear kernel of this pack reads.
 * docs/kernels/pack-weight.md draws it.
 *
 * A packed weight has three parts at the offsets `0`, `absmax_at` and `nested_at`, each a multiple of 64 bytes: codes, absmax
 * (f32, or u8 codes of the nested map), nested absmax. Each part has exactly as many bytes as in the canonical weight. Shape
 * and block size alone decide which of two kinds it is:
 *
 * Tiles: rows % 16 == 0, cols % 64 == 0, block_size >= 64 and cols % block_size == 0.
 *   codes     Tiles of 16 rows by 64 columns, 512 bytes each; a strip of 16 rows is row_tiles = cols / 64 of them, one after
 *             the other, and strips follow each other. In a tile, lane l = 4 g + t of a warp owns bytes [16 l, 16 l + 16), four
 *             words. Bits [4 f, 4 f + 4) of word j, f = 0 ... 3, are the code of row g + 8 (j % 2) and column
 *             32 (j / 2) + 8 f + 2 t; bits [16 + 4 f, 16 + 4 f + 4) are that of the next column.
 *   absmax    Element [strip][k-block][p] belongs to row 16 strip + p / 2 + 8 (p % 2): the scales of the rows g and g + 8 are
 *             neighbours, those of a tile 16 consecutive elements.
 *   nested    As in the canonical weight, indexed by the canonical number of a block: row * row_blocks + k-block.
 *
 * So a lane owns what it needs as operand A of mma.m16n8k16 in the four k-steps of a tile: words 0 and 1 are the rows g and
 * g + 8 of k-steps 0 and 1, words 2 and 3 of k-steps 2 and 3; nibble 2 (s % 2) + h of a half is column half h of k-step s. One
 * movmatrix of a word transposes its four 8 by 8 blocks of codes at once.
 *
 * Parts: every other weight. The canonical parts as they are; canonical_parts() gives the weight they make.
 */
#ifndef QLORA4J_CUDA_PACK_WEIGHT_PACKED_LAYOUT_H_
#define QLORA4J_CUDA_PACK_WEIGHT_PACKED_LAYOUT_H_

#include <cstdint>

#include "qlora4j/types.h"

namespace q4j::cuda {

constexpr int kTileRows = 16;
constexpr int kTileCols = 64;
/** Bytes of a tile's codes: 16 for each lane of a warp. */
constexpr int kTileBytes = kTileRows * kTileCols / 2;
/** pack_weight's memory is aligned to this, and so is every part in it. */
constexpr int64_t kPackedAlignment = 64;

/** Sizes and offsets of a packed weight. Plain numbers, so that kernels take it as an argument. */
struct PackedLayout {
  bool tiles;         /* false: the parts lie as in the canonical weight */
  int64_t row_tiles;  /* tiles of a strip: cols / 64 */
  int64_t row_blocks; /* absmax blocks of a row: cols / block_size */
  int64_t blocks;
  int64_t data_bytes;
  int64_t absmax_bytes;
  int64_t nested_bytes;
  int64_t absmax_at;
  int64_t nested_at;
  int64_t bytes;
};

/** The layout that a 4-bit weight has, or would have, packed. Reads its shape only. */
inline PackedLayout packed_layout(const q4j_weight& weight) {
  const auto aligned = [](int64_t at) { return (at + kPackedAlignment - 1) / kPackedAlignment * kPackedAlignment; };
  const int64_t elements = weight.rows * weight.cols;
  const bool nested = weight.nested_block_size > 0;
  PackedLayout layout = {};
  layout.tiles = weight.rows % kTileRows == 0 && weight.cols % kTileCols == 0 && weight.block_size >= kTileCols &&
                 weight.cols % weight.block_size == 0;
  layout.row_tiles = weight.cols / kTileCols;
  layout.row_blocks = weight.cols / weight.block_size;
  layout.blocks = (elements + weight.block_size - 1) / weight.block_size;
  layout.data_bytes = (elements + 1) / 2;
  layout.absmax_bytes = layout.blocks * (nested ? 1 : 4);
  layout.nested_bytes = nested ? (layout.blocks + weight.nested_block_size - 1) / weight.nested_block_size * 4 : 0;
  layout.absmax_at = aligned(layout.data_bytes);
  layout.nested_at = layout.absmax_at + aligned(layout.absmax_bytes);
  layout.bytes = layout.nested_at + layout.nested_bytes;
  return layout;
}

/** The canonical weight inside a packed one that is no tiles. */
inline q4j_weight canonical_parts(const q4j_weight& packed) {
  const PackedLayout layout = packed_layout(packed);
  const auto* memory = static_cast<const uint8_t*>(packed.data);
  q4j_weight result = packed;
  result.layout = Q4J_LAYOUT_CANONICAL;
  result.absmax = memory + layout.absmax_at;
  result.nested_absmax = packed.nested_block_size > 0 ? memory + layout.nested_at : nullptr;
  return result;
}

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_PACK_WEIGHT_PACKED_LAYOUT_H_
