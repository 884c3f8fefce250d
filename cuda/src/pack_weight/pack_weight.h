// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * pack_weight and unpack_weight: between the canonical parts of a 4-bit weight and packed_layout.h's, both ways without loss.
 *
 * Launch contract
 *   canonical  data u8[(rows cols + 1) / 2], absmax f32 or u8 [blocks], nested absmax f32[...]; any alignment of the data (16
 *              bytes is fast), elements' alignment of the others
 *   packed     one piece of memory, aligned to 64 bytes
 * Weights whose packed form is the canonical parts are copied.
 *
 * Rungs (of the codes; absmax and the copies have one version: they are a thirty-second to an eighth of the bytes)
 *   1 one thread per byte of the result, which looks up its two codes by the formula of the layout. Also runs, whatever was
 *     chosen, when the canonical data is not aligned to 16 bytes.
 *   2 packing: one thread per 16 bytes of a lane; the four lanes that share a row read its 32 bytes of the tile together.
 *     Unpacking: one thread per 16 canonical bytes, a warp per tile. Only whole 32-byte sectors move.
 */
#ifndef QLORA4J_CUDA_PACK_WEIGHT_PACK_WEIGHT_H_
#define QLORA4J_CUDA_PACK_WEIGHT_PACK_WEIGHT_H_

#include "pack/context.h"
#include "pack_weight/packed_layout.h"

namespace q4j::cuda {

/** From canonical codes to tiles, or back. */
struct RearrangeCodes {
  const uint8_t* from;
  uint8_t* to;
  int64_t row_bytes; /* of a canonical row */
  int64_t row_tiles;
  int64_t tiles;
};

q4j_status pack_codes_1(const q4j_pack_context& context, const RearrangeCodes& arguments);
q4j_status pack_codes_2(const q4j_pack_context& context, const RearrangeCodes& arguments);
q4j_status unpack_codes_1(const q4j_pack_context& context, const RearrangeCodes& arguments);
q4j_status unpack_codes_2(const q4j_pack_context& context, const RearrangeCodes& arguments);

/** From canonical absmax to tiles' or back; `blocks` elements of f32, or u8 with `nested`. */
struct RearrangeAbsmax {
  const void* from;
  void* to;
  int64_t row_blocks;
  int64_t blocks;
  bool nested;
};

q4j_status pack_absmax(const q4j_pack_context& context, const RearrangeAbsmax& arguments);
q4j_status unpack_absmax(const q4j_pack_context& context, const RearrangeAbsmax& arguments);

/** Copies bytes; no alignment needed. */
q4j_status copy_part(const q4j_pack_context& context, const void* from, void* to, int64_t bytes);

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_PACK_WEIGHT_PACK_WEIGHT_H_
