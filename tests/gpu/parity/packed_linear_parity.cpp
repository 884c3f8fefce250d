// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * linear_forward and linear_backward_input with packed weights: few rows, whose kernels exist for packed tiles alone, and
 * enough of them for the others. Shapes on both sides of what the tiles fit.
 */
#include <algorithm>
#include <cmath>

#include "harness.h"

namespace q4j::parity {
namespace {

struct Linear {
  int64_t m;
  int64_t n;
  int64_t k;
  WeightKind weight;
  int32_t dtype;
  int32_t rank;
  int32_t lora_compute;
  float dropout;
  bool extras;    /* bias and residual, or accumulate; rows with gaps */
  int64_t offset; /* of x and y: elements behind an aligned address */
  bool special;   /* some numbers that are none */
};

std::string describe(const Linear& c) {
  return text(
      "m %lld n %lld k %lld format %d block %d nested %d dtype %d rank %d%s dropout %.2f extras %d offset %lld special %d",
      static_cast<long long>(c.m), static_cast<long long>(c.n), static_cast<long long>(c.k), c.weight.format,
      c.weight.block_size, c.weight.nested_block_size, c.dtype, c.rank, c.lora_compute == Q4J_LORA_F32 ? " f32" : "",
      static_cast<double>(c.dropout), c.extras, static_cast<long long>(c.offset), c.special);
}

std::vector<float> activations(Run& run, int64_t count, bool special) {
  std::vector<float> values = run.random.normal(count, 1.0);
  if (special) values[static_cast<size_t>(run.random.below(count))] = INFINITY;
  return values;
}

/** Both directions have the same error model: a sum of `terms` products, more of the branch, rounded once. */
Tolerance tolerance(const Linear& c, int64_t terms) {
  Tolerance result = Tolerance::rounded(c.dtype, 1) + Tolerance::sum(terms + c.rank + 2);
  if (c.rank > 0 && c.dtype == Q4J_BF16 && c.lora_compute == Q4J_LORA_FAST) result = result + Tolerance::intermediate(Q4J_BF16);
  return result;
}

Tolerance inner_tolerance(const Linear& c, int64_t terms) {
  const bool rounds = c.dtype == Q4J_BF16 && c.lora_compute == Q4J_LORA_FAST;
  return Tolerance::rounded(rounds ? Q4J_BF16 : Q4J_F32, 1) + Tolerance::sum(terms);
}

void forward(Run& run, const Linear& c) {
  const q4j_weight weight =
      run.weight(c.weight, c.n, c.k, run.random.normal(c.n * c.k, 1.0 / std::sqrt(static_cast<double>(c.k))));
  auto p = params<q4j_linear_forward_params>();
  p.dtype = c.dtype;
  p.m = c.m;
  p.weight = &weight;
  const int64_t gap = c.extras ? 3 : 0;
  const Tensor& x = run.input(c.dtype, c.m, c.k, activations(run, c.m * c.k, c.special), {c.k + gap, c.offset});
  const Tensor& y = run.output(c.dtype, c.m, c.n, {c.n + gap, c.offset});
  p.x = x.data();
  p.ldx = x.ld();
  p.y = y.data();
  p.ldy = y.ld();
  if (c.extras) {
    p.bias_dtype = run.random.one_in(2) ? Q4J_F32 : Q4J_BF16;
    p.bias = run.input(p.bias_dtype, 1, c.n, run.random.normal(c.n, 1.0)).data();
    const Tensor& residual = run.input(c.dtype, c.m, c.n, run.random.normal(c.m * c.n, 1.0), {c.n + 5, 0});
    p.residual = residual.data();
    p.ldr = residual.ld();
  }
  q4j_lora lora = params<q4j_lora>();
  const Tensor* xa = nullptr;
  if (c.rank > 0) {
    lora = run.lora(c.rank, c.n, c.k, c.lora_compute, c.dropout);
    xa = &run.output(Q4J_F32, c.m, c.rank);
    p.lora = &lora;
    p.xa = xa->data();
  }
  run.call(q4j_linear_forward, q4j_linear_forward_workspace_size, p);
  run.compare("y", y, tolerance(c, c.k).of_terms(1.0));
  if (xa != nullptr) run.compare("xa", *xa, inner_tolerance(c, c.k).of_terms(1.0));
}

void backward(Run& run, const Linear& c) {
  const q4j_weight weight =
      run.weight(c.weight, c.n, c.k, run.random.normal(c.n * c.k, 1.0 / std::sqrt(static_cast<double>(c.n))));
  auto p = params<q4j_linear_backward_input_params>();
  p.dtype = c.dtype;
  p.m = c.m;
  p.n = c.n;
  p.k = c.k;
  p.weight = &weight;
  const int64_t gap = c.extras ? 3 : 0;
  const Tensor& dy = run.input(c.dtype, c.m, c.n, activations(run, c.m * c.n, c.special), {c.n + gap, c.offset});
  // Added to, so it needs numbers first.
  const Tensor& dx = run.input(c.dtype, c.m, c.k, run.random.normal(c.m * c.k, 1.0), {c.k + gap, c.offset});
  p.dy = dy.data();
  p.lddy = dy.ld();
  p.dx = dx.data();
  p.lddx = dx.ld();
  p.accumulate = c.extras ? 1 : 0;
  q4j_lora lora = params<q4j_lora>();
  const Tensor* dyb = nullptr;
  if (c.rank > 0) {
    lora = run.lora(c.rank, c.n, c.k, c.lora_compute, c.dropout);
    dyb = &run.output(Q4J_F32, c.m, c.rank);
    p.lora = &lora;
    p.dyb = dyb->data();
  }
  run.call(q4j_linear_backward_input, q4j_linear_backward_input_workspace_size, p);
  run.compare("dx", dx, tolerance(c, c.n).of_terms(1.0));
  if (dyb != nullptr) run.compare("dyb", *dyb, inner_tolerance(c, c.n).of_terms(1.0));
}

void add(const Linear& c) {
  const std::string name = "packed " + describe(c);
  register_case("linear_forward", name, [=](Run& run) { forward(run, c); });
  register_case("linear_backward_input", name, [=](Run& run) { backward(run, c); });
}

void cases(const Options& options) {
  Random random(23);
  const WeightKind nf4 = {Q4J_WEIGHT_NF4, Q4J_BF16, 64, 256, true};
  // Every number of rows that the kernels distinguish, in the smallest shapes.
  for (const int64_t m : {1, 2, 3, 7, 8, 9, 16, 17, 31, 32, 33, 63, 64, 65}) {
    add({m, 32, 128, nf4, Q4J_BF16, 0, Q4J_LORA_FAST, 0.0f, m % 2 == 0, 0, false});
    add({m, 16, 64, nf4, Q4J_BF16, 5, Q4J_LORA_FAST, 0.0f, m % 3 == 0, m % 2, false});
  }
  // Blocks of several tiles, f32 absmax, other formats and types, the branch in its modes.
  for (const int32_t format : {Q4J_WEIGHT_NF4, Q4J_WEIGHT_FP4}) {
    for (const int32_t nested : {0, 32, 256}) {
      for (const int32_t block : {64, 128, 256}) {
        for (const int64_t m : {1, 5, 12, 30, 70}) {
          const WeightKind kind = {format, Q4J_BF16, block, nested, true};
          const int32_t rank = static_cast<int32_t>(random.below(4) * random.below(12));
          add({m, 48, 256, kind, Q4J_BF16, rank, random.one_in(3) ? Q4J_LORA_F32 : Q4J_LORA_FAST,
               random.one_in(2) ? 0.25f : 0.0f, random.one_in(2), random.below(3), random.one_in(4)});
        }
      }
    }
  }
  for (const int64_t m : {1, 33}) add({m, 48, 192, nf4, Q4J_F32, 8, Q4J_LORA_FAST, 0.1f, true, 0, false});
  // 128 blocks of 256 x 128 forward, then to the input: the tallest there are, the last ones partly beyond the matrix.
  if (!options.small) {
    add({2000, 2016, 64, nf4, Q4J_BF16, 8, Q4J_LORA_FAST, 0.2f, true, 0, false});
    add({2000, 64, 2048, nf4, Q4J_BF16, 8, Q4J_LORA_FAST, 0.2f, true, 0, false});
  }
  // Not tiles.
  add({3, 17, 64, nf4, Q4J_BF16, 4, Q4J_LORA_FAST, 0.0f, true, 0, false});
  add({3, 16, 96, nf4, Q4J_BF16, 0, Q4J_LORA_FAST, 0.0f, false, 0, false});
  add({66, 31, 100, nf4, Q4J_BF16, 4, Q4J_LORA_FAST, 0.0f, true, 1, false});
  add({5, 16, 64, {Q4J_WEIGHT_NF4, Q4J_BF16, 32, 0, true}, Q4J_F32, 0, Q4J_LORA_FAST, 0.0f, false, 0, false});
  if (options.small) return;
  // Several slices, chunks and units.
  for (const int64_t m : {1, 4, 8, 16, 32, 64, 200}) {
    add({m, 272, 4096, nf4, Q4J_BF16, 16, Q4J_LORA_FAST, 0.0f, false, 0, false});
    add({m, 4096, 320, nf4, Q4J_BF16, 24, Q4J_LORA_FAST, 0.1f, true, 0, false});
    add({m, 1040, 1088, nf4, Q4J_BF16, 40, Q4J_LORA_F32, 0.1f, true, 1, false});
  }
  add({1, 16, 64 * 700, nf4, Q4J_BF16, 0, Q4J_LORA_FAST, 0.0f, false, 0, false});
  add({2, 16 * 2500, 64, nf4, Q4J_BF16, 0, Q4J_LORA_FAST, 0.0f, false, 0, false});
}

const Family family(&cases);

}  // namespace
}  // namespace q4j::parity
