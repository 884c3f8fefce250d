// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The operator's part: arguments, which rung runs, and the kernel that quantizes the rows of x. */
#include "linear/int8_forward.h"

#include "linear/branch.h"
#include "support/elements.h"
#include "support/int8.h"
#include "support/launch.h"
#include "support/row_maximum.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kStep = kThreads * kEight;
// Eights of a thread that stay in registers between the maximum and the codes: rows of up to 8192 elements are read once.
constexpr int kHeld = 4;
constexpr int64_t kMostTerms = 131072; /* 131072 * 127 * 128 < 2^31 */

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

int64_t codes_bytes(int64_t m, int64_t k) { return round_up(m * round_up(k, 16), 64); }

/** One block per row of x: codes by quantize_int8_rowwise's rule, zeros up to ld_codes, and the row's absmax. */
Q4J_KERNEL(kThreads, 4)
int8_forward_codes(const Int8Forward f) {
  const bool vectors = is_aligned(f.x, sizeof(Words4)) && f.ldx % kEight == 0;
  const int64_t first = thread_index() * kEight;
  for (int64_t row = block_index(); row < f.m; row += grid_blocks()) {
    const bf16* x = f.x + row * f.ldx;
    uint8_t* codes = f.x_codes + row * f.ld_codes;
    Eight<bf16> held[kHeld];
    float absmax = 0.0f;
    Q4J_UNROLL
    for (int h = 0; h < kHeld; ++h) {
      const int64_t from = first + h * kStep;
      if (from < f.ld_codes) held[h] = load_eight(x, from, f.k, vectors);
    }
    Q4J_UNROLL
    for (int h = 0; h < kHeld; ++h) {
      if (first + h * kStep < f.k) absmax = largest_of_eight(absmax, held[h]);
    }
    for (int64_t from = first + kHeld * kStep; from < f.k; from += kStep) {
      absmax = largest_of_eight(absmax, load_eight(x, from, f.k, vectors));
    }
    absmax = block_maximum<kThreads>(absmax);
    if (thread_index() == 0) f.x_absmax[row] = absmax;
    const float scale = int8_scale(absmax);
    Q4J_UNROLL
    for (int h = 0; h < kHeld; ++h) {
      const int64_t from = first + h * kStep;
      if (from < f.ld_codes) store(reinterpret_cast<Words2*>(codes + from), encode_eight_int8(held[h], scale));
    }
    for (int64_t from = first + kHeld * kStep; from < f.ld_codes; from += kStep) {
      store(reinterpret_cast<Words2*>(codes + from), encode_eight_int8(load_eight(x, from, f.k, vectors), scale));
    }
  }
}

}  // namespace

int64_t int8_forward_workspace(const q4j_linear_forward_params& params) {
  return codes_bytes(params.m, params.weight->cols) + params.m * static_cast<int64_t>(sizeof(float));
}

q4j_status int8_forward(q4j_pack_context* context, const q4j_linear_forward_params& params, void* workspace) {
  const q4j_weight& weight = *params.weight;
  const bool branch = has_branch(params.lora);
  Int8Forward f = {};
  f.x = static_cast<const bf16*>(params.x);
  f.w = static_cast<const uint8_t*>(weight.data);
  f.w_absmax = static_cast<const float*>(weight.absmax);
  f.xa = static_cast<const float*>(params.xa);
  f.b = branch ? static_cast<const float*>(params.lora->b) : nullptr;
  f.bias = params.bias;
  f.residual = static_cast<const bf16*>(params.residual);
  f.y = static_cast<bf16*>(params.y);
  f.x_codes = static_cast<uint8_t*>(workspace);
  f.x_absmax = reinterpret_cast<float*>(f.x_codes + codes_bytes(params.m, weight.cols));
  f.m = params.m;
  f.n = weight.rows;
  f.k = weight.cols;
  f.ldx = params.ldx;
  f.ldr = params.ldr;
  f.ldy = params.ldy;
  f.ld_codes = round_up(weight.cols, 16);
  f.rank = branch ? params.lora->rank : 0;
  f.s = branch ? params.lora->s : 0.0f;
  f.bias_dtype = params.bias_dtype;
  f.rounds = branch && params.lora->compute == Q4J_LORA_FAST;
  int resident = 0;
  Q4J_RETURN_IF_ERROR(resident_blocks(*context, kThreads, "int8_forward_codes", int8_forward_codes, &resident));
  const Grid grid = {blocks_for(f.m, 1, resident), kThreads};
  Q4J_RETURN_IF_ERROR(launch(*context, grid, "int8_forward_codes", int8_forward_codes, f));
  return context->rungs.linear_forward_int8 == 1 || f.k > kMostTerms ? int8_forward_1(*context, f)
                                                                     : int8_forward_2(*context, f);
}

}  // namespace q4j::cuda
