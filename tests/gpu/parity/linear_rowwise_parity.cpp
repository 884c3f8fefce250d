// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** linear_forward and linear_backward_input with row-wise INT8 and FP8 weights. */
#include <cmath>

#include "harness.h"

namespace q4j::parity {
namespace {

/** How a call differs from the plainest one. */
struct Setup {
  int32_t format;
  int32_t dtype;
  int64_t m;
  int64_t n;
  int64_t k;
  int32_t rank;    /* 0: no branch */
  int32_t compute; /* q4j_lora_compute */
  float s;
  bool bias;
  bool residual; /* backward: accumulates */
  bool aligned;  /* rows and bases of everything on 16 bytes */
  bool special;  /* NaN, infinities and zeros in x and the weight's scales */
};

std::string name_of(const Setup& c) {
  return text("format %d dtype %d m %lld n %lld k %lld rank %d compute %d s %g bias %d residual %d aligned %d special %d",
              c.format, c.dtype, static_cast<long long>(c.m), static_cast<long long>(c.n), static_cast<long long>(c.k), c.rank,
              c.compute, static_cast<double>(c.s), c.bias, c.residual, c.aligned, c.special);
}

/** Where the branch's inner result is rounded to bf16, two packs may round it to different neighbours. */
Tolerance tolerance(const Setup& c, int64_t terms) {
  const Tolerance result = Tolerance::rounded(c.dtype, 1) + Tolerance::sum(terms);
  const bool rounds = c.rank > 0 && c.compute == Q4J_LORA_FAST && c.dtype == Q4J_BF16;
  return rounds ? result + Tolerance::intermediate(Q4J_BF16) : result;
}

Layout layout(const Setup& c, int64_t cols) { return c.aligned ? Layout{cols, 0} : Layout{cols + 3, 1}; }

std::vector<float> activations(Run& run, const Setup& c, int64_t rows, int64_t cols) {
  std::vector<float> values = run.random.normal(rows * cols, 1.0);
  if (c.special) run.random.sprinkle_specials(&values);
  return values;
}

q4j_weight weight(Run& run, const Setup& c, int64_t terms) {
  WeightKind kind;
  kind.format = c.format;
  const double deviation = 1.0 / std::sqrt(static_cast<double>(terms));
  return run.weight(kind, c.n, c.k, run.random.normal(c.n * c.k, deviation), {0, c.aligned ? 0 : 1});
}

void forward(Run& run, const Setup& c) {
  const Tensor& x = run.input(c.dtype, c.m, c.k, activations(run, c, c.m, c.k), layout(c, c.k));
  const q4j_weight w = weight(run, c, c.k);
  q4j_lora lora = {};
  if (c.rank > 0) lora = run.lora(c.rank, c.n, c.k, c.compute);
  lora.s = c.s;
  const std::vector<float> before = run.random.normal(c.m * c.n, 1.0);
  // The residual is y itself in every second case.
  const bool in_place = c.residual && c.m % 2 == 0;
  const Tensor& y =
      in_place ? run.input(c.dtype, c.m, c.n, before, layout(c, c.n)) : run.output(c.dtype, c.m, c.n, layout(c, c.n));
  const Tensor& residual = in_place ? y : run.input(c.dtype, c.m, c.n, before, layout(c, c.n));
  const Tensor& xa = run.output(Q4J_F32, c.m, c.rank);
  auto p = params<q4j_linear_forward_params>();
  p.dtype = c.dtype;
  p.m = c.m;
  p.weight = &w;
  p.lora = c.rank > 0 ? &lora : nullptr;
  p.x = x.data();
  p.ldx = x.ld();
  p.bias_dtype = c.n % 2 == 0 ? Q4J_F32 : Q4J_BF16;
  p.bias = c.bias ? run.input(p.bias_dtype, 1, c.n, run.random.normal(c.n, 1.0)).data() : nullptr;
  p.residual = c.residual ? residual.data() : nullptr;
  p.ldr = residual.ld();
  p.y = y.data();
  p.ldy = y.ld();
  p.xa = c.rank > 0 ? xa.data() : nullptr;
  run.call(q4j_linear_forward, q4j_linear_forward_workspace_size, p);
  run.compare("y", y, tolerance(c, c.k));
}

/** Equal elements of one sign: the sum of products of codes leaves 32 bits, and every partial sum is as large as it can be. */
void long_sum(Run& run) {
  const int64_t m = 2;
  const int64_t n = 3;
  const int64_t k = 140000;
  WeightKind kind;
  kind.format = Q4J_WEIGHT_INT8;
  const q4j_weight w = run.weight(kind, n, k, std::vector<float>(static_cast<std::size_t>(n * k), 0.5f));
  const Tensor& y = run.output(Q4J_BF16, m, n);
  auto p = params<q4j_linear_forward_params>();
  p.dtype = Q4J_BF16;
  p.m = m;
  p.weight = &w;
  p.x = run.input(Q4J_BF16, m, k, std::vector<float>(static_cast<std::size_t>(m * k), -1.0f)).data();
  p.ldx = k;
  p.y = y.data();
  p.ldy = n;
  run.call(q4j_linear_forward, q4j_linear_forward_workspace_size, p);
  run.compare("y", y, Tolerance::rounded(Q4J_BF16, 1));
}

void backward(Run& run, const Setup& c) {
  const Tensor& dy = run.input(c.dtype, c.m, c.n, activations(run, c, c.m, c.n), layout(c, c.n));
  const q4j_weight w = weight(run, c, c.n);
  q4j_lora lora = {};
  if (c.rank > 0) lora = run.lora(c.rank, c.n, c.k, c.compute);
  lora.s = c.s;
  const Tensor& dx = c.residual ? run.input(c.dtype, c.m, c.k, run.random.normal(c.m * c.k, 1.0), layout(c, c.k))
                                : run.output(c.dtype, c.m, c.k, layout(c, c.k));
  const Tensor& dyb = run.output(Q4J_F32, c.m, c.rank);
  auto p = params<q4j_linear_backward_input_params>();
  p.dtype = c.dtype;
  p.m = c.m;
  p.weight = &w;
  p.lora = c.rank > 0 ? &lora : nullptr;
  p.dy = dy.data();
  p.lddy = dy.ld();
  p.dx = dx.data();
  p.lddx = dx.ld();
  p.accumulate = c.residual ? 1 : 0;
  p.dyb = c.rank > 0 ? dyb.data() : nullptr;
  p.n = c.n;
  p.k = c.k;
  run.call(q4j_linear_backward_input, q4j_linear_backward_input_workspace_size, p);
  run.compare("dx", dx, tolerance(c, c.n));
}

void cases(const Options& options) {
  Random random(29);
  std::vector<Setup> setups;
  for (const int32_t format : {Q4J_WEIGHT_INT8, Q4J_WEIGHT_FP8}) {
    for (const int32_t dtype : {Q4J_BF16, Q4J_F32}) {
      // Around the tiles, with rows that are and are not multiples of 16 codes, and one or more steps along the sum.
      const int64_t shapes[][3] = {{0, 4, 16},   {1, 1, 1},     {3, 5, 7},       {2, 33, 64},    {16, 64, 128}, {31, 40, 80},
                                   {33, 31, 65}, {64, 96, 272}, {65, 129, 1040}, {70, 136, 528}, {129, 65, 96}, {1, 200, 1552}};
      for (const auto& shape : shapes) {
        if (options.small && shape[0] * shape[1] * shape[2] > 2000000) continue;
        Setup c = {format, dtype, shape[0], shape[1], shape[2], 0, Q4J_LORA_FAST, 0.5f, false, false, true, false};
        setups.push_back(c);
        c.rank = static_cast<int32_t>(1 + random.below(70));
        c.compute = random.one_in(2) ? Q4J_LORA_FAST : Q4J_LORA_F32;
        c.s = random.one_in(2) ? 2.0f : 0.3f;
        c.bias = random.one_in(2);
        c.residual = random.one_in(2);
        c.aligned = random.one_in(2);
        setups.push_back(c);
      }
      setups.push_back({format, dtype, 9, 40, 70, 0, Q4J_LORA_FAST, 1.0f, true, true, true, true});
      setups.push_back({format, dtype, 70, 136, 144, 40, Q4J_LORA_FAST, 0.3f, true, true, true, false});
      setups.push_back({format, dtype, 70, 136, 144, 40, Q4J_LORA_F32, 0.3f, true, false, true, false});
    }
  }
  // 128 blocks of 256 x 128 forward, then to the input: the tallest there are, the last ones partly beyond the matrix.
  if (!options.small) {
    for (const int32_t format : {Q4J_WEIGHT_INT8, Q4J_WEIGHT_FP8}) {
      setups.push_back({format, Q4J_BF16, 2000, 2016, 64, 8, Q4J_LORA_FAST, 2.0f, true, true, true, false});
      setups.push_back({format, Q4J_BF16, 2000, 64, 2016, 8, Q4J_LORA_FAST, 2.0f, true, true, true, false});
    }
  }
  register_case("linear_forward", "format 3 dtype 1 m 2 n 3 k 140000 of equal elements", &long_sum);
  for (const Setup& c : setups) {
    register_case("linear_forward", name_of(c), [=](Run& run) { forward(run, c); });
    register_case("linear_backward_input", name_of(c), [=](Run& run) { backward(run, c); });
  }
}

const Family family(&cases);

}  // namespace
}  // namespace q4j::parity
