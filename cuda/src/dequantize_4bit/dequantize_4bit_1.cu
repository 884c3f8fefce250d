// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Rung 1: the definition, one thread per byte. */
#include "dequantize_4bit/dequantize_4bit.h"
#include "dequantize_4bit/scale.h"
#include "support/dispatch.h"
#include "support/launch.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 256;

template <typename T, int Format>
Q4J_KERNEL(kThreads, 1)
dequantize_4bit_1_bytes(const Dequantize4Bit d) {
  const int64_t byte = static_cast<int64_t>(block_index()) * kThreads + thread_index();
  const int64_t even = byte * 2;
  if (even >= d.n) return;
  const int64_t block = even >> d.block_shift;
  float absmax;
  if (d.nested_block_size == 0) {
    absmax = static_cast<const float*>(d.absmax)[block];
  } else {
    const float value = signed_map.at[static_cast<const uint8_t*>(d.absmax)[block]];
    absmax = add(multiply(value, d.nested_absmax[block / d.nested_block_size]), d.nested_offset);
  }
  const uint32_t codes = d.packed[byte];
  T* output = static_cast<T*>(d.output);
  const float* value = Format == Q4J_WEIGHT_NF4 ? nf4_by_code.at : fp4_by_code.at;
  output[even] = narrow<T>(multiply(value[codes >> 4], absmax));
  if (even + 1 < d.n) output[even + 1] = narrow<T>(multiply(value[codes & 15u], absmax));
}

}  // namespace

q4j_status dequantize_4bit_1(const q4j_pack_context& context, const Dequantize4Bit& arguments) {
  const Grid grid = {blocks_for(arguments.n, 2 * kThreads), kThreads};
  return with_dtype(arguments.dtype, [&](auto type) {
    using T = decltype(type);
    return with_format(arguments.format, [&](auto format) {
      return launch(context, grid, "dequantize_4bit_1_bytes", dequantize_4bit_1_bytes<T, decltype(format)::value>, arguments);
    });
  });
}

}  // namespace q4j::cuda
