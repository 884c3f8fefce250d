// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Rung 2: sixteen bytes per thread on both sides. */
#include "pack_weight/pack_weight.h"
#include "support/device.h"
#include "support/launch.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kTilesPerBlock = kThreads / kWarp;

/** Four nibbles, one in the low half of each byte, side by side in 16 bits. */
Q4J_DEVICE uint32_t squeeze_nibbles(uint32_t bytes) {
  const uint32_t pairs = (bytes | bytes >> 4) & 0x00ff00ffu;
  return (pairs | pairs >> 8) & 0xffffu;
}

/** The way back. */
Q4J_DEVICE uint32_t spread_nibbles(uint32_t nibbles) {
  const uint32_t pairs = (nibbles | nibbles << 8) & 0x00ff00ffu;
  return (pairs | pairs << 4) & 0x0f0f0f0fu;
}

/** Byte `t` of each of four words. */
Q4J_DEVICE uint32_t bytes_of_words(const Words4& words, int t) {
  const uint32_t selector = static_cast<uint32_t>(t | (t + 4) << 4);
  const uint32_t low = byte_permute(words.word[0], words.word[1], selector);
  const uint32_t high = byte_permute(words.word[2], words.word[3], selector);
  return byte_permute(low, high, 0x5410u);
}

/** A warp's lane makes the 16 bytes it will own in the linear kernels: byte t, 4 + t, 8 + t, ... of two rows. */
Q4J_KERNEL(kThreads, 4)
pack_weight_2_lanes(const RearrangeCodes r) {
  const int64_t tile = static_cast<int64_t>(block_index()) * kTilesPerBlock + warp_index();
  if (tile >= r.tiles) return;
  const int lane = lane_index();
  const int64_t row = tile / r.row_tiles * kTileRows + lane / 4;
  const uint8_t* from = r.from + row * r.row_bytes + tile % r.row_tiles * (kTileCols / 2);
  Words4 canonical[4];  // as the result's words: two rows by two halves of 32 columns
  Q4J_UNROLL
  for (int j = 0; j < 4; ++j) {
    canonical[j] = load_read_only(reinterpret_cast<const Words4*>(from + j % 2 * 8 * r.row_bytes + j / 2 * 16));
  }
  Words4 packed;
  Q4J_UNROLL
  for (int j = 0; j < 4; ++j) {
    const uint32_t bytes = bytes_of_words(canonical[j], lane % 4);
    packed.word[j] = squeeze_nibbles(bytes >> 4 & 0x0f0f0f0fu) | squeeze_nibbles(bytes & 0x0f0f0f0fu) << 16;
  }
  store(reinterpret_cast<Words4*>(r.to + tile * kTileBytes) + lane, packed);
}

/** A lane makes 16 canonical bytes, half a row of the tile, from one word of each of the four lanes that own the row. */
Q4J_KERNEL(kThreads, 4)
unpack_weight_2_rows(const RearrangeCodes r) {
  const int64_t tile = static_cast<int64_t>(block_index()) * kTilesPerBlock + warp_index();
  if (tile >= r.tiles) return;
  const int row = lane_index() / 2;
  const int half = lane_index() % 2;
  const auto* words = reinterpret_cast<const uint32_t*>(r.from + tile * kTileBytes) + row % 8 * 16 + half * 2 + row / 8;
  uint32_t bytes[4];  // of lane t: canonical bytes t, 4 + t, 8 + t, 12 + t
  Q4J_UNROLL
  for (int t = 0; t < 4; ++t) {
    const uint32_t word = load_read_only(words + 4 * t);
    bytes[t] = spread_nibbles(word & 0xffffu) << 4 | spread_nibbles(word >> 16);
  }
  Words4 canonical;
  Q4J_UNROLL
  for (int i = 0; i < 4; ++i) {
    const uint32_t selector = static_cast<uint32_t>(i | (i + 4) << 4);
    canonical.word[i] =
        byte_permute(byte_permute(bytes[0], bytes[1], selector), byte_permute(bytes[2], bytes[3], selector), 0x5410u);
  }
  const int64_t to = (tile / r.row_tiles * kTileRows + row) * r.row_bytes + tile % r.row_tiles * (kTileCols / 2) + half * 16;
  store(reinterpret_cast<Words4*>(r.to + to), canonical);
}

}  // namespace

q4j_status pack_codes_2(const q4j_pack_context& context, const RearrangeCodes& arguments) {
  return launch(context, {blocks_for(arguments.tiles, kTilesPerBlock), kThreads}, "pack_weight_2_lanes", pack_weight_2_lanes,
                arguments);
}

q4j_status unpack_codes_2(const q4j_pack_context& context, const RearrangeCodes& arguments) {
  return launch(context, {blocks_for(arguments.tiles, kTilesPerBlock), kThreads}, "unpack_weight_2_rows", unpack_weight_2_rows,
                arguments);
}

}  // namespace q4j::cuda
