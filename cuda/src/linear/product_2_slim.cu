// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Rung 2 where B is slim and f32: the inner products of the LoRA branch and the gradients of its factors. Blocks of 128 x 64,
 * four warps below one another, so that every element of A is in the fragment of one warp alone: there dropout masks it, drawn
 * once per element. Bound by the bytes of A, or by the mask: 35 instructions per element (support/dropout.h).
 *
 * Exact: A is bf16, B is split into three bf16 parts as it comes; the products of the two lower parts are summed apart.
 */
#include "linear/product_2.h"

namespace q4j::cuda {

namespace {

using Slim = BlockShape<128, 128, 64, 32, 3, 2>;

/** Clears what dropout drops of a fragment of A, 16 rows from `outer` on and 16 k from `depth` on. */
template <Order kA>
Q4J_DEVICE void mask_fragment(uint32_t (&words)[4], const DropoutMask& mask, int64_t outer, int64_t depth) {
  Q4J_UNROLL
  for (int w = 0; w < 4; ++w) {
    const auto at_outer = static_cast<uint32_t>(outer + lane_index() / 4 + (w & 1) * 8);
    const auto at_depth = static_cast<uint32_t>(depth + lane_index() % 4 * 2 + (w >> 1) * 8);
    Q4J_UNROLL
    for (uint32_t half = 0; half < 2; ++half) {
      const bool keeps = kA == Order::kContraction ? dropout_keeps(mask, at_outer, at_depth + half)
                                                   : dropout_keeps(mask, at_depth + half, at_outer);
      if (!keeps) words[w] &= half == 0 ? 0xffff0000u : 0x0000ffffu;
    }
  }
}

/** Block number `block` of a product. */
template <Order kA, Order kB, int Parts, bool Masked>
Q4J_DEVICE void slim_tile(const SlimWork& work, int block) {
  using A = CopiedTile<Slim::kThreads, Slim::kM, kA>;
  using B = ConvertedTile<Slim::kThreads, Slim::kN, kB, Parts, true>;
  constexpr int kRowTiles = Slim::kWarpM / 16;
  constexpr int kColumnTiles = Slim::kWarpN / 8;
  unsigned char* const a_stages = dynamic_shared();
  unsigned char* const b_stages = a_stages + Slim::kStages * A::kStageBytes;
  unsigned char* const b_tiles = b_stages + Slim::kStages * B::kStageBytes;
  const Product& p = work.product;
  const Split& split = work.split;
  const int part = block / split.tiles;
  // Blocks that read the same rows of A are neighbours.
  const int tile = block - part * split.tiles;
  const int64_t first_row = static_cast<int64_t>(tile / split.tile_columns) * Slim::kM;
  const int64_t first_column = static_cast<int64_t>(tile % split.tile_columns) * Slim::kN;
  const int first_step = part * split.steps;
  const int steps = split.all_steps - first_step < split.steps ? split.all_steps - first_step : split.steps;
  const int row = warp_index() * Slim::kWarpM;
  const int a_first = a_offset<Slim::kM, kA>(row);
  const int b_first = b_offset<Slim::kN, kB>(0);

  A a(p.a, first_row, first_step);
  B b(p.b, first_column, first_step);
  float sum[kRowTiles][kColumnTiles][4] = {};
  float low[Parts > 1 ? kRowTiles : 1][Parts > 1 ? kColumnTiles : 1][4] = {};

  int started = 0;
  const auto start_copies = [&](int stage) {
    if (started < steps) a.copy(a_stages + stage * A::kStageBytes);
    if (started + 1 < steps) b.copy(b_stages + (stage + 1 == Slim::kStages ? 0 : stage + 1) * B::kStageBytes);
    copy_async_commit();
    ++started;
  };
  b.copy(b_stages);
  Q4J_UNROLL
  for (int stage = 0; stage < Slim::kStages - 1; ++stage) start_copies(stage);
  copy_async_wait<Slim::kStages - 2>();
  block_barrier();
  b.convert(b_stages, b_tiles);

  int stage = 0;
  int free_stage = Slim::kStages - 1;
  Q4J_NO_UNROLL
  for (int step = 0; step < steps; ++step) {
    copy_async_wait<Slim::kStages - 2>();
    block_barrier();
    start_copies(free_stage);
    const int next_stage = stage + 1 == Slim::kStages ? 0 : stage + 1;
    if (step + 1 < steps) b.convert(b_stages + next_stage * B::kStageBytes, b_tiles + (~step & 1) * B::kTileBytes);
    const unsigned char* a_tile = a_stages + stage * A::kStageBytes;
    const unsigned char* b_tile = b_tiles + (step & 1) * B::kTileBytes;
    Q4J_UNROLL
    for (int depth = 0; depth < kStep; depth += 16) {
      uint32_t rows[kRowTiles][4];
      Q4J_UNROLL
      for (int i = 0; i < kRowTiles; ++i) {
        load_fragments<kA>(rows[i], a_tile + fragment_offset<Slim::kM, kA>(a_first, i * 16, depth));
        if constexpr (Masked) {
          if (p.a_mask.on) {
            mask_fragment<kA>(rows[i], p.a_mask, first_row + row + i * 16,
                              static_cast<int64_t>(first_step + step) * kStep + depth);
          }
        }
      }
      Q4J_UNROLL
      for (int b_part = 0; b_part < Parts; ++b_part) {
        Q4J_UNROLL
        for (int j = 0; j < kColumnTiles; j += 2) {
          uint32_t columns[4];
          load_fragments<kB>(columns, b_tile + b_part * B::kPartBytes + fragment_offset<Slim::kN, kB>(b_first, j * 8, depth));
          Q4J_UNROLL
          for (int i = 0; i < kRowTiles; ++i) {
            if (b_part == 0) {
              multiply_add_bf16(sum[i][j], rows[i], columns[0], columns[1]);
              multiply_add_bf16(sum[i][j + 1], rows[i], columns[2], columns[3]);
            } else {
              multiply_add_bf16(low[i][j], rows[i], columns[0], columns[1]);
              multiply_add_bf16(low[i][j + 1], rows[i], columns[2], columns[3]);
            }
          }
        }
      }
    }
    free_stage = stage;
    stage = next_stage;
  }
  if constexpr (Parts > 1) {
    drop_no_numbers<Slim>(low);
    Q4J_UNROLL
    for (int i = 0; i < kRowTiles; ++i) {
      Q4J_UNROLL
      for (int e = 0; e < kColumnTiles * 4; ++e) sum[i][e / 4][e % 4] = add(sum[i][e / 4][e % 4], low[i][e / 4][e % 4]);
    }
  }
  copy_async_wait<0>();
  block_barrier();  // shared memory is free
  const Output output = split.parts == 1 ? p.output : partial_output(p.output, split.partial + part * p.m * p.n, p.m, p.n);
  write_sums<Slim>(sum, output, p.m, p.n, first_row + row, first_column);
}

template <Order kA, Order kB, int Parts, bool Masked>
Q4J_KERNEL(Slim::kThreads, 2)
product_2_slim_tiles(const SlimWork work) {
  slim_tile<kA, kB, Parts, Masked>(work, block_index());
}

/** Both gradients. Only x is masked. */
template <int Parts>
Q4J_KERNEL(Slim::kThreads, 2)
product_2_slim_pair(const SlimWork first, const SlimWork second, const int blocks_of_first) {
  if (block_index() < blocks_of_first) {
    slim_tile<Order::kOuter, Order::kOuter, Parts, true>(first, block_index());
  } else {
    slim_tile<Order::kOuter, Order::kOuter, Parts, false>(second, block_index() - blocks_of_first);
  }
}

int blocks_of(const SlimWork& work) { return work.split.tiles * work.split.parts; }

template <Order kA, Order kB, int Parts>
constexpr int slim_bytes() {
  return shared_bytes<Slim, CopiedTile<Slim::kThreads, Slim::kM, kA>,
                      ConvertedTile<Slim::kThreads, Slim::kN, kB, Parts, true>>();
}

template <Order kB, int Parts, bool Masked>
q4j_status start_slim(const q4j_pack_context& context, const SlimWork& work) {
  constexpr Order kA = Order::kContraction;
  const Grid grid = {blocks_of(work), Slim::kThreads, slim_bytes<kA, kB, Parts>()};
  return launch(context, grid, "product_2_slim_tiles", product_2_slim_tiles<kA, kB, Parts, Masked>, work);
}

template <int Parts>
q4j_status start_pair(const q4j_pack_context& context, const SlimWork& first, const SlimWork& second) {
  const Grid grid = {blocks_of(first) + blocks_of(second), Slim::kThreads, slim_bytes<Order::kOuter, Order::kOuter, Parts>()};
  return launch(context, grid, "product_2_slim_pair", product_2_slim_pair<Parts>, first, second, blocks_of(first));
}

}  // namespace

q4j_status product_2_slim(const q4j_pack_context& context, const SlimWork& work, Order b) {
  const bool exact = work.product.exact;
  if (b == Order::kContraction) {
    return exact ? start_slim<Order::kContraction, 3, true>(context, work)
                 : start_slim<Order::kContraction, 1, true>(context, work);
  }
  return exact ? start_slim<Order::kOuter, 3, false>(context, work) : start_slim<Order::kOuter, 1, false>(context, work);
}

q4j_status product_2_slim_pair(const q4j_pack_context& context, const SlimWork& first, const SlimWork& second) {
  return first.product.exact ? start_pair<3>(context, first, second) : start_pair<1>(context, first, second);
}

}  // namespace q4j::cuda
