// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** absmax of a block, and the tables, as the rungs 2 and 3 keep them in shared memory. */
#ifndef QLORA4J_CUDA_DEQUANTIZE_4BIT_SCALE_H_
#define QLORA4J_CUDA_DEQUANTIZE_4BIT_SCALE_H_

#include "dequantize_4bit/dequantize_4bit.h"
#include "support/codes.h"
#include "support/elements.h"

namespace q4j::cuda {

Q4J_TABLE Table<float, 16> nf4_by_code = table_of(nf4_values);
Q4J_TABLE Table<float, 16> fp4_by_code = table_of(fp4_values);

struct DequantizeTables {
  float value[16]; /* one bank each: a warp's look-ups never collide */
  float map[256];
};

/** Fills the block's tables; needs 32 threads at least. Ends with a barrier. */
template <int Format>
Q4J_DEVICE DequantizeTables& load_tables(const Dequantize4Bit& d) {
  auto& tables = block_shared<DequantizeTables>();
  if (thread_index() < 16) {
    tables.value[thread_index()] = Format == Q4J_WEIGHT_NF4 ? nf4_by_code.at[thread_index()] : fp4_by_code.at[thread_index()];
  }
  if (d.nested_block_size > 0) {
    for (int i = thread_index(); i < 256; i += block_threads()) tables.map[i] = signed_map.at[i];
  }
  block_barrier();
  return tables;
}

/** absmax of a block; the nested block size is a power of two. */
Q4J_DEVICE float absmax_of_block(const Dequantize4Bit& d, const float* map, int64_t block) {
  if (d.nested_block_size == 0) return load_read_only(static_cast<const float*>(d.absmax) + block);
  const uint8_t code = load_read_only(static_cast<const uint8_t*>(d.absmax) + block);
  return add(multiply(map[code], load_read_only(d.nested_absmax + (block >> d.nested_shift))), d.nested_offset);
}

/** Four bytes of codes from element `from` on, of which those beyond n read as 0. */
Q4J_DEVICE uint32_t load_codes(const Dequantize4Bit& d, int64_t from, bool words) {
  const uint8_t* packed = d.packed + from / 2;
  if (words && from + kEight <= d.n) return load_read_only(reinterpret_cast<const uint32_t*>(packed));
  uint32_t codes = 0;
  Q4J_UNROLL
  for (int b = 0; b < 4; ++b) {
    if (from + 2 * b < d.n) codes |= static_cast<uint32_t>(load_read_only(packed + b)) << (8 * b);
  }
  return codes;
}

/** Writes the eight elements from `from` on. */
template <typename T>
Q4J_DEVICE void decode_eight(const Dequantize4Bit& d, const DequantizeTables& tables, uint32_t codes, float absmax,
                             int64_t from, bool vectors) {
  float value[kEight];
  Q4J_UNROLL
  for (int i = 0; i < kEight; ++i) {
    // The even element of a byte sits in the high nibble.
    value[i] = multiply(tables.value[(codes >> (4 * (i ^ 1))) & 15u], absmax);
  }
  store_eight(static_cast<T*>(d.output), from, d.n, vectors, value);
}

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_DEQUANTIZE_4BIT_SCALE_H_
