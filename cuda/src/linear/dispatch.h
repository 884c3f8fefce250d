// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Which kernel makes which product, and how the product is cut into blocks. The only place that decides it, from shapes and
 * types alone: no pointers, because the workspace is asked for before there are any, and not the number of multiprocessors, so
 * that results are the same on every device that runs the same kernels.
 *
 * To add a path: a value of Path, a condition in dispatch.cpp, a launcher below, a case in run_product.
 */
#ifndef QLORA4J_CUDA_LINEAR_DISPATCH_H_
#define QLORA4J_CUDA_LINEAR_DISPATCH_H_

#include <cstdint>

#include "linear/product.h"
#include "linear_small/linear_small.h"
#include "pack/context.h"

namespace q4j::cuda {

enum class Path {
  kElements, /* rung 1: product_1.cu */
  kLarge,    /* rung 2: product_2.h, blocks of 256 x 128 */
  kMedium,   /* 128 x 128 */
  kSmall,    /* 64 x 128 */
  kFew,      /* 64 rows at most and a packed weight: linear_small/ */
  kSlim      /* 128 x 64: one factor is f32, [rank, ...] or [..., rank]; product_2_slim.cu */
};

/** How C and k are cut. A block makes a tile of C from `steps` steps of 32 k. */
struct Split {
  int tiles;
  int tile_rows;
  int tile_columns;
  int parts; /* of k: more than one where C alone is too small to occupy a device */
  int steps; /* of a part; the last may have fewer */
  int all_steps;
  float* partial; /* [parts] results of the size of C, summed in ascending order by sum_parts; with one part unused */
};

struct Plan {
  Path path;
  Split split;
  SmallPlan small; /* of kFew */
  int64_t workspace_bytes;
};

/** How a whole call is made where its products are not made one by one. */
enum class CallPath {
  kProducts,
  kStrips, /* strip.h: a library multiplies what was dequantized */
  kWgmma   /* wgmma.h: one kernel for Hopper */
};

/**
 * The path of a call by its rung: 1 and 2 are products; 3 strips and 4 wgmma, wherever they take the call; 5 is the choice by
 * shape: strips from kStripRows rows on, where cuBLASLt is there (measured on an H200, docs/kernels/linear.md).
 */
constexpr int64_t kStripRows = 65;
CallPath choose_path(q4j_pack_context* context, const q4j_linear_forward_params& params);
CallPath choose_path(q4j_pack_context* context, const q4j_linear_backward_input_params& params);

/** What a product is made of, as far as the choice depends on it. */
struct ProductShape {
  int64_t m;
  int64_t n;
  int64_t k;
  int32_t dtype;     /* of the activations */
  Elements elements; /* of B */
  Order b = Order::kContraction;
  int few = 0; /* the rung of linear_small that takes it, or 0 */
};

/** The plan for a product with a weight. */
q4j_status plan_product(const ProductShape& shape, int rung, Plan* plan);

/** The plan for a product of two activations: the gradient of a weight. */
q4j_status plan_gradient(const ProductShape& shape, int rung, Plan* plan);

/** The plan for a product whose B is f32 with few columns: xa, dyb and the gradients of the branch. */
q4j_status plan_slim(const ProductShape& shape, int rung, Plan* plan);

/** Runs the product. The plan's workspace begins at `workspace`. */
q4j_status run_product(const q4j_pack_context& context, const Product& product, Order a, Order b, Plan plan, void* workspace);

// ---------------------------------------------------------------- what run_product chooses from

/** Any order, type and alignment. */
q4j_status product_1(const q4j_pack_context& context, const Product& product, Order a, Order b);

// Rung 2, by orders of A and B (contraction first) and B's elements: bf16; 4-bit; packed tiles; INT8 and FP8; the others.
q4j_status product_2_forward_bf16(const q4j_pack_context& context, const Product& product, Path path, const Split& split);
q4j_status product_2_forward_4bit(const q4j_pack_context& context, const Product& product, Path path, const Split& split);
q4j_status product_2_forward_packed(const q4j_pack_context& context, const Product& product, Path path, const Split& split);
q4j_status product_2_forward_rowwise(const q4j_pack_context& context, const Product& product, Path path, const Split& split);
q4j_status product_2_forward_other(const q4j_pack_context& context, const Product& product, const Split& split);
q4j_status product_2_backward_bf16(const q4j_pack_context& context, const Product& product, Path path, const Split& split);
q4j_status product_2_backward_4bit(const q4j_pack_context& context, const Product& product, Path path, const Split& split);
q4j_status product_2_backward_packed(const q4j_pack_context& context, const Product& product, Path path, const Split& split);
q4j_status product_2_backward_rowwise(const q4j_pack_context& context, const Product& product, Path path, const Split& split);
q4j_status product_2_backward_other(const q4j_pack_context& context, const Product& product, const Split& split);
q4j_status product_2_gradient(const q4j_pack_context& context, const Product& product, const Split& split);

/** Rung 2 for a slim B of f32, in either order; A's rows run along k. */
struct SlimWork {
  Product product;
  Split split;
};
q4j_status product_2_slim(const q4j_pack_context& context, const SlimWork& work, Order b);
/** Both gradients of the branch in one launch: all rows are a k each. */
q4j_status product_2_slim_pair(const q4j_pack_context& context, const SlimWork& first, const SlimWork& second);

/** C = the sum of the parts, in ascending order, finished as the product's output says. */
q4j_status sum_parts(const q4j_pack_context& context, const Product& product, const Split& split);

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_LINEAR_DISPATCH_H_
