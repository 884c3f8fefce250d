// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** linear_forward and linear_backward_input: every storage of the weight, the LoRA branch in both modes, strides and
 * alignments. */
#include <algorithm>
#include <cmath>
#include <limits>

#include "harness.h"

namespace q4j::parity {
namespace {

enum class Special { kNone, kNan, kInfinity };

struct Setup {
  int32_t dtype = Q4J_BF16;
  WeightKind kind;
  int64_t m = 1;
  int64_t n = 1;
  int64_t k = 1;
  int32_t rank = 0;
  int32_t compute = Q4J_LORA_FAST;
  float dropout = 0;
  int32_t bias = -1;  /* type, or -1 */
  int residual = 0;   /* 1: beside y, 2: y itself; of dx: accumulate */
  int64_t gap = 0;    /* elements between rows of activations */
  int64_t offset = 0; /* elements that activations and weight lie behind an aligned address */
  Special special = Special::kNone;

  std::string name() const {
    std::string result = text("%s format %d of %d", dtype == Q4J_F32 ? "f32" : "bf16", kind.format, kind.dtype);
    if (kind.format == Q4J_WEIGHT_NF4 || kind.format == Q4J_WEIGHT_FP4) {
      result += text(" block %d nested %d", kind.block_size, kind.nested_block_size);
    }
    result += text(" m %lld n %lld k %lld", static_cast<long long>(m), static_cast<long long>(n), static_cast<long long>(k));
    if (rank > 0) {
      result += text(" rank %d %s dropout %g", rank, compute == Q4J_LORA_FAST ? "fast" : "exact", static_cast<double>(dropout));
    }
    if (bias >= 0) result += text(" bias %d", bias);
    if (residual > 0) result += residual == 2 ? " residual is y" : " residual";
    if (gap > 0) result += text(" gap %lld", static_cast<long long>(gap));
    if (offset > 0) result += text(" offset %lld", static_cast<long long>(offset));
    if (special != Special::kNone) result += special == Special::kNan ? " NaN" : " infinity";
    return result;
  }

  bool fast() const { return rank > 0 && dtype == Q4J_BF16 && compute == Q4J_LORA_FAST; }
  Tolerance outer(int64_t terms) const {
    // Terms of the base, of the branch, bias and residual all have deviation 1 or less.
    const Tolerance sum = (Tolerance::rounded(dtype, 1) + Tolerance::sum(terms)).of_terms(1);
    return fast() ? sum + Tolerance::intermediate(Q4J_BF16) : sum;
  }
  Tolerance inner(int64_t terms) const {
    return (Tolerance::rounded(fast() ? Q4J_BF16 : Q4J_F32, 1) + Tolerance::sum(terms)).of_terms(1);
  }
};

void put_specials(const Setup& s, int64_t rows, int64_t cols, std::vector<float>* values) {
  if (s.special == Special::kNone || rows == 0) return;
  const float special =
      s.special == Special::kNan ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
  (*values)[static_cast<size_t>(rows / 2 * cols + cols / 3)] = special;
  if (rows > 3) (*values)[static_cast<size_t>((rows - 1) * cols + cols - 1)] = -special;
}

q4j_weight weight(Run& run, const Setup& s, int64_t contraction) {
  const double deviation = 1.0 / std::sqrt(static_cast<double>(contraction));
  return run.weight(s.kind, s.n, s.k, run.random.normal(s.n * s.k, deviation), {0, s.offset});
}

void forward(Run& run, const Setup& s, bool wants_y) {
  std::vector<float> values = run.random.normal(s.m * s.k, 1.0);
  put_specials(s, s.m, s.k, &values);
  const Tensor& x = run.input(s.dtype, s.m, s.k, values, {s.k + s.gap, s.offset});
  const q4j_weight w = weight(run, s, s.k);
  q4j_lora lora = {};
  if (s.rank > 0) lora = run.lora(s.rank, s.n, s.k, s.compute, s.dropout);
  const std::vector<float> residual = run.random.normal(s.m * s.n, 1.0);
  const Layout y_layout = {s.n + (s.gap > 0 ? s.gap + 1 : 0), s.offset};
  const Tensor& y =
      s.residual == 2 ? run.input(s.dtype, s.m, s.n, residual, y_layout) : run.output(s.dtype, s.m, s.n, y_layout);
  auto p = params<q4j_linear_forward_params>();
  p.dtype = s.dtype;
  p.m = s.m;
  p.weight = &w;
  p.lora = s.rank > 0 ? &lora : nullptr;
  p.x = x.data();
  p.ldx = x.ld();
  if (s.bias >= 0) {
    p.bias = run.input(s.bias, 1, s.n, run.random.normal(s.n, 1.0), {0, s.offset}).data();
    p.bias_dtype = s.bias;
  }
  if (s.residual == 1) {
    const Tensor& added = run.input(s.dtype, s.m, s.n, residual, {s.n + s.gap, s.offset});
    p.residual = added.data();
    p.ldr = added.ld();
  } else if (s.residual == 2) {
    p.residual = y.data();
    p.ldr = y.ld();
  }
  if (wants_y) p.y = y.data();
  p.ldy = y.ld();
  const Tensor& xa = run.output(Q4J_F32, s.m, std::max(s.rank, 1));
  if (s.rank > 0) p.xa = xa.data();
  run.call(q4j_linear_forward, q4j_linear_forward_workspace_size, p);
  if (wants_y) run.compare("y", y, s.outer(s.k));
  if (s.rank > 0) run.compare("xa", xa, s.inner(s.k));
}

void backward(Run& run, const Setup& s, bool wants_dx) {
  std::vector<float> values = run.random.normal(s.m * s.n, 1.0);
  put_specials(s, s.m, s.n, &values);
  const Tensor& dy = run.input(s.dtype, s.m, s.n, values, {s.n + s.gap, s.offset});
  const q4j_weight w = weight(run, s, s.n);
  q4j_lora lora = {};
  if (s.rank > 0) lora = run.lora(s.rank, s.n, s.k, s.compute, s.dropout);
  const Layout dx_layout = {s.k + (s.gap > 0 ? s.gap + 1 : 0), s.offset};
  const Tensor& dx = s.residual > 0 ? run.input(s.dtype, s.m, s.k, run.random.normal(s.m * s.k, 1.0), dx_layout)
                                    : run.output(s.dtype, s.m, s.k, dx_layout);
  const Tensor& dyb = run.output(Q4J_F32, s.m, std::max(s.rank, 1));
  auto p = params<q4j_linear_backward_input_params>();
  p.dtype = s.dtype;
  p.m = s.m;
  p.n = s.n;
  p.k = s.k;
  p.lora = s.rank > 0 ? &lora : nullptr;
  p.dy = dy.data();
  p.lddy = dy.ld();
  if (wants_dx) {
    p.weight = &w;
    p.dx = dx.data();
    p.lddx = dx.ld();
    p.accumulate = s.residual > 0 ? 1 : 0;
  }
  if (s.rank > 0) p.dyb = dyb.data();
  run.call(q4j_linear_backward_input, q4j_linear_backward_input_workspace_size, p);
  if (wants_dx) run.compare("dx", dx, s.outer(s.n));
  // Sums of s.n products with b, whose deviation is 0.3.
  const double terms = std::sqrt(static_cast<double>(s.n)) * 0.3;
  if (s.rank > 0) run.compare("dyb", dyb, s.inner(s.n).of_terms(terms));
}

void add(const Setup& s) {
  // INT8 with bf16 activations multiplies codes: another product, with cases of its own.
  if (s.kind.format != Q4J_WEIGHT_INT8 || s.dtype == Q4J_F32) {
    register_case("linear_forward", s.name(), [=](Run& run) { forward(run, s, true); });
  }
  register_case("linear_backward_input", s.name(), [=](Run& run) { backward(run, s, true); });
}

std::vector<WeightKind> kinds() {
  return {
      {Q4J_WEIGHT_DENSE, Q4J_BF16},        {Q4J_WEIGHT_DENSE, Q4J_F32},        {Q4J_WEIGHT_DENSE, Q4J_F16},
      {Q4J_WEIGHT_NF4, Q4J_BF16, 64, 256}, {Q4J_WEIGHT_NF4, Q4J_BF16, 64, 0},  {Q4J_WEIGHT_FP4, Q4J_BF16, 64, 256},
      {Q4J_WEIGHT_FP4, Q4J_BF16, 128, 0},  {Q4J_WEIGHT_NF4, Q4J_BF16, 32, 32}, {Q4J_WEIGHT_NF4, Q4J_BF16, 4096, 64},
      {Q4J_WEIGHT_INT8, Q4J_F32},          {Q4J_WEIGHT_FP8, Q4J_F32},
  };
}

void cases(const Options& options) {
  Random random(23);
  const WeightKind nf4 = {Q4J_WEIGHT_NF4, Q4J_BF16, 64, 256};
  const WeightKind dense = {Q4J_WEIGHT_DENSE, Q4J_BF16};
  // Every storage: shapes that fit the tiles and shapes that fit nothing.
  const int64_t shapes[][3] = {{1, 1, 1},      {1, 3, 5},     {3, 63, 65},   {4, 64, 64},    {5, 65, 127},   {16, 128, 192},
                               {17, 130, 193}, {33, 65, 100}, {64, 160, 96}, {70, 129, 128}, {131, 259, 515}};
  for (const int32_t dtype : {Q4J_F32, Q4J_BF16}) {
    for (const WeightKind& kind : kinds()) {
      for (const auto& shape : shapes) {
        if (options.small && shape[0] * shape[1] * shape[2] > 300000) continue;
        Setup s;
        s.dtype = dtype;
        s.kind = kind;
        s.m = shape[0];
        s.n = shape[1];
        s.k = shape[2];
        if (options.small && !random.one_in(3)) continue;
        add(s);
      }
      Setup s;
      s.dtype = dtype;
      s.kind = kind;
      s.m = 0;
      s.n = 8;
      s.k = 16;
      add(s);
      s.m = 6;
      s.n = 96;
      s.k = 128;
      s.rank = 8;
      s.bias = Q4J_F32;
      s.residual = 2;
      s.gap = 3;
      add(s);
      s.offset = 1;
      s.gap = 0;
      s.bias = Q4J_BF16;
      s.compute = Q4J_LORA_F32;
      s.dropout = 0.3f;
      add(s);
    }
  }
  // The branch: ranks beside and beyond the tiles, dropout, both modes.
  for (const int32_t dtype : {Q4J_BF16, Q4J_F32}) {
    for (const WeightKind& kind : {nf4, dense}) {
      for (const int32_t rank : {1, 5, 8, 16, 40, 64, 100}) {
        for (const int32_t compute : {Q4J_LORA_FAST, Q4J_LORA_F32}) {
          Setup s;
          s.dtype = dtype;
          s.kind = kind;
          s.m = 1 + random.below(options.small ? 20 : 131);
          s.n = random.one_in(2) ? 32 * (1 + random.below(8)) : 1 + random.below(200);
          s.k = random.one_in(2) ? 32 * (1 + random.below(8)) : 1 + random.below(200);
          s.rank = rank;
          s.compute = compute;
          s.dropout = random.one_in(2) ? 0.0f : random.one_in(2) ? 0.1f : 0.5f;
          s.bias = random.one_in(2) ? -1 : random.one_in(2) ? Q4J_F32 : Q4J_BF16;
          s.residual = static_cast<int>(random.below(3));
          s.gap = random.one_in(2) ? 0 : 8 * random.below(3) + (random.one_in(2) ? 0 : 1);
          s.offset = random.one_in(4) ? 1 : 0;
          if (options.small && rank != 5 && rank != 40) continue;
          add(s);
          register_case("linear_forward", "xa alone " + s.name(), [=](Run& run) { forward(run, s, false); });
          register_case("linear_backward_input", "dyb alone " + s.name(), [=](Run& run) { backward(run, s, false); });
        }
      }
    }
  }
  // Numbers that are none.
  for (const Special special : {Special::kNan, Special::kInfinity}) {
    for (const int32_t dtype : {Q4J_BF16, Q4J_F32}) {
      for (const WeightKind& kind : {nf4, dense}) {
        for (const int32_t rank : {0, 8}) {
          for (const int32_t compute : {Q4J_LORA_FAST, Q4J_LORA_F32}) {
            if (rank == 0 && compute == Q4J_LORA_F32) continue;
            Setup s;
            s.dtype = dtype;
            s.kind = kind;
            s.m = 9;
            s.n = 40;
            s.k = 70;
            s.special = special;
            s.rank = rank;
            s.compute = compute;
            add(s);
            s.n = 64;
            s.k = 96;
            s.dropout = rank > 0 ? 0.4f : 0.0f;
            add(s);
          }
        }
      }
    }
  }
  if (options.small) return;
  // Sums that are split into parts, and blocks of every height.
  for (const WeightKind& kind : kinds()) {
    for (const int64_t m : {1, 48, 65, 128}) {
      Setup s;
      s.kind = kind;
      s.m = m;
      s.n = m == 48 ? 1100 : 576;
      s.k = m == 48 ? 544 : 1056;
      s.rank = m == 65 ? 0 : 16;
      s.dropout = m == 128 ? 0.1f : 0.0f;
      s.bias = Q4J_F32;
      s.residual = 1;
      add(s);
    }
  }
  for (const WeightKind& kind : {nf4, dense}) {
    Setup s;  // 128 blocks of 256 x 128, the last ones partly beyond the matrix
    s.kind = kind;
    s.m = 2000;
    s.n = 2016;
    s.k = 64;
    s.rank = 8;
    s.dropout = 0.2f;
    s.residual = 2;
    register_case("linear_forward", s.name(), [=](Run& run) { forward(run, s, true); });
    Setup t = s;
    t.n = 64;
    t.k = 2016;
    register_case("linear_backward_input", t.name(), [=](Run& run) { backward(run, t, true); });
  }
  for (int i = 0; i < 150; ++i) {
    const std::vector<WeightKind> all = kinds();
    Setup s;
    s.kind = all[static_cast<size_t>(random.below(static_cast<int64_t>(all.size())))];
    s.dtype = random.one_in(5) ? Q4J_F32 : Q4J_BF16;
    s.m = random.one_in(3) ? 1 + random.below(8) : 1 + random.below(140);
    s.n = random.one_in(2) ? 32 * (1 + random.below(12)) : 1 + random.below(400);
    s.k = random.one_in(2) ? 32 * (1 + random.below(12)) : 1 + random.below(400);
    s.rank = random.one_in(2) ? 0 : static_cast<int32_t>(1 + random.below(70));
    s.compute = random.one_in(2) ? Q4J_LORA_FAST : Q4J_LORA_F32;
    s.dropout = random.one_in(2) ? 0.0f : 0.25f;
    s.bias = random.one_in(2) ? -1 : random.one_in(2) ? Q4J_F32 : Q4J_BF16;
    s.residual = static_cast<int>(random.below(3));
    s.gap = random.one_in(2) ? 0 : random.below(20);
    s.offset = random.one_in(3) ? random.below(9) : 0;
    add(s);
  }
}

const Family family(&cases);

}  // namespace
}  // namespace q4j::parity
