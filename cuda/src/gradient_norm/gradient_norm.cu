// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * gradient_norm: the Euclidean norm of many f32 tensors taken as one vector.
 *
 * Launch contract
 *   tensors  f32[length] each, any alignment to 4 bytes (16 is fast); empty ones are allowed, and no tensors at all
 *   result   f64[1]: the root of the sum of all squares
 * A square of an f32 is exact in f64; the sum is one of f64 in an order that the lengths alone decide, neither the grid nor
 * the device nor the alignment. NaN and infinity propagate.
 *
 * Rungs
 *   1 one block per tensor, a launch each, that adds to *result; a last launch takes the root.
 *   2 one launch for 1635 tensors. All tiles are dealt to a fixed number of sums in the context's scratch memory; a block
 *     computes the sums its number says, one after the other, and the block that finishes last adds them up.
 *
 * Reads 4 bytes per element and is bound by that on devices with fast f64. On compute capability 8.6 and 8.9, where a
 * multiprocessor converts 2 elements to f64 and multiplies 2 a clock, f64 bounds it: 1 element a clock. That is 0.6 of what an
 * RTX 3090's memory could deliver and 1.3 of an RTX 4090's (derived, not measured).
 */
#include <algorithm>

#include "pack/operators.h"
#include "pack/scratch.h"
#include "support/block_sum.h"
#include "support/launch.h"
#include "support/tensor_list.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 256;
/** Loads of 16 bytes that a thread has under way: 64 bytes times 1536 threads is 96 KB per multiprocessor. */
constexpr int kAhead = 4;
constexpr int kStep = kThreads * 4 * kAhead;
constexpr int kTile = 2 * kStep;

struct Gradient {
  const float* values;
  int64_t length;
};

constexpr int kTensors = tensor_capacity<Gradient>(32);

struct GradientNorm {
  Scratch* scratch;
  double* result;
  int32_t sums;    /* that this launch adds to: min(tiles, Scratch::kSums) */
  int32_t started; /* sums that earlier launches have written; the others are not initialised */
  int32_t last;    /* this is the last launch */
  TensorList<Gradient, kTensors> tensors;
};
static_assert(sizeof(GradientNorm) <= kParameterBytes, "fits the parameters of a kernel");
static_assert(kTensors == 1635, "tensor_list.h, docs/kernels/gradient-norm.md");

/** `sum` plus the squares of this thread's elements of a step. */
template <bool Wide>
Q4J_DEVICE double add_squares(const float* values, int from, int length, double sum) {
  Words4 loaded[kAhead];
  Q4J_UNROLL
  for (int a = 0; a < kAhead; ++a) loaded[a] = load_four<Wide>(values, from + a * kThreads * 4, length);
  Q4J_UNROLL
  for (int a = 0; a < kAhead; ++a) {
    Q4J_UNROLL
    for (int i = 0; i < 4; ++i) {
      const auto value = static_cast<double>(bits_float(loaded[a].word[i]));
      sum += value * value;  // fused or not: the square is exact
    }
  }
  return sum;
}

/** The same for a tile, which begins at `first`. */
Q4J_DEVICE double add_tile(const Gradient& gradient, int64_t first, double sum) {
  const float* values = gradient.values + first;
  const int length = static_cast<int>(gradient.length - first < kTile ? gradient.length - first : kTile);
  const bool vectors = is_aligned(values, sizeof(Words4));
  Q4J_NO_UNROLL
  for (int step = 0; step < length; step += kStep) {
    const int from = step + thread_index() * 4;
    sum = vectors && step + kStep <= length ? add_squares<true>(values, from, length, sum)
                                            : add_squares<false>(values, from, length, sum);
  }
  return sum;
}

Q4J_KERNEL(kThreads, 1) gradient_norm_1_tensor(const Gradient gradient, double* result) {
  double sum = 0.0;
  for (int64_t i = thread_index(); i < gradient.length; i += kThreads) {
    const auto value = static_cast<double>(gradient.values[i]);
    sum += value * value;
  }
  sum = block_sum<kThreads>(sum);
  if (thread_index() == 0) *result += sum;
}

Q4J_KERNEL(kWarp, 1) gradient_norm_1_root(double* result) {
  if (thread_index() == 0) *result = square_root(*result);
}

struct Last {
  bool block;
};

Q4J_KERNEL(kThreads, 6) gradient_norm_2_tensors(Q4J_LARGE_PARAMETER(GradientNorm) norm) {
  for (int s = block_index(); s < norm.sums; s += grid_blocks()) {
    double sum = 0.0;
    int tensor = 0;
    for (int tile = s; tile < norm.tensors.tiles; tile += Scratch::kSums) {
      tensor = tensor_of_tile(norm.tensors, tile, tensor);
      const int64_t first = static_cast<int64_t>(tile - norm.tensors.first_tile[tensor]) * kTile;
      sum = add_tile(norm.tensors.item[tensor], first, sum);
    }
    sum = block_sum<kThreads>(sum);
    if (thread_index() == 0) norm.scratch->sums[s] = s < norm.started ? norm.scratch->sums[s] + sum : sum;
  }
  if (norm.last == 0) return;

  auto& last = block_shared<Last>();
  if (thread_index() == 0) {
    device_fence();
    last.block = fetch_add(&norm.scratch->arrived, 1) == static_cast<uint32_t>(grid_blocks()) - 1u;
    device_fence();
  }
  block_barrier();
  if (!last.block) return;
  const int sums = norm.started > norm.sums ? norm.started : norm.sums;
  double sum = 0.0;
  for (int s = thread_index(); s < sums; s += kThreads) sum += load_shared_by_blocks(norm.scratch->sums + s);
  sum = block_sum<kThreads>(sum);
  if (thread_index() == 0) {
    *norm.result = square_root(sum);
    norm.scratch->arrived = 0;
  }
}

q4j_status gradient_norm_1(q4j_pack_context* context, const q4j_gradient_norm_params& p, double* result) {
  Q4J_RETURN_IF_ERROR(fill(context, result, 0, sizeof(double)));
  for (int32_t t = 0; t < p.count; ++t) {
    if (p.lengths[t] == 0) continue;
    const Gradient gradient = {static_cast<const float*>(p.tensors[t]), p.lengths[t]};
    Q4J_RETURN_IF_ERROR(launch(*context, {1, kThreads}, "gradient_norm_1_tensor", gradient_norm_1_tensor, gradient, result));
  }
  return launch(*context, {1, kWarp}, "gradient_norm_1_root", gradient_norm_1_root, result);
}

q4j_status gradient_norm_2(q4j_pack_context* context, const q4j_gradient_norm_params& p, double* result) {
  int resident = 0;
  Q4J_RETURN_IF_ERROR(resident_blocks(*context, kThreads, "gradient_norm_2_tensors", gradient_norm_2_tensors, &resident));
  GradientNorm norm = {};
  norm.scratch = context->scratch;
  norm.result = result;
  bool launched = false;
  const auto gradient = [&](int32_t t) { return Gradient{static_cast<const float*>(p.tensors[t]), p.lengths[t]}; };
  Q4J_RETURN_IF_ERROR(for_each_list(p.count, p.lengths, kTile, &norm, gradient, [&](bool last) {
    launched = true;
    norm.sums = std::min(norm.tensors.tiles, Scratch::kSums);
    norm.last = last ? 1 : 0;
    const Grid grid = {blocks_for(norm.sums, 1, resident), kThreads};
    const q4j_status status = launch(*context, grid, "gradient_norm_2_tensors", gradient_norm_2_tensors, norm);
    norm.started = std::max(norm.started, norm.sums);
    return status;
  }));
  return launched ? Q4J_OK : fill(context, result, 0, sizeof(double));
}

}  // namespace

q4j_status gradient_norm(q4j_pack_context* context, const q4j_gradient_norm_params* params) {
  auto* result = static_cast<double*>(params->result);
  return context->rungs.gradient_norm == 1 ? gradient_norm_1(context, *params, result)
                                           : gradient_norm_2(context, *params, result);
}

}  // namespace q4j::cuda
