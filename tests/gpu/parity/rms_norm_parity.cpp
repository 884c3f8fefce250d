// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** rms_norm_forward and rms_norm_backward: both forms, residuals apart and over inputs, rows of every kind of length. */
#include <cmath>

#include "harness.h"

namespace q4j::parity {
namespace {

struct Shape {
  int64_t m;
  int64_t n;
  int64_t offset; /* elements that the matrices lie behind an aligned address */
};

/** What lies over what. */
enum Residual { kNone, kApart, kOverResidual, kOverX, kModes };

struct Choice {
  int32_t dtype;
  int32_t weight_dtype;
  bool unit_offset;
  Residual residual;
  bool optional; /* the outputs that may be NULL are wanted */
  bool special;  /* NaN, infinity, huge and tiny numbers */
};

/** NaN, infinities and tiny numbers, and large ones whose squares f32 still holds. */
void sprinkle_specials(Run& run, std::vector<float>* values) {
  run.random.sprinkle_specials(values);
  for (float& value : *values) {
    if (std::isfinite(value) && std::fabs(value) > 1e15f) value = 1e15f;
  }
}

/** One rounding of u * rstd, whose rstd carries a few f32 roundoffs, and one of the product. */
Tolerance result(int32_t dtype) { return Tolerance::rounded(dtype, 2) + Tolerance::function(8); }

void forward(Run& run, const Shape& s, const Choice& o) {
  const Layout layout = {0, s.offset};
  std::vector<float> values = run.random.normal(s.m * s.n, 2);
  if (o.special) sprinkle_specials(run, &values);
  const Tensor& x = run.input(o.dtype, s.m, s.n, values, layout);
  const Tensor& weight = run.input(o.weight_dtype, 1, s.n, run.random.uniform(s.n, 0.5, 1.5), {0, s.offset});
  const Tensor& residual = run.input(o.dtype, s.m, s.n, run.random.normal(s.m * s.n, 1), layout);
  const Tensor& apart = run.output(o.dtype, s.m, s.n, layout);
  const Tensor& y = run.output(o.dtype, s.m, s.n, layout);
  const Tensor& rstd = run.output(Q4J_F32, 1, s.m);
  const Tensor& sum = o.residual == kOverResidual ? residual : o.residual == kOverX ? x : apart;
  auto p = params<q4j_rms_norm_forward_params>();
  p.dtype = o.dtype;
  p.m = s.m;
  p.n = s.n;
  p.eps = 1e-5f;
  p.unit_offset = o.unit_offset ? 1 : 0;
  p.weight_dtype = o.weight_dtype;
  p.x = x.data();
  p.residual = o.residual == kNone ? nullptr : residual.data();
  p.weight = weight.data();
  p.sum = o.optional ? sum.data() : nullptr;
  p.y = y.data();
  p.rstd = o.optional ? rstd.data() : nullptr;
  run.call(q4j_rms_norm_forward, p);
  // Results below 2^-126 have fewer digits: one step of them.
  run.compare("y", y, result(o.dtype) + Tolerance::of_largest(0x1p-149, "a step of subnormal numbers").of_terms(1));
  if (!o.optional) return;
  // A sum of squares has no cancellation: its relative error is that of the sum.
  run.compare("rstd", rstd, Tolerance::function(8) + Tolerance::sum(s.n));
  run.compare("sum", sum, Tolerance::exact());
}

void backward(Run& run, const Shape& s, const Choice& o) {
  const Layout layout = {0, s.offset};
  std::vector<float> values = run.random.normal(s.m * s.n, 2);
  if (o.special) sprinkle_specials(run, &values);
  const Tensor& u = run.input(o.dtype, s.m, s.n, values, layout);
  const Tensor& weight = run.input(o.weight_dtype, 1, s.n, run.random.uniform(s.n, 0.5, 1.5), {0, s.offset});
  const Tensor& rstd = run.input(Q4J_F32, 1, s.m, run.random.uniform(s.m, 0.3, 0.7));
  const Tensor& dy = run.input(o.dtype, s.m, s.n, run.random.normal(s.m * s.n, 1), layout);
  const Tensor& dresidual = run.input(o.dtype, s.m, s.n, run.random.normal(s.m * s.n, 1), layout);
  const Tensor& apart = run.output(o.dtype, s.m, s.n, layout);
  const Tensor& dx = o.residual == kOverResidual ? dresidual : apart;
  const Tensor& dweight = run.input(Q4J_F32, 1, s.n, run.random.normal(s.n, 1));
  auto p = params<q4j_rms_norm_backward_params>();
  p.dtype = o.dtype;
  p.m = s.m;
  p.n = s.n;
  p.unit_offset = o.unit_offset ? 1 : 0;
  p.weight_dtype = o.weight_dtype;
  p.u = u.data();
  p.weight = weight.data();
  p.rstd = rstd.data();
  p.dy = dy.data();
  p.dresidual = o.residual == kNone ? nullptr : dresidual.data();
  p.dx = dx.data();
  p.dweight = o.optional ? dweight.data() : nullptr;
  run.call(q4j_rms_norm_backward, q4j_rms_norm_backward_workspace_size, p);
  run.compare("dx", dx, Tolerance::rounded(o.dtype, 1) + Tolerance::sum(s.n));
  if (o.optional) run.compare("dweight", dweight, Tolerance::rounded(Q4J_F32, 1) + Tolerance::sum(s.m));
}

void cases(const Options& options) {
  Random random(31);
  // Threads of a row: 1 to 32 (short rows share a block), then whole warps; the last ones are too long for registers, in f32 or
  // in both types. Chunks of the sums over rows have 8 rows up to 4096 of them.
  std::vector<Shape> shapes = {{0, 8, 0},   {1, 1, 0},    {3, 7, 0},   {5, 8, 0},   {9, 16, 0},   {2, 17, 0},
                               {37, 24, 0}, {19, 128, 0}, {9, 128, 1}, {3, 520, 0}, {2, 1032, 4}, {1, 2560, 8}};
  if (!options.small) {
    shapes.insert(shapes.end(), {{130, 24, 0},
                                 {67, 64, 0},
                                 {70, 128, 0},
                                 {40, 520, 0},
                                 {9, 1000, 0},
                                 {5, 1024, 0},
                                 {33, 1536, 0},
                                 {7, 2560, 0},
                                 {3, 4097, 0},
                                 {9, 4096, 8},
                                 {1029, 8, 0},
                                 {5000, 16, 0},
                                 {20, 8192, 0},
                                 {9, 8200, 0},
                                 {4, 16384, 0},
                                 {3, 32776, 0},
                                 {2, 70000, 0}});
  }
  for (const Shape& s : shapes) {
    for (const int32_t dtype : {Q4J_F32, Q4J_BF16}) {
      for (int mode = 0; mode < kModes; ++mode) {
        Choice o = {};
        o.dtype = dtype;
        o.weight_dtype = random.one_in(2) ? Q4J_F32 : Q4J_BF16;
        o.unit_offset = random.one_in(2);
        o.residual = static_cast<Residual>(mode);
        o.optional = mode == kOverX || random.one_in(2);
        o.special = random.one_in(4);
        const std::string name = text("dtype %d weight %d m %lld n %lld offset %lld unit %d residual %d optional %d special %d",
                                      o.dtype, o.weight_dtype, static_cast<long long>(s.m), static_cast<long long>(s.n),
                                      static_cast<long long>(s.offset), o.unit_offset, o.residual, o.optional, o.special);
        register_case("rms_norm_forward", name, [=](Run& run) { forward(run, s, o); });
        if (mode != kOverX) register_case("rms_norm_backward", name, [=](Run& run) { backward(run, s, o); });
      }
    }
  }
}

const Family family(&cases);

}  // namespace
}  // namespace q4j::parity
