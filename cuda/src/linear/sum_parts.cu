// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The sum of what a product was split into along k, in the order of the parts. A thread makes four neighbouring elements; it
 * loads eight parts before it adds the first, because one load after the other would take a memory latency for each part.
 */
#include "linear/dispatch.h"
#include "support/launch.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kInFlight = 8;

Q4J_KERNEL(kThreads, 4)
linear_sum_parts(const Output output, const float* partial, int parts, int64_t rows, int64_t columns) {
  const int64_t quads = (columns + 3) / 4;
  const int64_t quad = static_cast<int64_t>(block_index()) * kThreads + thread_index();
  const int64_t row = quad / quads;
  const int64_t column = (quad - row * quads) * 4;
  if (row >= rows) return;
  const float* from = partial + row * columns + column;
  const bool wide = columns % 4 == 0;  // the workspace is aligned
  float sum[4] = {};
  int part = 0;
  if (wide) {
    Q4J_NO_UNROLL
    for (; part + kInFlight <= parts; part += kInFlight) {
      Words4 words[kInFlight];
      Q4J_UNROLL
      for (int p = 0; p < kInFlight; ++p) words[p] = load(reinterpret_cast<const Words4*>(from + p * rows * columns));
      Q4J_UNROLL
      for (int p = 0; p < kInFlight; ++p) {
        Q4J_UNROLL
        for (int i = 0; i < 4; ++i) sum[i] = add(sum[i], bits_float(words[p].word[i]));
      }
      from += kInFlight * rows * columns;
    }
  }
  Q4J_NO_UNROLL
  for (; part < parts; ++part) {
    if (wide) {
      const Words4 words = load(reinterpret_cast<const Words4*>(from));
      Q4J_UNROLL
      for (int i = 0; i < 4; ++i) sum[i] = add(sum[i], bits_float(words.word[i]));
    } else {
      Q4J_UNROLL
      for (int i = 0; i < 4; ++i) {
        if (column + i < columns) sum[i] = add(sum[i], from[i]);
      }
    }
    from += rows * columns;
  }
  write_four(output, row, column, columns, writes_four(output),
             Words4{{float_bits(sum[0]), float_bits(sum[1]), float_bits(sum[2]), float_bits(sum[3])}});
}

}  // namespace

q4j_status sum_parts(const q4j_pack_context& context, const Product& product, const Split& split) {
  const bool transposed = product.output.transposed;
  const int64_t rows = transposed ? product.n : product.m;
  const int64_t columns = transposed ? product.m : product.n;
  return launch(context, {blocks_for(rows * ((columns + 3) / 4), kThreads), kThreads}, "linear_sum_parts", linear_sum_parts,
                product.output, split.partial, split.parts, rows, columns);
}

}  // namespace q4j::cuda
