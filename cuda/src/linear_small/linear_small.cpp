// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** How a product of few rows is cut, and which rung runs. */
#include "linear_small/linear_small.h"

#include <algorithm>

#include "error.h"
#include "linear_small/shape.h"
#include "quant.h"

namespace q4j::cuda {

namespace {

// The device that the plan is for: an H100 or H200. Others run the same plan, so that they give the same results.
constexpr int64_t kMultiprocessors = 132;
constexpr int64_t kLatency = 1200;      /* clocks from a load to its data, under load: 700 ns */
constexpr int64_t kStageClocks = 1000;  /* to bring a chunk of A, beside its bytes */
constexpr int64_t kLaunchClocks = 3000; /* of the kernel that adds partial sums */

/**
 * Clocks of a multiprocessor for a tile of the weight, from what binds: shared memory (one access of 128 bytes per clock) or
 * the tensor cores. docs/kernels/linear.md counts the accesses.
 */
template <int NT, Order kB>
constexpr int64_t tile_clocks() {
  using S = SmallShape<NT, kB>;
  // 32 look-ups, 4 for the codes, the scales, and A: forward 8 per eight rows and step, to the input 2.
  constexpr int64_t kShared = 32 + 4 + (S::kForward ? 4 : 6) + (S::kForward ? 8 * NT / S::kWide : 2 * NT);
  constexpr int64_t kTensor = 4 * NT * 2;  // m16n8k16 every other clock
  return kShared > kTensor ? kShared : kTensor;
}

template <int NT, Order kB>
SmallPlan cut(int64_t m, int64_t rows, int64_t cols) {
  using S = SmallShape<NT, kB>;
  const int64_t strips = rows / kTileRows;
  const int64_t row_tiles = cols / kTileCols;
  const int64_t steps = S::kForward ? row_tiles : strips;
  const int64_t out_tiles = S::kForward ? strips : row_tiles;
  const int64_t slots = ceil_div(steps, S::kSlotSteps);
  const int64_t slot_rows = NT == 1 ? m : NT * 8;
  const int64_t most_slots = S::kSlots / slot_rows;

  SmallPlan best = {};
  int64_t best_clocks = 0;
  for (int64_t splits = 1; splits <= std::min<int64_t>(slots, 16); ++splits) {
    SmallPlan plan = {};
    const int64_t slice = ceil_div(slots, splits);
    if (ceil_div(slots, slice) != splits) continue;
    const int64_t chunks = ceil_div(slice, most_slots);
    const int64_t chunk = ceil_div(slice, chunks);
    plan.splits = static_cast<int32_t>(splits);
    plan.slice_slots = static_cast<int32_t>(slice);
    plan.chunk_slots = static_cast<int32_t>(chunk);
    const int64_t blocks = std::max<int64_t>(1, kMultiprocessors / splits);
    const int64_t stage = kStageClocks + chunk * slot_rows * kSlotBytes / 32;
    const int64_t sums = splits > 1 ? kLaunchClocks + splits * m * out_tiles * S::kOuts / S::kWide / 1024 : 0;
    for (int32_t shift = 0; 1 << shift <= S::kWarps; ++shift) {
      plan.share_shift = shift;
      const int64_t groups = S::kWarps >> shift;
      const int64_t units = ceil_div(out_tiles, groups * S::kWide);
      plan.units = static_cast<int32_t>(units);
      const int64_t share = ceil_div(std::min(chunk * S::kSlotSteps, steps), int64_t{1} << shift);
      const int64_t step =
          std::max<int64_t>(S::kWarps * S::kWide * tile_clocks<NT, kB>(), kLatency / std::min<int64_t>(share, S::kDepth));
      const int64_t finish = NT / S::kPass * (150 + (int64_t{20} << shift));
      const int64_t unit = chunks * share * step + (chunks > 1 ? chunks * stage : 0) + finish;
      const int64_t clocks = ceil_div(units, blocks) * unit + stage + sums;
      if (best.splits == 0 || clocks < best_clocks) {
        best = plan;
        best_clocks = clocks;
      }
    }
  }
  return best;
}

template <Order kB>
SmallPlan cut_for(int64_t m, int64_t rows, int64_t cols) {
  if (m <= 8) return cut<1, kB>(m, rows, cols);
  if (m <= 16) return cut<2, kB>(m, rows, cols);
  if (m <= 32) return cut<4, kB>(m, rows, cols);
  return cut<8, kB>(m, rows, cols);
}

}  // namespace

bool takes_small(const q4j_pack_context& context, int64_t m, int64_t rows, int64_t cols) {
  const int shared_bytes =
      m <= 16 ? SmallShape<2, Order::kContraction>::kSharedBytes : SmallShape<8, Order::kContraction>::kSharedBytes;
  return m <= kMostSmallRows && context.block_shared_bytes >= shared_bytes && rows * cols <= 0x7fffffff * int64_t{kTileCols};
}

SmallPlan plan_small(int64_t m, int64_t rows, int64_t cols, Order b, int rung) {
  SmallPlan plan = {};
  if (rung > 1)
    plan = b == Order::kContraction ? cut_for<Order::kContraction>(m, rows, cols) : cut_for<Order::kOuter>(m, rows, cols);
  plan.rung = rung;
  plan.splits = std::max(plan.splits, 1);
  return plan;
}

q4j_status linear_small(const q4j_pack_context& context, const Product& product, Order b, const SmallPlan& plan,
                        float* partial) {
  const Operand& weight = product.b;
  SmallProduct small = {};
  small.codes = static_cast<const uint8_t*>(weight.data);
  small.absmax = weight.absmax;
  small.nested_absmax = weight.nested_absmax;
  small.nested_offset = weight.nested_offset;
  small.nested_shift = weight.nested_shift;
  small.block_shift = weight.block_shift - 6;  // of tiles: 64 columns
  small.strips = static_cast<int32_t>(weight.rows / kTileRows);
  small.row_tiles = static_cast<int32_t>(weight.cols / kTileCols);
  small.row_blocks = static_cast<int32_t>(weight.cols >> weight.block_shift);
  std::copy(weight.values, weight.values + 16, small.values);
  small.x = static_cast<const bf16*>(product.a.data);
  small.ldx = product.a.ld;
  small.m = static_cast<int32_t>(product.m);
  small.branch = product.branch;
  small.output = product.output;
  small.partial = partial;
  small.plan = plan;
  if (plan.rung == 1) return linear_small_1(context, small, b);
  if (b == Order::kOuter) return linear_small_2_backward(context, small);
  return plan.rung == 2 ? linear_small_2_forward(context, small) : linear_small_3_forward(context, small);
}

}  // namespace q4j::cuda
