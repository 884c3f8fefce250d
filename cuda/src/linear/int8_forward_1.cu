// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Rung 1: the definition, one thread per element of y. */
#include "linear/int8_forward.h"
#include "support/elements.h"
#include "support/launch.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 256;

Q4J_DEVICE int64_t signed_byte(uint8_t byte) { return static_cast<int64_t>(static_cast<int8_t>(byte)); }

Q4J_DEVICE float factor(float value, bool rounds) { return rounds ? widen(narrow<bf16>(value)) : value; }

Q4J_KERNEL(kThreads, 1)
int8_forward_1_elements(const Int8Forward f) {
  const int64_t i = static_cast<int64_t>(block_index()) * kThreads + thread_index();
  if (i >= f.m * f.n) return;
  const int64_t row = i / f.n;
  const int64_t column = i - row * f.n;
  int64_t sum = 0;
  for (int64_t c = 0; c < f.k; ++c) {
    sum += signed_byte(f.x_codes[row * f.ld_codes + c]) * signed_byte(f.w[column * f.k + c]);
  }
  float y = product_of_codes(static_cast<float>(sum), f.x_absmax[row], f.w_absmax[column]);
  if (f.rank > 0) {
    float branch = 0.0f;
    for (int32_t r = 0; r < f.rank; ++r) {
      branch = multiply_add(f.xa[row * f.rank + r], factor(f.b[column * f.rank + r], f.rounds), branch);
    }
    y = multiply_add(f.s, branch, y);
  }
  if (f.bias != nullptr) {
    y = add(y, f.bias_dtype == Q4J_F32 ? static_cast<const float*>(f.bias)[column]
                                       : widen(static_cast<const bf16*>(f.bias)[column]));
  }
  if (f.residual != nullptr) y = add(y, widen(f.residual[row * f.ldr + column]));
  f.y[row * f.ldy + column] = narrow<bf16>(y);
}

}  // namespace

q4j_status int8_forward_1(const q4j_pack_context& context, const Int8Forward& arguments) {
  const Grid grid = {blocks_for(arguments.m * arguments.n, kThreads), kThreads};
  return launch(context, grid, "int8_forward_1_elements", int8_forward_1_elements, arguments);
}

}  // namespace q4j::cuda
