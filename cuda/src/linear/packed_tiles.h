// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** A packed weight of the kind "tiles" (pack_weight/packed_layout.h) as the kernels for many rows take it. */
#ifndef QLORA4J_CUDA_LINEAR_PACKED_TILES_H_
#define QLORA4J_CUDA_LINEAR_PACKED_TILES_H_

#include <cstdint>

#include "qlora4j/types.h"

namespace q4j::cuda {

struct PackedTiles {
  const uint8_t* codes;
  const void* absmax;         /* u8 codes when nested_absmax is given, else f32 */
  const float* nested_absmax; /* or NULL */
  float nested_offset;
  int32_t nested_shift; /* log2 of the blocks of a nested block */
  int32_t block_shift;  /* log2 of a block's tiles of 64 columns */
  int32_t row_tiles;    /* of a strip */
  int32_t row_blocks;   /* of a row */
  int32_t strips;       /* of 16 rows */
};

/** The parts of a packed weight; it must be tiles. */
PackedTiles tiles_of(const q4j_weight& weight);

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_LINEAR_PACKED_TILES_H_
