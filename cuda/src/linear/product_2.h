// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Rung 2: products on the tensor cores, of bf16 factors or of factors that become bf16 on their way into shared memory
 * (tiles.h).
 *
 * A block makes a tile of C; a warp 64 x 64 (or 32 x 64) sums of it with m16n8k16. A step of 32 k is one barrier: while the
 * warps multiply step s, copies for step s + stages - 1 are under way and B of step s + 1 is dequantized.
 */
#ifndef QLORA4J_CUDA_LINEAR_PRODUCT_2_H_
#define QLORA4J_CUDA_LINEAR_PRODUCT_2_H_

#include "linear/dispatch.h"
#include "linear/product.h"
#include "linear/tiles.h"
#include "support/launch.h"
#include "support/tensor_core.h"

namespace q4j::cuda {

/** Warp w runs on scheduler w % 4. */
constexpr int kSchedulers = 4;

/**
 * Shapes of a block. Per step of k, m16n8k16 reads 2 (1/64 + 1/64) bytes of shared memory per multiply-add in a warp tile of 64
 * x 64: half of what sm_80 can read while its tensor cores multiply, and with 64 x 32 it would be three quarters. The
 * accumulators of 64 x 64 are 128 registers, so two warps share a scheduler. Weights are dequantized once per row of blocks, so
 * rows are the longer side.
 */
template <int Threads, int M, int N, int WarpM, int Stages, int Blocks>
struct BlockShape {
  static constexpr int kThreads = Threads;
  static constexpr int kM = M;
  static constexpr int kN = N;
  static constexpr int kWarpM = WarpM;
  static constexpr int kWarpN = 64;
  static constexpr int kStages = Stages;
  static constexpr int kBlocks = Blocks; /* per multiprocessor, as far as registers go */
  static constexpr int kWarpColumns = N / kWarpN;
  /* A second block on the multiprocessor is at another place of its loop; warps of one block meet at every step's barrier. */
  static constexpr bool kTakesTurns = Blocks == 1;
  static_assert(M / WarpM * kWarpColumns * kWarp == Threads, "warps cover the tile");
};
using Large = BlockShape<256, 256, 128, 64, 4, 1>;
using Medium = BlockShape<128, 128, 128, 64, 3, 2>;
using Small = BlockShape<128, 64, 128, 32, 4, 3>;

/** What a lane names to ldmatrix for a fragment of A, 16 rows from `outer` on and the first 16 k: its offset in the tile. */
template <int Outer, Order kOrder>
Q4J_DEVICE int a_offset(int outer) {
  const int lane = lane_index();
  if constexpr (kOrder == Order::kContraction) {
    return chunk_offset<kStep / kEight>(outer + (lane & 15), lane >> 4);
  } else {
    return chunk_offset<Outer / kEight>((lane & 7) + (lane >> 4) * 8, outer / kEight + (lane >> 3 & 1));
  }
}

/** For two fragments of B, 16 columns from `outer` on. */
template <int Outer, Order kOrder>
Q4J_DEVICE int b_offset(int outer) {
  const int lane = lane_index();
  if constexpr (kOrder == Order::kContraction) {
    return chunk_offset<kStep / kEight>(outer + (lane & 7) + (lane >> 4) * 8, lane >> 3 & 1);
  } else {
    return chunk_offset<Outer / kEight>(lane & 15, outer / kEight + (lane >> 4));
  }
}

/**
 * The offset of the fragment `by` (0, 16, 32, 48) further along `outer` and `depth` (0 or 16) further along k. A warp's `outer`
 * is a multiple of what it covers, so that neither changes which chunks are exchanged: an addition, or an exclusive or of bits
 * that the exchange has mixed.
 */
template <int Outer, Order kOrder>
Q4J_DEVICE int fragment_offset(int first, int by, int depth) {
  if constexpr (kOrder == Order::kContraction) {
    return (first ^ (depth / kEight * kChunkBytes)) + by * kStep * 2;
  } else {
    return (first ^ (by / kEight * kChunkBytes)) + depth * Outer * 2;
  }
}

template <Order kOrder>
Q4J_DEVICE void load_fragments(uint32_t (&words)[4], const unsigned char* from) {
  if constexpr (kOrder == Order::kContraction) {
    load_matrices(words, from);
  } else {
    load_matrices_transposed(words, from);
  }
}

/** Adds a step to a warp's sums. The offsets are those of its first fragments. */
template <typename Shape, Order kA, Order kB>
Q4J_DEVICE void multiply_step(float (&sum)[Shape::kWarpM / 16][Shape::kWarpN / 8][4], const unsigned char* a,
                              const unsigned char* b, int a_first, int b_first) {
  Q4J_UNROLL
  for (int depth = 0; depth < kStep; depth += 16) {
    uint32_t rows[Shape::kWarpM / 16][4];
    Q4J_UNROLL
    for (int i = 0; i < Shape::kWarpM / 16; ++i) {
      load_fragments<kA>(rows[i], a + fragment_offset<Shape::kM, kA>(a_first, i * 16, depth));
    }
    Q4J_UNROLL
    for (int j = 0; j < Shape::kWarpN / 8; j += 2) {
      uint32_t columns[4];
      load_fragments<kB>(columns, b + fragment_offset<Shape::kN, kB>(b_first, j * 8, depth));
      Q4J_UNROLL
      for (int i = 0; i < Shape::kWarpM / 16; ++i) {
        multiply_add_bf16(sum[i][j], rows[i], columns[0], columns[1]);
        multiply_add_bf16(sum[i][j + 1], rows[i], columns[2], columns[3]);
      }
    }
  }
}

/** Fills a tile with the part-th bf16 part of an f32 factor, or with its values rounded to bf16 where nothing must stay exact.
 */
template <int Threads, int Outer, Order kOrder>
Q4J_DEVICE void fill_branch_tile(unsigned char* tile, const Operand& factor, int64_t outer, int step, bool exact, int part) {
  constexpr int kRows = kOrder == Order::kContraction ? Outer : kStep;
  constexpr int kChunks = (kOrder == Order::kContraction ? kStep : Outer) / kEight;
  Q4J_NO_UNROLL
  for (int item = thread_index(); item < kRows * kChunks; item += Threads) {
    const int row = item / kChunks;
    const int chunk = item % kChunks;
    const int64_t at_row = (kOrder == Order::kContraction ? outer : step) + row;
    const int64_t at_col = (kOrder == Order::kContraction ? step : outer) + chunk * kEight;
    EightValues values = {};
    if (at_row < factor.rows && at_col < factor.cols) values = read_dense<float>(factor, at_row, at_col);
    if (exact) {
      Q4J_UNROLL
      for (int i = 0; i < kEight; ++i) values.at[i] = part_of(values.at[i], part);
    }
    store(reinterpret_cast<Words4*>(tile + chunk_offset<kChunks>(row, chunk)), narrow_eight(values));
  }
}

/**
 * Sums of the lower parts of exact factors that are no numbers become 0. Infinity times a lower part can be NaN where infinity
 * times the whole is not; the product of the highest parts alone is what IEEE arithmetic says.
 */
template <typename Shape>
Q4J_DEVICE void drop_no_numbers(float (&sum)[Shape::kWarpM / 16][Shape::kWarpN / 8][4]) {
  Q4J_UNROLL
  for (int i = 0; i < Shape::kWarpM / 16; ++i) {
    Q4J_UNROLL
    for (int e = 0; e < Shape::kWarpN / 2; ++e) {
      float& value = sum[i][e / 4][e % 4];
      if ((float_bits(value) & 0x7f800000u) == 0x7f800000u) value = 0.0f;
    }
  }
}

/**
 * The branch, before anything else is in the sums. Exact: both factors are three bf16 each, of whose nine products the six
 * largest are summed, smallest first; what is left out is 2^-24 of the product at most.
 */
template <typename Shape, Order kB>
Q4J_DEVICE void multiply_branch(float (&sum)[Shape::kWarpM / 16][Shape::kWarpN / 8][4], unsigned char* a, unsigned char* b,
                                const Branch& branch, int64_t first_row, int64_t first_column, int row, int column) {
  const int a_first = a_offset<Shape::kM, Order::kContraction>(row);
  const int b_first = b_offset<Shape::kN, kB>(column);
  const int last_part = branch.exact ? 2 : 0;
  Q4J_NO_UNROLL
  for (int both = last_part; both >= 0; --both) {
    if (branch.exact && both == 0) drop_no_numbers<Shape>(sum);
    Q4J_NO_UNROLL
    for (int part = both; part >= 0; --part) {
      Q4J_NO_UNROLL
      for (int step = 0; step < branch.rank; step += kStep) {
        block_barrier();  // the last step has been read
        fill_branch_tile<Shape::kThreads, Shape::kM, Order::kContraction>(a, branch.inner, first_row, step, branch.exact, part);
        fill_branch_tile<Shape::kThreads, Shape::kN, kB>(b, branch.factor, first_column, step, branch.exact, both - part);
        block_barrier();
        multiply_step<Shape, Order::kContraction, kB>(sum, a, b, a_first, b_first);
      }
    }
  }
  const int64_t own_row = first_row + row + lane_index() / 4;
  const int64_t own_column = first_column + column + lane_index() % 4 * 2;
  Q4J_UNROLL
  for (int i = 0; i < Shape::kWarpM / 16; ++i) {
    uint32_t kept = 0xffffffffu;
    if (kB == Order::kOuter && branch.mask.on) {
      // A word of bits first, so that the code that draws them is there once per 16 rows and not once per element.
      kept = 0;
      Q4J_NO_UNROLL
      for (int e = 0; e < 32; ++e) {
        const auto at_row = static_cast<uint32_t>(own_row + i * 16 + (e >> 1 & 1) * 8);
        const auto at_column = static_cast<uint32_t>(own_column + (e >> 2) * 8 + (e & 1));
        kept |= (dropout_keeps(branch.mask, at_row, at_column) ? 1u : 0u) << e;
      }
    }
    Q4J_UNROLL
    for (int e = 0; e < 32; ++e) {
      float& value = sum[i][e / 4][e % 4];
      value = (kept >> e & 1u) != 0 ? multiply(value, branch.scale) : 0.0f;
    }
  }
}

/** Bytes of dynamic shared memory. Behind the last step the warps turn their fragments into rows there. */
constexpr int kRowFloats = 72; /* of 64 sums: rows start eight banks apart, so fragments of four rows meet in no bank */

template <typename Shape, typename A, typename B>
constexpr int shared_bytes() {
  constexpr int kPipeline = Shape::kStages * (A::kStageBytes + B::kStageBytes) + 2 * B::kTileBytes;
  constexpr int kRows = Shape::kThreads / kWarp * 16 * kRowFloats * 4;
  return kPipeline > kRows ? kPipeline : kRows;
}

/** Writes a warp's sums, 16 rows at a time through its own piece of shared memory, so that rows are written in whole. */
template <typename Shape>
Q4J_DEVICE void write_sums(const float (&sum)[Shape::kWarpM / 16][Shape::kWarpN / 8][4], const Output& output, int64_t m,
                           int64_t n, int64_t row, int64_t column) {
  auto* rows = reinterpret_cast<float*>(dynamic_shared()) + warp_index() * 16 * kRowFloats;
  const bool four = writes_four(output);
  const int lane = lane_index();
  Q4J_UNROLL
  for (int i = 0; i < Shape::kWarpM / 16; ++i) {
    warp_barrier();  // the last 16 rows have been read
    Q4J_UNROLL
    for (int j = 0; j < Shape::kWarpN / 8; ++j) {
      Q4J_UNROLL
      for (int half = 0; half < 2; ++half) {
        store(reinterpret_cast<Words2*>(rows + (lane / 4 + half * 8) * kRowFloats + j * 8 + lane % 4 * 2),
              Words2{{float_bits(sum[i][j][half * 2]), float_bits(sum[i][j][half * 2 + 1])}});
      }
    }
    warp_barrier();
    if (output.transposed) {
      // Four lanes write 16 neighbouring elements: 64 bytes.
      const int r = lane % 4 * 4;
      Q4J_NO_UNROLL
      for (int c = lane / 4; c < Shape::kWarpN; c += 8) {
        if (column + c >= n) continue;
        Words4 sums;
        Q4J_UNROLL
        for (int e = 0; e < 4; ++e) sums.word[e] = float_bits(rows[(r + e) * kRowFloats + c]);
        write_four(output, column + c, row + i * 16 + r, m, four, sums);
      }
      continue;
    }
    Q4J_NO_UNROLL
    for (int r = lane / 16; r < 16; r += 2) {
      const int64_t at_row = row + i * 16 + r;
      if (at_row < m) {
        write_four(output, at_row, column + lane % 16 * 4, n, four,
                   load(reinterpret_cast<const Words4*>(rows + r * kRowFloats + lane % 16 * 4)));
      }
    }
  }
}

/** Tile number `block` of C, in an order that keeps what neighbours read in the L2 cache: eight rows of tiles at a time. */
struct TilePlace {
  int64_t row;
  int64_t column;

  Q4J_DEVICE TilePlace(int block, int rows, int columns) {
    constexpr int kBand = 8;
    const int band = block / (kBand * columns);
    const int in_band = block - band * kBand * columns;
    const int height = rows - band * kBand < kBand ? rows - band * kBand : kBand;
    column = in_band / height;
    row = band * kBand + in_band % height;
  }
};

template <typename Shape, Order kA, Order kB, typename A, typename B>
Q4J_KERNEL(Shape::kThreads, Shape::kBlocks)
product_2_tiles(const Product p, const Split split) {
  unsigned char* const a_stages = dynamic_shared();
  unsigned char* const b_stages = a_stages + Shape::kStages * A::kStageBytes;
  unsigned char* const b_tiles = b_stages + Shape::kStages * B::kStageBytes;
  const int part = block_index() / split.tiles;
  const TilePlace place(block_index() - part * split.tiles, split.tile_rows, split.tile_columns);
  const int64_t first_row = place.row * Shape::kM;
  const int64_t first_column = place.column * Shape::kN;
  const int first_step = part * split.steps;
  const int steps = split.all_steps - first_step < split.steps ? split.all_steps - first_step : split.steps;
  const int row = warp_index() / Shape::kWarpColumns * Shape::kWarpM;
  const int column = warp_index() % Shape::kWarpColumns * Shape::kWarpN;
  const int a_first = a_offset<Shape::kM, kA>(row);
  const int b_first = b_offset<Shape::kN, kB>(column);

  A a(p.a, first_row, first_step);
  B b(p.b, first_column, first_step);
  float sum[Shape::kWarpM / 16][Shape::kWarpN / 8][4] = {};

  // Group s of copies is A of step s and B of the same step, or, where B is converted a step before it is used, of the next.
  int started = 0;
  const auto start_copies = [&](int stage) {
    if (started < steps) a.copy(a_stages + stage * A::kStageBytes);
    if constexpr (B::kConverts) {
      if (started + 1 < steps) b.copy(b_stages + (stage + 1 == Shape::kStages ? 0 : stage + 1) * B::kStageBytes);
    } else {
      if (started < steps) b.copy(b_stages + stage * B::kStageBytes);
    }
    copy_async_commit();
    ++started;
  };
  if constexpr (B::kConverts) b.copy(b_stages);
  Q4J_UNROLL
  for (int stage = 0; stage < Shape::kStages - 1; ++stage) start_copies(stage);

  if (p.branch.rank > 0 && part == 0) {
    // In what the copies have not reached yet: the last stage of A, and the last of B or the second of its tiles.
    multiply_branch<Shape, kB>(sum, a_stages + (Shape::kStages - 1) * A::kStageBytes,
                               B::kConverts ? b_tiles + B::kTileBytes : b_stages + (Shape::kStages - 1) * B::kStageBytes,
                               p.branch, first_row, first_column, row, column);
  }
  if constexpr (B::kConverts) {
    copy_async_wait<Shape::kStages - 2>();
    block_barrier();
    b.convert(b_stages, b_tiles);
  }

  int stage = 0;
  int free_stage = Shape::kStages - 1;
  Q4J_NO_UNROLL
  for (int step = 0; step < steps; ++step) {
    copy_async_wait<Shape::kStages - 2>();
    block_barrier();  // step `step` has come for all threads, and all have multiplied the one before
    const int next_stage = stage + 1 == Shape::kStages ? 0 : stage + 1;
    const auto bring = [&] {
      start_copies(free_stage);
      if constexpr (B::kConverts) {
        if (step + 1 < steps) b.convert(b_stages + next_stage * B::kStageBytes, b_tiles + (~step & 1) * B::kTileBytes);
      }
    };
    const auto multiply = [&] {
      multiply_step<Shape, kA, kB>(sum, a_stages + stage * A::kStageBytes,
                                   B::kConverts ? b_tiles + (step & 1) * B::kTileBytes : b_stages + stage * B::kStageBytes,
                                   a_first, b_first);
    };
    if constexpr (Shape::kTakesTurns) {
      // Of the two warps on a scheduler one brings while the other multiplies: first that which has to convert.
      const bool late = B::kConverts ? !b.converts_next() : warp_index() >= kSchedulers;
      Q4J_NO_UNROLL
      for (int turn = 0; turn < 2; ++turn) {
        if ((turn == 1) == late) {
          bring();
        } else {
          multiply();
        }
      }
    } else {
      bring();
      multiply();
    }
    free_stage = stage;
    stage = next_stage;
  }
  copy_async_wait<0>();
  block_barrier();  // shared memory is free
  const Output output = split.parts == 1 ? p.output : partial_output(p.output, split.partial + part * p.m * p.n, p.m, p.n);
  write_sums<Shape>(sum, output, p.m, p.n, first_row + row, first_column + column);
}

template <typename Shape, Order kA, Order kB, typename A, typename B>
q4j_status start_tiles(const q4j_pack_context& context, const Product& product, const Split& split) {
  constexpr int kBytes = shared_bytes<Shape, A, B>();
  static_assert(kBytes <= 99 * 1024, "the least that devices of compute capability 8 give a block");
  return launch(context, {split.tiles * split.parts, Shape::kThreads, kBytes}, "product_2_tiles",
                product_2_tiles<Shape, kA, kB, A, B>, product, split);
}

/** With A copied, and the source of B for a shape. */
template <Order kA, Order kB, template <int, int, Order> class B, typename Shape>
q4j_status start_tiles_of(const q4j_pack_context& context, const Product& product, const Split& split) {
  return start_tiles<Shape, kA, kB, CopiedTile<Shape::kThreads, Shape::kM, kA>, B<Shape::kThreads, Shape::kN, kB>>(
      context, product, split);
}

template <int Threads, int Outer, Order kOrder>
using RoundedTile = ConvertedTile<Threads, Outer, kOrder, 1, false>;

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_LINEAR_PRODUCT_2_H_
