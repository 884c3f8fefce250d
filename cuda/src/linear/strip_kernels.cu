// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * One thread per eight columns: a 4-byte load of codes, a 16-byte store. What is not of the weight is worked out element by
 * element: it is one column in eighty at rank 64 and k = 5120. Items are counted in 32 bits, because a 64-bit division for
 * every eight elements would be half of the instructions; kMostItems bounds them.
 */
#include "linear/strip_kernels.h"

#include "dequantize_4bit/scale.h"
#include "linear/bf16_part.h"
#include "linear/tile_codes.h"
#include "support/dispatch.h"
#include "support/launch.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 256;

Q4J_DEVICE float read_element(const void* data, int32_t dtype, int64_t index) {
  if (dtype == Q4J_BF16) return widen(static_cast<const bf16*>(data)[index]);
  if (dtype == Q4J_F16) return widen(static_cast<const f16*>(data)[index]);
  return static_cast<const float*>(data)[index];
}

/** The weight's side of branch column (or row) `column` of the groups, for the factor's element `value`. */
Q4J_DEVICE float branch_of_weight(const BranchFactor& factor, const BranchParts& parts, int group, float value) {
  const float used = factor.rounds ? widen(narrow<bf16>(value)) : value;
  return bf16_part(multiply(factor.s, used), static_cast<int>(parts.of_weight >> (4 * group) & 15u));
}

/** One element of W, unrounded. */
template <bool Quantized>
Q4J_DEVICE float weight_element(const StripWeight& w, const DequantizeTables& tables, int64_t row, int64_t col) {
  if constexpr (Quantized) {
    const int64_t i = row * w.cols + col;
    const uint32_t byte = load_read_only(w.quantized.packed + i / 2);
    const uint32_t code = (i & 1) == 0 ? byte >> 4 : byte & 15u;
    return multiply(tables.value[code], absmax_of_block(w.quantized, tables.map, i >> w.quantized.block_shift));
  } else {
    return read_element(w.dense, w.dense_dtype, row * w.ld + col);
  }
}

/** The eight elements from (row, col) on, all inside the row. `whole`: they are a word of codes, or 16 aligned bytes of bf16.
 */
template <bool Quantized>
Q4J_DEVICE void weight_eight(const StripWeight& w, const DequantizeTables& tables, int64_t row, int64_t col, bool whole,
                             float (&value)[kEight]) {
  if constexpr (Quantized) {
    if (whole) {
      const int64_t i = row * w.cols + col;
      const uint32_t codes = load_read_only(reinterpret_cast<const uint32_t*>(w.quantized.packed + i / 2));
      const float absmax = absmax_of_block(w.quantized, tables.map, i >> w.quantized.block_shift);
      Q4J_UNROLL
      for (int e = 0; e < kEight; ++e) value[e] = multiply(tables.value[(codes >> (4 * (e ^ 1))) & 15u], absmax);
      return;
    }
  } else {
    if (whole) {
      const auto* source = static_cast<const bf16*>(w.dense) + row * w.ld + col;
      const Eight<bf16> eight = load_eight(source, 0, kEight, true);
      Q4J_UNROLL
      for (int e = 0; e < kEight; ++e) value[e] = element(eight, e);
      return;
    }
  }
  Q4J_UNROLL
  for (int e = 0; e < kEight; ++e) value[e] = weight_element<Quantized>(w, tables, row, col + e);
}

/** Whether weight_eight may take eight elements at columns that are multiples of 8 in one access. */
template <bool Quantized>
Q4J_DEVICE bool takes_whole(const StripWeight& w) {
  if constexpr (Quantized) return w.cols % kEight == 0 && is_aligned(w.quantized.packed, sizeof(uint32_t));
  return w.dense_dtype == Q4J_BF16 && w.ld % kEight == 0 && is_aligned(w.dense, sizeof(Words4));
}

template <int Format>
Q4J_DEVICE const DequantizeTables& tables_of(const StripWeight& w) {
  return load_tables<Format>(w.quantized);
}

template <int Format>
Q4J_KERNEL(kThreads, 4)
linear_strip_rows(const StripRows s) {
  constexpr bool quantized = Format != Q4J_WEIGHT_DENSE;
  const DequantizeTables& tables = tables_of<Format>(s.weight);
  const bool whole = takes_whole<quantized>(s.weight);
  // What a packed weight has is written by linear_strip_tiles.
  const int32_t begin = s.weight.packed ? static_cast<int32_t>(s.weight.cols / kEight) : 0;
  const int32_t chunks = static_cast<int32_t>(s.width / kEight) - begin;
  const int32_t items = static_cast<int32_t>(s.count) * chunks;
  const int64_t branch_end = s.weight.cols + static_cast<int64_t>(s.parts.groups) * s.b.rank;
  const int32_t step = grid_blocks() * kThreads;
  for (int32_t item = block_index() * kThreads + thread_index(); item < items; item += step) {
    const int32_t local = item / chunks;
    const int64_t col = static_cast<int64_t>(begin + item - local * chunks) * kEight;
    const int64_t row = s.first + local;
    float value[kEight];
    if (col + kEight <= s.weight.cols) {
      weight_eight<quantized>(s.weight, tables, row, col, whole, value);
    } else {
      Q4J_UNROLL
      for (int e = 0; e < kEight; ++e) {
        const int64_t c = col + e;
        float v = 0.0f;
        if (c < s.weight.cols) {
          v = weight_element<quantized>(s.weight, tables, row, c);
        } else if (c < branch_end) {
          const int64_t column = c - s.weight.cols;
          const int group = static_cast<int>(column / s.b.rank);
          v = branch_of_weight(s.b, s.parts, group, s.b.values[row * s.b.rank + column - group * s.b.rank]);
        } else if (c < branch_end + s.bias_parts) {
          v = bf16_term(read_element(s.bias, s.bias_dtype, row), static_cast<int>(c - branch_end));
        }
        value[e] = v;
      }
    }
    store_eight(static_cast<bf16*>(s.strip), local * s.width + col, s.count * s.width, true, value);
  }
}

template <int Format>
Q4J_KERNEL(kThreads, 4)
linear_strip_columns(const StripColumns s) {
  constexpr bool quantized = Format != Q4J_WEIGHT_DENSE;
  const DequantizeTables& tables = tables_of<Format>(s.weight);
  const bool whole = takes_whole<quantized>(s.weight);
  const int32_t chunks = static_cast<int32_t>(s.count / kEight);
  // What a packed weight has is written by linear_strip_tiles.
  const int32_t begin = s.weight.packed ? static_cast<int32_t>(s.weight.rows) * chunks : 0;
  const int32_t items = static_cast<int32_t>(s.height) * chunks;
  const int64_t branch_end = s.weight.rows + static_cast<int64_t>(s.parts.groups) * s.a.rank;
  const int32_t step = grid_blocks() * kThreads;
  for (int32_t item = begin + block_index() * kThreads + thread_index(); item < items; item += step) {
    const int32_t row = item / chunks;
    const int64_t col = s.first + static_cast<int64_t>(item - row * chunks) * kEight;
    float value[kEight];
    if (row < s.weight.rows) {
      weight_eight<quantized>(s.weight, tables, row, col, whole, value);
    } else {
      const int64_t extra = row - s.weight.rows;
      const bool branch = row < branch_end;
      const int group = branch ? static_cast<int>(extra / s.a.rank) : 0;
      Q4J_UNROLL
      for (int e = 0; e < kEight; ++e) {
        const int64_t at = (extra - group * s.a.rank) * s.weight.cols + col + e;
        value[e] = branch ? branch_of_weight(s.a, s.parts, group, s.a.values[at]) : 0.0f;
      }
    }
    store_eight(static_cast<bf16*>(s.strip), static_cast<int64_t>(item) * kEight, s.height * s.count, true, value);
  }
}

Q4J_KERNEL(kThreads, 4)
linear_widened_activations(const WidenedActivations w) {
  const auto* x = static_cast<const bf16*>(w.x);
  const bool whole = w.ldx % kEight == 0 && is_aligned(w.x, sizeof(Words4));
  const int32_t chunks = static_cast<int32_t>(w.width / kEight);
  const int32_t items = static_cast<int32_t>(w.m) * chunks;
  const int64_t branch_end = w.cols + static_cast<int64_t>(w.parts.groups) * w.rank;
  const int32_t step = grid_blocks() * kThreads;
  for (int32_t item = block_index() * kThreads + thread_index(); item < items; item += step) {
    const int32_t row = item / chunks;
    const int64_t col = static_cast<int64_t>(item - row * chunks) * kEight;
    if (whole && col + kEight <= w.cols) {
      store(reinterpret_cast<Words4*>(static_cast<bf16*>(w.output) + static_cast<int64_t>(item) * kEight),
            load_read_only(reinterpret_cast<const Words4*>(x + row * w.ldx + col)));
      continue;
    }
    float value[kEight];
    Q4J_UNROLL
    for (int e = 0; e < kEight; ++e) {
      const int64_t c = col + e;
      float v = 0.0f;
      if (c < w.cols) {
        v = widen(x[row * w.ldx + c]);
      } else if (c < branch_end) {
        const int64_t column = c - w.cols;
        const int group = static_cast<int>(column / w.rank);
        v = bf16_part(w.branch[row * w.rank + column - group * w.rank],
                      static_cast<int>(w.parts.of_activation >> (4 * group) & 15u));
      } else if (c < branch_end + w.ones) {
        v = 1.0f;
      }
      value[e] = v;
    }
    store_eight(static_cast<bf16*>(w.output), static_cast<int64_t>(item) * kEight, w.m * w.width, true, value);
  }
}

constexpr int kWarps = kThreads / kWarp;
/** Elements from a row of a staged tile to the next: 144 bytes, so that a warp's stores meet every bank once. */
constexpr int kStagedRow = kTileCols + 8;

struct StagedTiles {
  bf16 tile[kWarps][kTileRows * kStagedRow];
};

/** Tiles [first_strip, + strips) x [first_column, + columns) of a packed weight, as rows of `ld` elements. */
struct StripTiles {
  PackedTiles weight;
  int32_t first_strip;
  int32_t strips;
  int32_t first_column;
  int32_t columns;
  int64_t ld;
  void* strip;
};

/** A warp per tile: decoded in the order of its codes, turned into rows in shared memory, written 128 bytes a row. */
template <int Format>
Q4J_KERNEL(kThreads, 4)
linear_strip_tiles(const StripTiles s) {
  const Tables tables = load_values<Format>(s.weight);
  auto& staged = block_shared<StagedTiles>();
  block_barrier();
  bf16* own = staged.tile[warp_index()];
  const int g = lane_index() / 4;
  const int t = lane_index() % 4;
  for (int32_t item = block_index() * kWarps + warp_index(); item < s.strips * s.columns; item += grid_blocks() * kWarps) {
    const int32_t strip = item / s.columns;
    const int32_t column = item - strip * s.columns;
    const LoadedTile tile = load_tile<2>(s.weight, tables, s.first_strip + strip, s.first_column + column, 0);
    const float absmax = absmax_of(s.weight, tile);
    const float upper = shuffle(absmax, 2 * g);
    const float lower = shuffle(absmax, 2 * g + 1);
    warp_barrier();  // the last tile has been written out
    Q4J_UNROLL
    for (int j = 0; j < 4; ++j) {
      Q4J_UNROLL
      for (int f = 0; f < 4; ++f) {
        const float scale = j % 2 == 0 ? upper : lower;
        const int at = (g + j % 2 * 8) * kStagedRow + j / 2 * 32 + f * 8 + 2 * t;
        *reinterpret_cast<uint32_t*>(own + at) = decode_pair(tables, tile.word[j], f, scale, scale);
      }
    }
    warp_barrier();
    Q4J_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int row = i * 4 + lane_index() / 8;
      const int at = lane_index() % 8 * kEight;
      bf16* target = static_cast<bf16*>(s.strip) + (int64_t{strip} * kTileRows + row) * s.ld + int64_t{column} * kTileCols + at;
      store(reinterpret_cast<Words4*>(target), *reinterpret_cast<const Words4*>(own + row * kStagedRow + at));
    }
  }
}

template <typename Body>
q4j_status with_weight(const StripWeight& weight, Body body) {
  if (weight.format == Q4J_WEIGHT_DENSE) return body(Constant<Q4J_WEIGHT_DENSE>{});
  return with_format(weight.format, body);
}

template <typename Arguments>
q4j_status start_resident(const q4j_pack_context& context, int64_t items, const char* name, void (*kernel)(Arguments),
                          const Arguments& arguments) {
  int resident = 0;
  Q4J_RETURN_IF_ERROR(resident_blocks(context, kThreads, name, kernel, &resident));
  const Grid grid = {blocks_for(items, kThreads, resident), kThreads};
  return launch(context, grid, name, kernel, arguments);
}

q4j_status fill_tiles(const q4j_pack_context& context, int32_t format, const StripTiles& arguments) {
  return with_format(format, [&](auto f) {
    const auto kernel = linear_strip_tiles<decltype(f)::value>;
    int resident = 0;
    Q4J_RETURN_IF_ERROR(resident_blocks(context, kThreads, "linear_strip_tiles", kernel, &resident));
    const Grid grid = {blocks_for(int64_t{arguments.strips} * arguments.columns, kWarps, resident), kThreads};
    return launch(context, grid, "linear_strip_tiles", kernel, arguments);
  });
}

int32_t quotient(int64_t value, int divisor) { return static_cast<int32_t>(value / divisor); }

}  // namespace

q4j_status fill_strip_rows(const q4j_pack_context& context, const StripRows& s) {
  int64_t columns = s.width;
  if (s.weight.packed) {
    columns -= s.weight.cols;
    const StripTiles tiles = {
        s.weight.tiles, quotient(s.first, kTileRows), quotient(s.count, kTileRows), 0, s.weight.tiles.row_tiles, s.width,
        s.strip};
    Q4J_RETURN_IF_ERROR(fill_tiles(context, s.weight.format, tiles));
  }
  if (columns == 0) return Q4J_OK;
  return with_weight(s.weight, [&](auto format) {
    return start_resident(context, s.count * columns / kEight, "linear_strip_rows", linear_strip_rows<decltype(format)::value>,
                          s);
  });
}

q4j_status fill_strip_columns(const q4j_pack_context& context, const StripColumns& s) {
  int64_t rows = s.height;
  if (s.weight.packed) {
    rows -= s.weight.rows;
    const StripTiles tiles = {
        s.weight.tiles, 0, s.weight.tiles.strips, quotient(s.first, kTileCols), quotient(s.count, kTileCols), s.count, s.strip};
    Q4J_RETURN_IF_ERROR(fill_tiles(context, s.weight.format, tiles));
  }
  if (rows == 0) return Q4J_OK;
  return with_weight(s.weight, [&](auto format) {
    return start_resident(context, rows * s.count / kEight, "linear_strip_columns",
                          linear_strip_columns<decltype(format)::value>, s);
  });
}

q4j_status widen_activations(const q4j_pack_context& context, const WidenedActivations& arguments) {
  return start_resident(context, arguments.m * arguments.width / kEight, "linear_widened_activations",
                        linear_widened_activations, arguments);
}

}  // namespace q4j::cuda
