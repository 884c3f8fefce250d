// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Rung 1, the definition of the layout, and what both rungs share: absmax and copies. */
#include "pack_weight/pack_weight.h"
#include "pack_weight/packed_values.h"
#include "support/elements.h"
#include "support/launch.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 256;

Q4J_DEVICE int64_t thread_of_grid() { return static_cast<int64_t>(block_index()) * kThreads + thread_index(); }

/** A byte of tiles holds two codes of one row, eight columns apart. */
Q4J_KERNEL(kThreads, 1)
pack_weight_1_bytes(const RearrangeCodes r) {
  const int64_t byte = thread_of_grid();
  if (byte >= r.tiles * kTileBytes) return;
  const int64_t tile = byte / kTileBytes;
  const int in_tile = static_cast<int>(byte % kTileBytes);
  const int lane = in_tile / 16;
  const int word = in_tile % 16 / 4;
  const int nibble = in_tile % 4 * 2;
  const int64_t row = tile / r.row_tiles * kTileRows + lane / 4 + word % 2 * 8;
  const int64_t col = tile % r.row_tiles * kTileCols + word / 2 * 32 + nibble % 4 * 8 + lane % 4 * 2;
  // The even element of a canonical byte sits in the high nibble; nibbles 4 to 7 of a word are the odd elements.
  const int shift = nibble < 4 ? 4 : 0;
  const uint8_t* from = r.from + row * r.row_bytes + col / 2;
  const uint32_t low = static_cast<uint32_t>(from[0]) >> shift & 15u;
  const uint32_t high = static_cast<uint32_t>(from[4]) >> shift & 15u;
  r.to[byte] = static_cast<uint8_t>(low | high << 4);
}

Q4J_KERNEL(kThreads, 1)
unpack_weight_1_bytes(const RearrangeCodes r) {
  const int64_t byte = thread_of_grid();
  if (byte >= r.tiles * kTileBytes) return;
  const int64_t row = byte / r.row_bytes;
  const int64_t col = byte % r.row_bytes * 2;
  const CodePlace even = place_in_tiles(r.row_tiles, row, col);
  const CodePlace odd = place_in_tiles(r.row_tiles, row, col + 1);
  const uint32_t high = static_cast<uint32_t>(r.from[even.byte]) >> even.shift & 15u;
  const uint32_t low = static_cast<uint32_t>(r.from[odd.byte]) >> odd.shift & 15u;
  r.to[byte] = static_cast<uint8_t>(high << 4 | low);
}

/** Element `packed` of the tiles' order, as an index of the canonical order. */
Q4J_DEVICE int64_t canonical_block(int64_t row_blocks, int64_t packed) {
  const int64_t position = packed % kTileRows;
  const int64_t block = packed / kTileRows % row_blocks;
  const int64_t strip = packed / (kTileRows * row_blocks);
  return (strip * kTileRows + position / 2 + position % 2 * 8) * row_blocks + block;
}

template <typename T>
Q4J_KERNEL(kThreads, 1)
pack_weight_absmax(const RearrangeAbsmax r) {
  const int64_t packed = thread_of_grid();
  if (packed >= r.blocks) return;
  static_cast<T*>(r.to)[packed] = static_cast<const T*>(r.from)[canonical_block(r.row_blocks, packed)];
}

template <typename T>
Q4J_KERNEL(kThreads, 1)
unpack_weight_absmax(const RearrangeAbsmax r) {
  const int64_t packed = thread_of_grid();
  if (packed >= r.blocks) return;
  static_cast<T*>(r.to)[canonical_block(r.row_blocks, packed)] = static_cast<const T*>(r.from)[packed];
}

/** Sixteen bytes per thread. */
Q4J_KERNEL(kThreads, 1)
pack_weight_copy(const uint8_t* from, uint8_t* to, int64_t bytes) {
  const int64_t at = thread_of_grid() * 16;
  if (at >= bytes) return;
  if (at + 16 <= bytes && is_aligned(from, sizeof(Words4)) && is_aligned(to, sizeof(Words4))) {
    store(reinterpret_cast<Words4*>(to + at), load_read_only(reinterpret_cast<const Words4*>(from + at)));
    return;
  }
  Q4J_NO_UNROLL
  for (int64_t i = at; i < at + 16 && i < bytes; ++i) to[i] = from[i];
}

Grid one_thread_each(int64_t items) { return {blocks_for(items, kThreads), kThreads}; }

}  // namespace

q4j_status pack_codes_1(const q4j_pack_context& context, const RearrangeCodes& arguments) {
  return launch(context, one_thread_each(arguments.tiles * kTileBytes), "pack_weight_1_bytes", pack_weight_1_bytes, arguments);
}

q4j_status unpack_codes_1(const q4j_pack_context& context, const RearrangeCodes& arguments) {
  return launch(context, one_thread_each(arguments.tiles * kTileBytes), "unpack_weight_1_bytes", unpack_weight_1_bytes,
                arguments);
}

q4j_status pack_absmax(const q4j_pack_context& context, const RearrangeAbsmax& arguments) {
  const auto kernel = arguments.nested ? &pack_weight_absmax<uint8_t> : &pack_weight_absmax<float>;
  return launch(context, one_thread_each(arguments.blocks), "pack_weight_absmax", kernel, arguments);
}

q4j_status unpack_absmax(const q4j_pack_context& context, const RearrangeAbsmax& arguments) {
  const auto kernel = arguments.nested ? &unpack_weight_absmax<uint8_t> : &unpack_weight_absmax<float>;
  return launch(context, one_thread_each(arguments.blocks), "unpack_weight_absmax", kernel, arguments);
}

q4j_status copy_part(const q4j_pack_context& context, const void* from, void* to, int64_t bytes) {
  return launch(context, {blocks_for(bytes, 16 * kThreads), kThreads}, "pack_weight_copy", pack_weight_copy,
                static_cast<const uint8_t*>(from), static_cast<uint8_t*>(to), bytes);
}

}  // namespace q4j::cuda
