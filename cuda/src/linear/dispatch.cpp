// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#include "linear/dispatch.h"

#include <algorithm>

#include "error.h"
#include "linear/strip.h"
#include "linear/wgmma.h"
#include "quant.h"

namespace q4j::cuda {

namespace {

// Blocks that occupy the devices this was written for: 108 multiprocessors (A100), 132 (H100). Fewer, and k is split.
constexpr int64_t kEnoughBlocks = 128;

/** Parts of at least `least_steps` steps, as many as bring the number of blocks to `enough`. */
q4j_status cut(const ProductShape& shape, int64_t tile_m, int64_t tile_n, int64_t enough, int64_t least_steps, Plan* plan) {
  const int64_t rows = ceil_div(shape.m, tile_m);
  const int64_t columns = ceil_div(shape.n, tile_n);
  const int64_t steps = ceil_div(shape.k, 32);
  Q4J_REQUIRE(rows <= 0x1000000 && columns <= 0x1000000 && rows * columns <= 0x1000000 && steps <= 0x7fffffff, Q4J_UNSUPPORTED,
              "a product of %lld x %lld x %lld is too large for one launch", static_cast<long long>(shape.m),
              static_cast<long long>(shape.n), static_cast<long long>(shape.k));
  const int64_t wanted = std::max<int64_t>(1, std::min(enough / (rows * columns), steps / least_steps));
  const int64_t steps_of_part = ceil_div(steps, wanted);
  Split& split = plan->split;
  split.tile_rows = static_cast<int>(rows);
  split.tile_columns = static_cast<int>(columns);
  split.tiles = static_cast<int>(rows * columns);
  split.steps = static_cast<int>(steps_of_part);
  split.all_steps = static_cast<int>(steps);
  split.parts = static_cast<int>(ceil_div(steps, steps_of_part));
  plan->workspace_bytes = split.parts > 1 ? split.parts * shape.m * shape.n * 4 : 0;
  return Q4J_OK;
}

template <typename Params>
CallPath path_of_rung(q4j_pack_context* context, const Params& params, int rung) {
  if (rung == 4 && wgmma_takes(*context, params)) return CallPath::kWgmma;
  const bool strips = rung == 3 || (rung == 5 && params.m >= kStripRows);
  return strips && strip_takes(params) && strip_available(context) ? CallPath::kStrips : CallPath::kProducts;
}

}  // namespace

CallPath choose_path(q4j_pack_context* context, const q4j_linear_forward_params& params) {
  return path_of_rung(context, params, context->rungs.linear_forward);
}

CallPath choose_path(q4j_pack_context* context, const q4j_linear_backward_input_params& params) {
  return path_of_rung(context, params, context->rungs.linear_backward_input);
}

q4j_status plan_product(const ProductShape& shape, int rung, Plan* plan) {
  *plan = {};
  if (rung == 1 || shape.dtype == Q4J_F32) {
    plan->path = Path::kElements;
    return Q4J_OK;
  }
  if (shape.few > 0) {
    plan->path = Path::kFew;
    const bool forward = shape.b == Order::kContraction;
    plan->small = plan_small(shape.m, forward ? shape.n : shape.k, forward ? shape.k : shape.n, shape.b, shape.few);
    plan->split.parts = plan->small.splits;
    plan->workspace_bytes = plan->small.splits > 1 ? plan->small.splits * shape.m * shape.n * 4 : 0;
    return Q4J_OK;
  }
  const bool packed = shape.elements == Elements::kPackedTiles;
  const bool converted = shape.elements == Elements::kF32 || shape.elements == Elements::kF16;
  // In outer order the scales of 256 rows' blocks do not fit the registers beside the sums (56 bytes spilled on sm_90a).
  const bool rowwise = shape.elements == Elements::kInt8 || shape.elements == Elements::kFp8;
  const bool tall = !converted && !(rowwise && shape.b == Order::kOuter);
  const int64_t columns = ceil_div(shape.n, 128);
  // A weight is read, and dequantized, once per row of blocks: the tallest block that leaves enough of them.
  if (shape.m <= 64 && !packed) {  // packed, they have kernels of their own unless the device lacks shared memory for them
    plan->path = Path::kSmall;
  } else if (tall && ceil_div(shape.m, 256) * columns >= kEnoughBlocks) {
    plan->path = Path::kLarge;
  } else {
    plan->path = Path::kMedium;
  }
  // The others' raw stages are too large for 256 rows beside them, and f32 weights are for training, not for few rows.
  if (converted) plan->path = Path::kMedium;
  const int64_t tile_m = plan->path == Path::kLarge ? 256 : plan->path == Path::kMedium ? 128 : 64;
  return cut(shape, tile_m, 128, kEnoughBlocks, 8, plan);
}

q4j_status plan_gradient(const ProductShape& shape, int rung, Plan* plan) {
  *plan = {};
  if (rung == 1 || shape.dtype == Q4J_F32) {
    plan->path = Path::kElements;
    return Q4J_OK;
  }
  plan->path = Path::kMedium;  // the only blocks there are: nothing is dequantized that taller ones would save
  return cut(shape, 128, 128, kEnoughBlocks, 8, plan);
}

q4j_status plan_slim(const ProductShape& shape, int rung, Plan* plan) {
  *plan = {};
  if (rung == 1 || shape.dtype == Q4J_F32) {
    plan->path = Path::kElements;
    return Q4J_OK;
  }
  // Bound by the bytes of A: two blocks on every multiprocessor keep more of them in flight than one.
  plan->path = Path::kSlim;
  return cut(shape, 128, 64, 2 * kEnoughBlocks, 4, plan);
}

q4j_status run_product(const q4j_pack_context& context, const Product& product, Order a, Order b, Plan plan, void* workspace) {
  plan.split.partial = static_cast<float*>(workspace);
  const Split& split = plan.split;
  switch (plan.path) {
    case Path::kElements:
      return product_1(context, product, a, b);
    case Path::kFew:
      Q4J_RETURN_IF_ERROR(linear_small(context, product, b, plan.small, plan.split.partial));
      break;
    case Path::kSlim:
      Q4J_RETURN_IF_ERROR(product_2_slim(context, {product, split}, b));
      break;
    default:
      if (a == Order::kOuter) {
        Q4J_RETURN_IF_ERROR(product_2_gradient(context, product, split));
      } else if (b == Order::kContraction) {
        switch (product.b.elements) {
          case Elements::kBf16:
            Q4J_RETURN_IF_ERROR(product_2_forward_bf16(context, product, plan.path, split));
            break;
          case Elements::kFourBit:
            Q4J_RETURN_IF_ERROR(product_2_forward_4bit(context, product, plan.path, split));
            break;
          case Elements::kInt8:
          case Elements::kFp8:
            Q4J_RETURN_IF_ERROR(product_2_forward_rowwise(context, product, plan.path, split));
            break;
          case Elements::kPackedTiles:
            Q4J_RETURN_IF_ERROR(product_2_forward_packed(context, product, plan.path, split));
            break;
          default:
            Q4J_RETURN_IF_ERROR(product_2_forward_other(context, product, split));
        }
      } else {
        switch (product.b.elements) {
          case Elements::kBf16:
            Q4J_RETURN_IF_ERROR(product_2_backward_bf16(context, product, plan.path, split));
            break;
          case Elements::kFourBit:
            Q4J_RETURN_IF_ERROR(product_2_backward_4bit(context, product, plan.path, split));
            break;
          case Elements::kInt8:
          case Elements::kFp8:
            Q4J_RETURN_IF_ERROR(product_2_backward_rowwise(context, product, plan.path, split));
            break;
          case Elements::kPackedTiles:
            Q4J_RETURN_IF_ERROR(product_2_backward_packed(context, product, plan.path, split));
            break;
          default:
            Q4J_RETURN_IF_ERROR(product_2_backward_other(context, product, split));
        }
      }
  }
  return split.parts > 1 ? sum_parts(context, product, split) : Q4J_OK;
}

}  // namespace q4j::cuda
