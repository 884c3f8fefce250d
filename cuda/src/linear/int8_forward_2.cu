// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Rung 2: tensor cores. A block makes a tile of y, walking along k in steps of 64 codes through a ring of buffers that
 * asynchronous copies fill several steps ahead. Codes of x and of W lie along k in memory as the instruction wants them, so
 * both operands are read with ldmatrix as they are.
 *
 * Shared memory holds 64 bytes of every row of the tile, in four chunks of 16. Chunk c of row r lies at place c ^ (r / 2 % 4)
 * of its row: the eight rows that one phase of ldmatrix reads then cover all 32 banks once.
 *
 * Tiles, with their derived limits per multiprocessor and step of 32 codes (A100: 2048 multiply-adds of INT8 and 128 bytes of
 * shared memory in a clock):
 *   128 x 128, four warps of 64 x 64: 256 clocks of mma; 16 KB read by ldmatrix and 8 KB written take 192
 *   32 x 32, four warps of 16 x 16, for up to 64 rows of x: there the weight's bytes are the limit, so tiles are narrow to give
 *     every multiprocessor some, and a block has 14 KB of the weight in flight
 *
 * The branch follows in the same accumulators, now f32: steps of 32 ranks of xa and b in bf16, each fragment's sum scaled by s
 * as it is added. A branch that is not rounded below f32 is the sum of six products of bf16 parts, which leaves out 2^-24 of
 * it.
 */
#include "linear/branch.h"
#include "linear/int8_forward.h"
#include "linear/product_2.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kCodes = kStep * 2; /* of a row in one buffer: as many bytes as kStep bf16 values take */
constexpr int kChunks = kCodes / kChunkBytes;
constexpr int kSmallRows = 64;

template <int TileM, int TileN, int WarpsM, int Stages>
struct Tile {
  static constexpr int kM = TileM;
  static constexpr int kN = TileN;
  static constexpr int kWarpsN = kThreads / kWarp / WarpsM;
  static constexpr int kStages = Stages;
  static constexpr int kWarpM = TileM / WarpsM;
  static constexpr int kWarpN = TileN / kWarpsN;
  static constexpr int kFragmentsM = kWarpM / 16;
  static constexpr int kFragmentsN = kWarpN / 8;
  static constexpr int kBufferBytes = (TileM + TileN) * kCodes;
  static constexpr int kSharedBytes = Stages * kBufferBytes;
};

using LargeTile = Tile<128, 128, 2, 4>;
using SmallTile = Tile<32, 32, 2, 8>;

/** How many of `most` rows from `first` on a matrix has. */
Q4J_DEVICE int rows_there(int64_t rows, int64_t first, int most) {
  return rows - first < most ? static_cast<int>(rows - first) : most;
}

/**
 * What a thread copies of `Rows` rows of codes: one chunk of every 32nd row, step after step. Zeros stand for what there is
 * not.
 */
template <int Rows>
class Copier {
 public:
  static constexpr int kEvery = kThreads / kChunks;
  static_assert(Rows % kEvery == 0 && kEvery % 8 == 0, "all of a thread's rows have the same places for their chunks");

  /** Rows from `first` on of codes [rows, cols], `ld` bytes between two rows. */
  Q4J_DEVICE Copier(const uint8_t* codes, int64_t rows, int64_t cols, int64_t ld, int64_t first)
      : source_(codes + (first + row()) * ld + chunk() * kChunkBytes),
        ld_(ld),
        rows_(rows_there(rows, first, Rows) - row()),
        left_(static_cast<int>(cols) - chunk() * kChunkBytes),
        wide_(is_aligned(codes, kChunkBytes) && ld % kChunkBytes == 0) {}

  /** Starts copying the next step's codes. */
  Q4J_DEVICE void copy(unsigned char* buffer) {
    unsigned char* const target = buffer + chunk_offset<kChunks>(row(), chunk());
    const int bytes = left_ < 0 ? 0 : left_ < kChunkBytes ? left_ : kChunkBytes;
    if (wide_) {
      Q4J_UNROLL
      for (int r = 0; r < Rows; r += kEvery)
        copy_async<kChunkBytes>(target + r * kCodes, source_ + r * ld_, r < rows_ ? bytes : 0);
    } else {
      Q4J_NO_UNROLL
      for (int r = 0; r < Rows; r += kEvery) {
        Q4J_NO_UNROLL
        for (int b = 0; b < kChunkBytes; ++b) {
          target[r * kCodes + b] = r < rows_ && b < bytes ? load_read_only(source_ + r * ld_ + b) : uint8_t{0};
        }
      }
    }
    source_ += kCodes;
    left_ -= kCodes;
  }

 private:
  Q4J_DEVICE static int row() { return thread_index() / kChunks; }
  Q4J_DEVICE static int chunk() { return thread_index() % kChunks; }

  const uint8_t* source_;
  int64_t ld_;
  int rows_; /* from this thread's first one on */
  int left_; /* bytes of a row from source_ on */
  bool wide_;
};

/** The 16 x 32 bytes of rows from `row` on and half `half` of the buffer's columns, as an operand A of mma. */
Q4J_DEVICE void load_a(uint32_t (&words)[4], const unsigned char* buffer, int row, int half) {
  const int lane = lane_index();
  load_matrices(words, buffer + chunk_offset<kChunks>(row + lane % 16, half * 2 + lane / 16));
}

/** Two operands B: words 0 and 1 of rows (columns of the product) row ... row + 7, words 2 and 3 of the next eight. */
Q4J_DEVICE void load_b(uint32_t (&words)[4], const unsigned char* buffer, int row, int half) {
  const int lane = lane_index();
  load_matrices(words, buffer + chunk_offset<kChunks>(row + lane % 8 + lane / 16 * 8, half * 2 + lane / 8 % 2));
}

/**
 * The branch as products of bf16 parts of xa and of s b, nibble i of the part numbers for product i. With both factors rounded
 * to bf16 one product is exact if s is a power of two, else three are, to 24 bits; with neither, six leave out 2^-24.
 */
struct BranchProducts {
  int32_t count;
  uint32_t of_xa;
  uint32_t of_b;
};

BranchProducts branch_products(const Int8Forward& f) {
  if (f.rank == 0) return {0, 0u, 0u};
  if (!f.rounds) return {6, 0x102100u, 0x120010u};
  return is_power_of_two(f.s) ? BranchProducts{1, 0u, 0u} : BranchProducts{3, 0u, 0x210u};
}

/** Ranks [from, from + 32) of the tile's rows of xa and, below them, of s b: of each the bf16 part that is multiplied. */
template <typename Tile>
Q4J_DEVICE void put_factors(const Int8Forward& f, int64_t first_row, int64_t first_column, int from, int xa_part, int b_part,
                            unsigned char* buffer) {
  constexpr int kWords = kStep / 2;
  Q4J_NO_UNROLL
  for (int number = thread_index(); number < (Tile::kM + Tile::kN) * kWords; number += kThreads) {
    const int place_row = number / kWords;
    const int word = number % kWords;
    const bool left = place_row < Tile::kM;
    const int64_t row = left ? first_row + place_row : first_column + (place_row - Tile::kM);
    const float* factor = (left ? f.xa : f.b) + row * f.rank;
    const int ranks = row < (left ? f.m : f.n) ? f.rank : 0;
    float value[2];
    Q4J_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int r = from + word * 2 + i;
      float whole = r < ranks ? load_read_only(factor + r) : 0.0f;
      if (!left) whole = multiply(f.s, f.rounds ? widen(narrow<bf16>(whole)) : whole);
      // An infinity is multiplied by the other factor's first part alone: the others may be 0, or of the other sign.
      if (absolute(whole) == kInfinity && (left ? b_part : xa_part) > 0) whole = 0.0f;
      value[i] = part_of(whole, left ? xa_part : b_part);
    }
    *reinterpret_cast<uint32_t*>(buffer + chunk_offset<kChunks>(place_row, word / 4) + word % 4 * 4) =
        narrow_pair<bf16>(value[0], value[1]);
  }
}

/** A warp's part of the tile in f32. */
template <typename Tile>
struct Results {
  float at[Tile::kFragmentsM][Tile::kFragmentsN][4];
  int row; /* of the tile, of fragment 0, of this lane's first element */
  int column;
};

template <typename Tile>
Q4J_DEVICE void add_branch(const Int8Forward& f, const BranchProducts& products, int64_t first_row, int64_t first_column,
                           int warp_row, int warp_column, unsigned char* buffer, Results<Tile>& c) {
  Q4J_NO_UNROLL
  for (int from = 0; from < f.rank; from += kStep) {
    Q4J_NO_UNROLL
    for (int product = 0; product < products.count; ++product) {
      block_barrier();  // the buffer has been read
      put_factors<Tile>(f, first_row, first_column, from, static_cast<int>(products.of_xa >> (4 * product) & 15u),
                        static_cast<int>(products.of_b >> (4 * product) & 15u), buffer);
      block_barrier();
      Q4J_UNROLL
      for (int half = 0; half < 2; ++half) {
        uint32_t left[Tile::kFragmentsM][4];
        Q4J_UNROLL
        for (int i = 0; i < Tile::kFragmentsM; ++i) load_a(left[i], buffer, warp_row + i * 16, half);
        Q4J_UNROLL
        for (int j = 0; j < Tile::kFragmentsN; j += 2) {
          uint32_t right[4];
          load_b(right, buffer, Tile::kM + warp_column + j * 8, half);
          Q4J_UNROLL
          for (int i = 0; i < Tile::kFragmentsM; ++i) {
            multiply_add_bf16(c.at[i][j], left[i], right[0], right[1]);
            multiply_add_bf16(c.at[i][j + 1], left[i], right[2], right[3]);
          }
        }
      }
    }
  }
}

Q4J_DEVICE float bias_at(const Int8Forward& f, int64_t column) {
  if (f.bias == nullptr || column >= f.n) return 0.0f;
  return f.bias_dtype == Q4J_F32 ? load_read_only(static_cast<const float*>(f.bias) + column)
                                 : widen(static_cast<const bf16*>(f.bias)[column]);
}

/** Adds bias and residual to two neighbouring elements and writes them. `pairs`: y and residual can be accessed in words. */
Q4J_DEVICE void store_pair(const Int8Forward& f, int64_t row, int64_t column, float first, float second, bool pairs) {
  bf16* y = f.y + row * f.ldy + column;
  const bf16* residual = f.residual + row * f.ldr + column;
  if (pairs && column + 1 < f.n) {
    if (f.residual != nullptr) {
      const uint32_t word = *reinterpret_cast<const uint32_t*>(residual);
      first = add(first, bits_float(word << 16));
      second = add(second, bits_float(word & 0xffff0000u));
    }
    *reinterpret_cast<uint32_t*>(y) = narrow_pair<bf16>(first, second);
    return;
  }
  if (column < f.n) y[0] = narrow<bf16>(f.residual != nullptr ? add(first, widen(residual[0])) : first);
  if (column + 1 < f.n) y[1] = narrow<bf16>(f.residual != nullptr ? add(second, widen(residual[1])) : second);
}

template <typename Tile>
Q4J_DEVICE void forward_tile(const Int8Forward& f, const BranchProducts& products) {
  const TilePlace tile(block_index(), static_cast<int>((f.m + Tile::kM - 1) / Tile::kM),
                       static_cast<int>((f.n + Tile::kN - 1) / Tile::kN));
  const int64_t first_row = tile.row * Tile::kM;
  const int64_t first_column = tile.column * Tile::kN;
  const int warp_row = warp_index() / Tile::kWarpsN * Tile::kWarpM;
  const int warp_column = warp_index() % Tile::kWarpsN * Tile::kWarpN;

  Copier<Tile::kM> x(f.x_codes, f.m, f.ld_codes, f.ld_codes, first_row);
  Copier<Tile::kN> w(f.w, f.n, f.k, f.k, first_column);
  unsigned char* const shared = dynamic_shared();
  const auto copy_step = [&](int stage) {
    unsigned char* const buffer = shared + stage * Tile::kBufferBytes;
    x.copy(buffer);
    w.copy(buffer + Tile::kM * kCodes);
  };

  const int steps = static_cast<int>((f.k + kCodes - 1) / kCodes);
  Q4J_UNROLL
  for (int stage = 0; stage < Tile::kStages - 1; ++stage) {
    if (stage < steps) copy_step(stage);
    copy_async_commit();
  }
  int32_t sum[Tile::kFragmentsM][Tile::kFragmentsN][4] = {};
  int stage = 0;
  int next = Tile::kStages - 1;
  Q4J_NO_UNROLL
  for (int step = 0; step < steps; ++step) {
    copy_async_wait<Tile::kStages - 2>();
    block_barrier();  // this step's codes are there for all, and the buffer of the step before has been read
    if (step + Tile::kStages - 1 < steps) copy_step(next);
    copy_async_commit();
    const unsigned char* const buffer = shared + stage * Tile::kBufferBytes;
    Q4J_UNROLL
    for (int half = 0; half < 2; ++half) {
      uint32_t a[Tile::kFragmentsM][4];
      Q4J_UNROLL
      for (int i = 0; i < Tile::kFragmentsM; ++i) load_a(a[i], buffer, warp_row + i * 16, half);
      Q4J_UNROLL
      for (int j = 0; j < Tile::kFragmentsN; j += 2) {
        uint32_t b[4];
        load_b(b, buffer, Tile::kM + warp_column + j * 8, half);
        Q4J_UNROLL
        for (int i = 0; i < Tile::kFragmentsM; ++i) {
          multiply_add_s8(sum[i][j], a[i], b[0], b[1]);
          multiply_add_s8(sum[i][j + 1], a[i], b[2], b[3]);
        }
      }
    }
    stage = stage + 1 == Tile::kStages ? 0 : stage + 1;
    next = next + 1 == Tile::kStages ? 0 : next + 1;
  }
  copy_async_wait<0>();

  // The lane's rows are row + 16 i and 8 more, its columns column + 8 j and 1 more.
  const int64_t row = first_row + warp_row + lane_index() / 4;
  const int64_t column = first_column + warp_column + lane_index() % 4 * 2;
  Results<Tile> c;
  {
    float x_absmax[Tile::kFragmentsM][2];
    Q4J_UNROLL
    for (int i = 0; i < Tile::kFragmentsM * 2; ++i) {
      const int64_t at = row + i / 2 * 16 + i % 2 * 8;
      x_absmax[i / 2][i % 2] = at < f.m ? load_read_only(f.x_absmax + at) : 0.0f;
    }
    Q4J_UNROLL
    for (int j = 0; j < Tile::kFragmentsN; ++j) {
      Q4J_UNROLL
      for (int e = 0; e < 2; ++e) {
        const int64_t at = column + j * 8 + e;
        const float w_absmax = at < f.n ? load_read_only(f.w_absmax + at) : 0.0f;
        Q4J_UNROLL
        for (int i = 0; i < Tile::kFragmentsM; ++i) {
          c.at[i][j][e] = product_of_codes(static_cast<float>(sum[i][j][e]), x_absmax[i][0], w_absmax);
          c.at[i][j][e + 2] = product_of_codes(static_cast<float>(sum[i][j][e + 2]), x_absmax[i][1], w_absmax);
        }
      }
    }
  }
  if (f.rank > 0) {
    add_branch<Tile>(f, products, first_row, first_column, warp_row, warp_column, shared, c);
  }

  const bool pairs =
      is_aligned(f.y, 4) && f.ldy % 2 == 0 && (f.residual == nullptr || (is_aligned(f.residual, 4) && f.ldr % 2 == 0));
  Q4J_UNROLL
  for (int j = 0; j < Tile::kFragmentsN; ++j) {
    const int64_t to = column + j * 8;
    const float bias[2] = {bias_at(f, to), bias_at(f, to + 1)};
    Q4J_UNROLL
    for (int i = 0; i < Tile::kFragmentsM; ++i) {
      Q4J_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int64_t at = row + i * 16 + half * 8;
        if (at < f.m) {
          store_pair(f, at, to, add(c.at[i][j][half * 2], bias[0]), add(c.at[i][j][half * 2 + 1], bias[1]), pairs);
        }
      }
    }
  }
}

Q4J_KERNEL(kThreads, 2)
int8_forward_2_large(const Int8Forward f, const BranchProducts products) { forward_tile<LargeTile>(f, products); }

Q4J_KERNEL(kThreads, 6)
int8_forward_2_small(const Int8Forward f, const BranchProducts products) { forward_tile<SmallTile>(f, products); }

template <typename Tile>
Grid grid_of(const Int8Forward& f) {
  const int64_t tiles = static_cast<int64_t>(blocks_for(f.m, Tile::kM)) * blocks_for(f.n, Tile::kN);
  return {blocks_for(tiles, 1), kThreads, Tile::kSharedBytes};
}

}  // namespace

q4j_status int8_forward_2(const q4j_pack_context& context, const Int8Forward& arguments) {
  const BranchProducts products = branch_products(arguments);
  if (arguments.m <= kSmallRows) {
    return launch(context, grid_of<SmallTile>(arguments), "int8_forward_2_small", int8_forward_2_small, arguments, products);
  }
  return launch(context, grid_of<LargeTile>(arguments), "int8_forward_2_large", int8_forward_2_large, arguments, products);
}

}  // namespace q4j::cuda
