// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Rung 1: a block makes 64 x 64 sums, a thread 8 x 4 of them, 16 steps of k at a time from shared memory. Every element is read
 * as f32 (read_eight), so that one kernel serves all types; f32 activations have no other.
 */
#include "linear/dispatch.h"
#include "linear/product.h"
#include "support/launch.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kTile = 64;
constexpr int kDepth = 16;
constexpr int kRows = 8; /* of a thread's sums */
constexpr int kColumns = 4;

struct Tiles {
  alignas(16) float a[kDepth][kTile + 4];  // + 4: rows of 16-byte pieces that start in different banks
  alignas(16) float b[kDepth][kTile + 4];
};

/** Each thread brings eight elements of a factor's tile. */
template <Order kOrder>
Q4J_DEVICE void fill_tile(float (&tile)[kDepth][kTile + 4], const Operand& operand, const DropoutMask& mask, int64_t outer,
                          int64_t step) {
  constexpr int kEights = (kOrder == Order::kContraction ? kDepth : kTile) / kEight;
  const int major = thread_index() / kEights;
  const int minor = thread_index() % kEights * kEight;
  const int64_t row = (kOrder == Order::kContraction ? outer : step) + major;
  const int64_t col = (kOrder == Order::kContraction ? step : outer) + minor;
  const EightValues eight = read_eight(operand, row, col);
  Q4J_UNROLL
  for (int i = 0; i < kEight; ++i) {
    float value = eight.at[i];
    if (mask.on && !dropout_keeps(mask, static_cast<uint32_t>(row), static_cast<uint32_t>(col + i))) value = 0.0f;
    if constexpr (kOrder == Order::kContraction) {
      tile[minor + i][major] = value;
    } else {
      tile[major][minor + i] = value;
    }
  }
}

/** Adds a product to the thread's sums. */
template <Order kA, Order kB>
Q4J_DEVICE void accumulate(float (&sum)[kRows][kColumns], Tiles& tiles, const Operand& a, const DropoutMask& mask,
                           const Operand& b, int64_t depth, int64_t first_row, int64_t first_column) {
  const int row = thread_index() / (kTile / kColumns) * kRows;
  const int column = thread_index() % (kTile / kColumns) * kColumns;
  Q4J_NO_UNROLL
  for (int64_t step = 0; step < depth; step += kDepth) {
    block_barrier();  // the last step has been read
    fill_tile<kA>(tiles.a, a, mask, first_row, step);
    fill_tile<kB>(tiles.b, b, DropoutMask{}, first_column, step);
    block_barrier();
    Q4J_UNROLL
    for (int d = 0; d < kDepth; ++d) {
      const Words4 rows[2] = {load(reinterpret_cast<const Words4*>(&tiles.a[d][row])),
                              load(reinterpret_cast<const Words4*>(&tiles.a[d][row + 4]))};
      const Words4 columns = load(reinterpret_cast<const Words4*>(&tiles.b[d][column]));
      Q4J_UNROLL
      for (int i = 0; i < kRows; ++i) {
        Q4J_UNROLL
        for (int j = 0; j < kColumns; ++j) {
          sum[i][j] = multiply_add(bits_float(rows[i / 4].word[i % 4]), bits_float(columns.word[j]), sum[i][j]);
        }
      }
    }
  }
}

template <Order kA, Order kB>
Q4J_KERNEL(kThreads, 4)
product_1_elements(const Product p) {
  auto& tiles = block_shared<Tiles>();
  const int64_t columns = (p.n + kTile - 1) / kTile;
  const int64_t first_row = block_index() / columns * kTile;
  const int64_t first_column = block_index() % columns * kTile;
  const int64_t row = first_row + thread_index() / (kTile / kColumns) * kRows;
  const int64_t column = first_column + thread_index() % (kTile / kColumns) * kColumns;
  float sum[kRows][kColumns] = {};
  if (p.branch.rank > 0) {
    accumulate<Order::kContraction, kB>(sum, tiles, p.branch.inner, DropoutMask{}, p.branch.factor, p.branch.rank, first_row,
                                        first_column);
    Q4J_UNROLL
    for (int i = 0; i < kRows; ++i) {
      Q4J_UNROLL
      for (int j = 0; j < kColumns; ++j) {
        const bool kept = !p.branch.mask.on ||
                          dropout_keeps(p.branch.mask, static_cast<uint32_t>(row + i), static_cast<uint32_t>(column + j));
        sum[i][j] = kept ? multiply(sum[i][j], p.branch.scale) : 0.0f;
      }
    }
  }
  accumulate<kA, kB>(sum, tiles, p.a, p.a_mask, p.b, p.k, first_row, first_column);
  const bool four = writes_four(p.output);
  if (p.output.transposed) {
    Q4J_UNROLL
    for (int i = 0; i < kRows; i += 4) {
      Q4J_UNROLL
      for (int j = 0; j < kColumns; ++j) {
        if (column + j >= p.n) continue;
        write_four(
            p.output, column + j, row + i, p.m, four,
            Words4{{float_bits(sum[i][j]), float_bits(sum[i + 1][j]), float_bits(sum[i + 2][j]), float_bits(sum[i + 3][j])}});
      }
    }
    return;
  }
  Q4J_UNROLL
  for (int i = 0; i < kRows; ++i) {
    if (row + i >= p.m) continue;
    write_four(p.output, row + i, column, p.n, four,
               Words4{{float_bits(sum[i][0]), float_bits(sum[i][1]), float_bits(sum[i][2]), float_bits(sum[i][3])}});
  }
}

template <Order kA, Order kB>
q4j_status start_product(const q4j_pack_context& context, const Product& product) {
  const int64_t blocks = (product.m + kTile - 1) / kTile * ((product.n + kTile - 1) / kTile);
  Q4J_REQUIRE(blocks <= 0x7fffffff, Q4J_UNSUPPORTED, "a product of %lld x %lld is too large for one launch",
              static_cast<long long>(product.m), static_cast<long long>(product.n));
  return launch(context, {static_cast<int>(blocks), kThreads}, "product_1_elements", product_1_elements<kA, kB>, product);
}

}  // namespace

q4j_status product_1(const q4j_pack_context& context, const Product& product, Order a, Order b) {
  if (a == Order::kOuter) return start_product<Order::kOuter, Order::kOuter>(context, product);
  return b == Order::kContraction ? start_product<Order::kContraction, Order::kContraction>(context, product)
                                  : start_product<Order::kContraction, Order::kOuter>(context, product);
}

}  // namespace q4j::cuda
