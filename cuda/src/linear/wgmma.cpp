// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#include "linear/wgmma.h"

#include <cstring>

#include "error.h"
#include "linear/branch.h"
#include "linear/strip_kernels.h"
#include "linear/wgmma_kernels.h"
#include "pack_weight/packed_layout.h"
#include "quant.h"

namespace q4j::cuda {

namespace {

/** The parts of a factor without s, by which the sums are multiplied afterwards. */
BranchParts parts_of(const q4j_lora* lora) { return branch_parts(lora, false); }

int64_t branch_tiles(const q4j_lora* lora) {
  return has_branch(lora) ? ceil_div(int64_t{parts_of(lora).groups} * lora->rank, 64) : 0;
}

int64_t branch_bytes(int64_t m, const q4j_lora* lora) { return m * branch_tiles(lora) * 64 * 2; }

/** Whether the pack holds the kernel's machine code: in PTX for other architectures the kernel is empty. */
bool has_kernel() {
  return std::strstr(Q4J_PACK_ARCHITECTURES, "90a") != nullptr || std::strcmp(Q4J_PACK_ARCHITECTURES, "host") == 0;
}

bool takes_weight(const q4j_pack_context& context, const q4j_weight& weight) {
  return has_kernel() && context.capability == 90 && is_4bit(weight.format) && weight.layout == Q4J_LAYOUT_PACKED &&
         packed_layout(weight).tiles;
}

/** Rows, columns and tiles are counted in 32 bits by the kernel and its maps, and the branch's parts by theirs. */
bool fits(int64_t m, int64_t columns, int64_t contraction, const q4j_lora* lora) {
  constexpr int64_t most = int64_t{1} << 30;
  return m > 0 && m < most && columns < most && contraction < most &&
         ceil_div(m, kWgmmaRows) * ceil_div(columns, kWgmmaColumns) < most && m * branch_tiles(lora) * 8 < kMostItems;
}

/** What both directions have: the branch's parts in bf16, written to the workspace, and the maps of what is fetched. */
q4j_status prepare(q4j_pack_context* context, const q4j_lora* lora, const void* x, int64_t ldx, int64_t m, int64_t contraction,
                   const void* branch, const void* factor, void* workspace, WgmmaLinear* arguments) {
  arguments->m = m;
  arguments->base_tiles = static_cast<int32_t>(ceil_div(contraction, 64));
  Q4J_RETURN_IF_ERROR(make_tensor_map(*context, x, m, contraction, ldx, kWgmmaRows, &arguments->activations));
  if (!has_branch(lora)) return Q4J_OK;
  arguments->branch_tiles = static_cast<int32_t>(branch_tiles(lora));
  arguments->parts = parts_of(lora);
  arguments->factor = branch_factor(lora, factor);
  const int64_t width = int64_t{arguments->branch_tiles} * 64;
  const WidenedActivations widened = {nullptr,          0, m,     0,        static_cast<const float*>(branch), lora->rank,
                                      arguments->parts, 0, width, workspace};
  Q4J_RETURN_IF_ERROR(widen_activations(*context, widened));
  return make_tensor_map(*context, workspace, m, width, width, kWgmmaRows, &arguments->branch);
}

}  // namespace

bool wgmma_takes(const q4j_pack_context& context, const q4j_linear_forward_params& p) {
  return p.dtype == Q4J_BF16 && takes_weight(context, *p.weight) && fits(p.m, p.weight->rows, p.weight->cols, p.lora) &&
         is_wide(p.x, p.ldx) && is_wide(p.y, p.ldy);
}

bool wgmma_takes(const q4j_pack_context& context, const q4j_linear_backward_input_params& p) {
  return p.dtype == Q4J_BF16 && p.weight != nullptr && takes_weight(context, *p.weight) && fits(p.m, p.k, p.n, p.lora) &&
         is_wide(p.dy, p.lddy) && is_wide(p.dx, p.lddx);
}

int64_t wgmma_workspace(const q4j_linear_forward_params& p) { return branch_bytes(p.m, p.lora); }

int64_t wgmma_workspace(const q4j_linear_backward_input_params& p) { return branch_bytes(p.m, p.lora); }

q4j_status wgmma_forward(q4j_pack_context* context, const q4j_linear_forward_params& p, void* workspace) {
  WgmmaLinear arguments = {};
  arguments.weight = tiles_of(*p.weight);
  arguments.columns = p.weight->rows;
  arguments.bias = p.bias;
  arguments.bias_dtype = p.bias_dtype;
  arguments.residual = p.residual;
  arguments.ldr = p.ldr;
  arguments.out = p.y;
  arguments.ldo = p.ldy;
  Q4J_RETURN_IF_ERROR(prepare(context, p.lora, p.x, p.ldx, p.m, p.weight->cols, p.xa, has_branch(p.lora) ? p.lora->b : nullptr,
                              workspace, &arguments));
  return launch_wgmma_forward(*context, p.weight->format, arguments);
}

q4j_status wgmma_backward_input(q4j_pack_context* context, const q4j_linear_backward_input_params& p, void* workspace) {
  WgmmaLinear arguments = {};
  arguments.weight = tiles_of(*p.weight);
  arguments.columns = p.k;
  arguments.residual = p.accumulate != 0 ? p.dx : nullptr;
  arguments.ldr = p.lddx;
  arguments.out = p.dx;
  arguments.ldo = p.lddx;
  Q4J_RETURN_IF_ERROR(
      prepare(context, p.lora, p.dy, p.lddy, p.m, p.n, p.dyb, has_branch(p.lora) ? p.lora->a : nullptr, workspace, &arguments));
  if (has_branch(p.lora)) {
    arguments.mask = make_dropout_mask(p.lora->dropout, p.k);
    arguments.factor.s *= arguments.mask.scale;
  }
  return launch_wgmma_backward(*context, p.weight->format, arguments);
}

}  // namespace q4j::cuda
