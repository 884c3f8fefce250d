// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Rung 3: contiguous loads and stores. A warp writes 512 contiguous bytes per instruction in bf16, where rung 2 writes 32
 * pieces of 16 bytes, half a sector each. Four words per thread are loaded, with their absmax, before the first is used.
 */
#include "dequantize_4bit/dequantize_4bit.h"
#include "dequantize_4bit/scale.h"
#include "support/dispatch.h"
#include "support/launch.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kInFlight = 4;
constexpr int64_t kRow = kThreads * kEight;
constexpr int64_t kTile = kInFlight * kRow;

template <typename T, int Format>
Q4J_KERNEL(kThreads, 6)
dequantize_4bit_3_rows(const Dequantize4Bit d) {
  const DequantizeTables& tables = load_tables<Format>(d);
  const bool wide_packed = is_aligned(d.packed, sizeof(uint32_t));
  const bool wide_output = is_aligned(d.output, sizeof(Words4));
  for (int64_t tile = static_cast<int64_t>(block_index()) * kTile; tile < d.n; tile += grid_blocks() * kTile) {
    const int64_t start = tile + thread_index() * kEight;
    uint32_t codes[kInFlight];
    float absmax[kInFlight];
    Q4J_UNROLL
    for (int r = 0; r < kInFlight; ++r) {
      const int64_t from = start + r * kRow;
      codes[r] = load_codes(d, from, wide_packed);
      absmax[r] = from < d.n ? absmax_of_block(d, tables.map, from >> d.block_shift) : 0.0f;
    }
    Q4J_UNROLL
    for (int r = 0; r < kInFlight; ++r) {
      const int64_t from = start + r * kRow;
      if (from < d.n) decode_eight<T>(d, tables, codes[r], absmax[r], from, wide_output);
    }
  }
}

}  // namespace

q4j_status dequantize_4bit_3(const q4j_pack_context& context, const Dequantize4Bit& arguments) {
  return with_dtype(arguments.dtype, [&](auto type) {
    using T = decltype(type);
    return with_format(arguments.format, [&](auto format) {
      const auto kernel = dequantize_4bit_3_rows<T, decltype(format)::value>;
      int resident = 0;
      Q4J_RETURN_IF_ERROR(resident_blocks(context, kThreads, "dequantize_4bit_3_rows", kernel, &resident));
      const Grid grid = {blocks_for(arguments.n, kTile, resident), kThreads};
      return launch(context, grid, "dequantize_4bit_3_rows", kernel, arguments);
    });
  });
}

}  // namespace q4j::cuda
