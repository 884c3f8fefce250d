// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Rung 2: one thread per 32 codes, the largest load there is. The smallest block has 32 elements, so one absmax serves a
 * thread. */
#include "dequantize_4bit/dequantize_4bit.h"
#include "dequantize_4bit/scale.h"
#include "support/dispatch.h"
#include "support/launch.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kCodes = 32;

template <typename T, int Format>
Q4J_KERNEL(kThreads, 4)
dequantize_4bit_2_vectors(const Dequantize4Bit d) {
  const DequantizeTables& tables = load_tables<Format>(d);
  const bool wide_packed = is_aligned(d.packed, sizeof(Words4));
  const bool wide_output = is_aligned(d.output, sizeof(Words4));
  const int64_t step = static_cast<int64_t>(grid_blocks()) * kThreads * kCodes;
  for (int64_t from = (static_cast<int64_t>(block_index()) * kThreads + thread_index()) * kCodes; from < d.n; from += step) {
    const float absmax = absmax_of_block(d, tables.map, from >> d.block_shift);
    Words4 codes;
    if (wide_packed && from + kCodes <= d.n) {
      codes = load_read_only(reinterpret_cast<const Words4*>(d.packed + from / 2));
    } else {
      Q4J_UNROLL
      for (int w = 0; w < 4; ++w) codes.word[w] = load_codes(d, from + w * kEight, false);
    }
    Q4J_UNROLL
    for (int w = 0; w < 4; ++w) decode_eight<T>(d, tables, codes.word[w], absmax, from + w * kEight, wide_output);
  }
}

}  // namespace

q4j_status dequantize_4bit_2(const q4j_pack_context& context, const Dequantize4Bit& arguments) {
  return with_dtype(arguments.dtype, [&](auto type) {
    using T = decltype(type);
    return with_format(arguments.format, [&](auto format) {
      const auto kernel = dequantize_4bit_2_vectors<T, decltype(format)::value>;
      int resident = 0;
      Q4J_RETURN_IF_ERROR(resident_blocks(context, kThreads, "dequantize_4bit_2_vectors", kernel, &resident));
      const Grid grid = {blocks_for(arguments.n, kThreads * kCodes, resident), kThreads};
      return launch(context, grid, "dequantize_4bit_2_vectors", kernel, arguments);
    });
  });
}

}  // namespace q4j::cuda
