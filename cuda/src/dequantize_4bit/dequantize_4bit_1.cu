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
Q4J_KERNEL(kThreads, 1) dequantize_4bit_1_bytes(const Dequantize4Bit d) {
  const int64_t byte = static_cast<int64_t>(block_index()) * kThreads + thread_index();
  const int64_t even = byte * 2;
  if (even >= d.n) return;
  const float absmax = absmax_of_block(d, signed_map.at, even >> d.block_shift);
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
