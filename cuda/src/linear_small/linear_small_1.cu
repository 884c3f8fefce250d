// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Rung 1, the definition: a warp makes 16 outputs for eight rows of A, every value is looked up and scaled on its own. */
#include "linear_small/linear_small.h"
#include "pack_weight/packed_values.h"
#include "support/launch.h"
#include "support/tensor_core.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 128;

/** An element of the weight in bf16, as a float. */
Q4J_DEVICE float weight_value(const SmallProduct& p, int64_t row, int64_t col) {
  const CodePlace place = place_in_tiles(p.row_tiles, row, col);
  const int64_t block = col / kTileCols >> p.block_shift;
  const int64_t at = absmax_in_tiles(p.row_blocks, row, block);
  float absmax;
  if (p.nested_absmax == nullptr) {
    absmax = static_cast<const float*>(p.absmax)[at];
  } else {
    const float value = signed_map.at[static_cast<const uint8_t*>(p.absmax)[at]];
    absmax = add(multiply(value, p.nested_absmax[(row * p.row_blocks + block) >> p.nested_shift]), p.nested_offset);
  }
  return multiply(p.values[p.codes[place.byte] >> place.shift & 15], absmax);
}

/** A pair of neighbours along the contraction, for an output. */
template <Order kB>
Q4J_DEVICE uint32_t weight_pair(const SmallProduct& p, int64_t out, int64_t along) {
  if constexpr (kB == Order::kContraction) {
    return narrow_pair<bf16>(weight_value(p, out, along), weight_value(p, out, along + 1));
  } else {
    return narrow_pair<bf16>(weight_value(p, along, out), weight_value(p, along + 1, out));
  }
}

/** An element of the branch. */
template <Order kB>
Q4J_DEVICE float branch_sum(const SmallProduct& p, int row, int64_t out, int64_t outs) {
  const Branch& branch = p.branch;
  if (branch.mask.on && !dropout_keeps(branch.mask, static_cast<uint32_t>(row), static_cast<uint32_t>(out))) return 0.0f;
  const float* inner = static_cast<const float*>(branch.inner.data) + static_cast<int64_t>(row) * branch.rank;
  const auto* factor = static_cast<const float*>(branch.factor.data);
  float sum = 0.0f;
  Q4J_NO_UNROLL
  for (int r = 0; r < branch.rank; ++r) {
    const float value = kB == Order::kContraction ? factor[out * branch.rank + r] : factor[r * outs + out];
    sum = multiply_add(inner[r], branch.exact ? value : widen(narrow<bf16>(value)), sum);
  }
  return multiply(sum, branch.scale);
}

template <Order kB>
Q4J_KERNEL(kThreads, 1)
linear_small_1_warps(const SmallProduct p) {
  constexpr bool kForward = kB == Order::kContraction;
  const int64_t rows = static_cast<int64_t>(p.strips) * kTileRows;
  const int64_t cols = static_cast<int64_t>(p.row_tiles) * kTileCols;
  const int64_t outs = kForward ? rows : cols;
  const int64_t length = kForward ? cols : rows;
  const int eights = (p.m + 7) / 8;
  const int64_t warp = static_cast<int64_t>(block_index()) * (kThreads / kWarp) + warp_index();
  if (warp >= outs / 16 * eights) return;
  const int g = lane_index() / 4;
  const int t = lane_index() % 4;
  const int64_t out = warp / eights * 16 + g;
  const int first_row = static_cast<int>(warp % eights) * 8;
  const bool present = first_row + g < p.m;
  const bf16* x = p.x + (present ? first_row + g : 0) * p.ldx;

  float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  Q4J_NO_UNROLL
  for (int64_t step = 0; step < length; step += 16) {
    const int64_t along = step + t * 2;
    const uint32_t a[4] = {weight_pair<kB>(p, out, along), weight_pair<kB>(p, out + 8, along),
                           weight_pair<kB>(p, out, along + 8), weight_pair<kB>(p, out + 8, along + 8)};
    uint32_t b[2] = {0u, 0u};
    Q4J_UNROLL
    for (int i = 0; i < 2 && present; ++i) {
      const bf16* pair = x + along + i * 8;
      b[i] = static_cast<uint32_t>(pair[0].bits) | static_cast<uint32_t>(pair[1].bits) << 16;
    }
    multiply_add_bf16(sum, a, b[0], b[1]);
  }
  Q4J_UNROLL
  for (int c = 0; c < 4; ++c) {
    const int row = first_row + t * 2 + c % 2;
    const int64_t column = out + c / 2 * 8;
    if (row >= p.m) continue;
    write_one(p.output, row, column, p.branch.rank > 0 ? add(branch_sum<kB>(p, row, column, outs), sum[c]) : sum[c]);
  }
}

template <Order kB>
q4j_status start(const q4j_pack_context& context, const SmallProduct& product) {
  const int64_t outs = kB == Order::kContraction ? product.strips : product.row_tiles * int64_t{4};
  const Grid grid = {blocks_for(outs * ((product.m + 7) / 8), kThreads / kWarp), kThreads};
  return launch(context, grid, "linear_small_1_warps", linear_small_1_warps<kB>, product);
}

}  // namespace

q4j_status linear_small_1(const q4j_pack_context& context, const SmallProduct& product, Order b) {
  return b == Order::kContraction ? start<Order::kContraction>(context, product) : start<Order::kOuter>(context, product);
}

}  // namespace q4j::cuda
