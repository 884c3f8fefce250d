// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** layer_norm_forward and layer_norm_backward: means far from zero, residuals apart and over inputs, rows of every kind. */
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
  Residual residual;
  bool bias;
  bool first;   /* of the outputs that may be NULL: mean, dweight */
  bool second;  /* rstd and sum, dbias */
  bool far;     /* the larger mean */
  bool special; /* NaN, infinity, huge and tiny numbers */
};

/** Of either half of the cases. A variance in one pass would lose digits with both; with 8192 f32's roundoff of the mean is
 * 2e-4 of the deviation. */
constexpr float kMeans[] = {20.0f, 8192.0f};

/** NaN, infinities and tiny numbers, and large ones whose squares f32 still holds. */
void sprinkle_specials(Run& run, std::vector<float>* values) {
  run.random.sprinkle_specials(values);
  for (float& value : *values) {
    if (std::isfinite(value) && std::fabs(value) > 1e15f) value = 1e15f;
  }
}

void forward(Run& run, const Shape& s, const Choice& o) {
  const Layout layout = {0, s.offset};
  std::vector<float> values = run.random.normal(s.m * s.n, 2);
  for (float& value : values) value += kMeans[o.far ? 1 : 0];
  if (o.special) sprinkle_specials(run, &values);
  const Tensor& x = run.input(o.dtype, s.m, s.n, values, layout);
  const Tensor& weight = run.input(o.weight_dtype, 1, s.n, run.random.uniform(s.n, 0.5, 1.5), {0, s.offset});
  const Tensor& bias = run.input(o.weight_dtype, 1, s.n, run.random.normal(s.n, 1), {0, s.offset});
  const Tensor& residual = run.input(o.dtype, s.m, s.n, run.random.normal(s.m * s.n, 1), layout);
  const Tensor& apart = run.output(o.dtype, s.m, s.n, layout);
  const Tensor& y = run.output(o.dtype, s.m, s.n, layout);
  const Tensor& mean = run.output(Q4J_F32, 1, s.m);
  const Tensor& rstd = run.output(Q4J_F32, 1, s.m);
  const Tensor& sum = o.residual == kOverResidual ? residual : o.residual == kOverX ? x : apart;
  const bool has_sum = o.second || o.residual == kOverX;
  auto p = params<q4j_layer_norm_forward_params>();
  p.dtype = o.dtype;
  p.m = s.m;
  p.n = s.n;
  p.eps = 1e-5f;
  p.weight_dtype = o.weight_dtype;
  p.x = x.data();
  p.residual = o.residual == kNone ? nullptr : residual.data();
  p.weight = weight.data();
  p.bias = o.bias ? bias.data() : nullptr;
  p.sum = has_sum ? sum.data() : nullptr;
  p.y = y.data();
  p.mean = o.first ? mean.data() : nullptr;
  p.rstd = o.second ? rstd.data() : nullptr;
  run.call(q4j_layer_norm_forward, p);
  // The mean's roundoff, large against the deviation, must not show.
  run.compare("y", y, Tolerance::rounded(o.dtype, 1) + Tolerance::sum(s.n));
  if (o.first) run.compare("mean", mean, Tolerance::function(8) + Tolerance::sum(s.n));
  if (o.second) run.compare("rstd", rstd, Tolerance::function(8) + Tolerance::sum(s.n));
  if (has_sum) run.compare("sum", sum, Tolerance::exact());
}

void backward(Run& run, const Shape& s, const Choice& o) {
  const Layout layout = {0, s.offset};
  std::vector<float> values = run.random.normal(s.m * s.n, 2);
  if (o.special) sprinkle_specials(run, &values);
  const Tensor& u = run.input(o.dtype, s.m, s.n, values, layout);
  const Tensor& weight = run.input(o.weight_dtype, 1, s.n, run.random.uniform(s.n, 0.5, 1.5), {0, s.offset});
  const Tensor& mean = run.input(Q4J_F32, 1, s.m, run.random.normal(s.m, 0.5));
  const Tensor& rstd = run.input(Q4J_F32, 1, s.m, run.random.uniform(s.m, 0.3, 0.7));
  const Tensor& dy = run.input(o.dtype, s.m, s.n, run.random.normal(s.m * s.n, 1), layout);
  const Tensor& dresidual = run.input(o.dtype, s.m, s.n, run.random.normal(s.m * s.n, 1), layout);
  const Tensor& apart = run.output(o.dtype, s.m, s.n, layout);
  const Tensor& dx = o.residual == kOverResidual ? dresidual : apart;
  const Tensor& dweight = run.input(Q4J_F32, 1, s.n, run.random.normal(s.n, 1));
  const Tensor& dbias = run.input(Q4J_F32, 1, s.n, run.random.normal(s.n, 1));
  auto p = params<q4j_layer_norm_backward_params>();
  p.dtype = o.dtype;
  p.m = s.m;
  p.n = s.n;
  p.weight_dtype = o.weight_dtype;
  p.u = u.data();
  p.weight = weight.data();
  p.mean = mean.data();
  p.rstd = rstd.data();
  p.dy = dy.data();
  p.dresidual = o.residual == kNone ? nullptr : dresidual.data();
  p.dx = dx.data();
  p.dweight = o.first ? dweight.data() : nullptr;
  p.dbias = o.second ? dbias.data() : nullptr;
  run.call(q4j_layer_norm_backward, q4j_layer_norm_backward_workspace_size, p);
  run.compare("dx", dx, Tolerance::rounded(o.dtype, 1) + Tolerance::sum(s.n));
  const Tolerance gradient = Tolerance::rounded(Q4J_F32, 1) + Tolerance::sum(s.m);
  if (o.first) run.compare("dweight", dweight, gradient);
  if (o.second) run.compare("dbias", dbias, gradient);
}

void cases(const Options& options) {
  Random random(32);
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
                                 {3, 32776, 0}});
  }
  for (const Shape& s : shapes) {
    for (const int32_t dtype : {Q4J_F32, Q4J_BF16}) {
      for (int mode = 0; mode < kModes; ++mode) {
        Choice o = {};
        o.dtype = dtype;
        o.weight_dtype = random.one_in(2) ? Q4J_F32 : Q4J_BF16;
        o.residual = static_cast<Residual>(mode);
        o.bias = random.one_in(2);
        o.first = random.one_in(2);
        o.second = random.one_in(2);
        o.far = random.one_in(2);
        o.special = random.one_in(4);
        const std::string name =
            text("dtype %d weight %d m %lld n %lld offset %lld residual %d bias %d outputs %d%d far %d special %d", o.dtype,
                 o.weight_dtype, static_cast<long long>(s.m), static_cast<long long>(s.n), static_cast<long long>(s.offset),
                 o.residual, o.bias, o.first, o.second, o.far, o.special);
        register_case("layer_norm_forward", name, [=](Run& run) { forward(run, s, o); });
        if (mode != kOverX) register_case("layer_norm_backward", name, [=](Run& run) { backward(run, s, o); });
      }
    }
  }
}

const Family family(&cases);

}  // namespace
}  // namespace q4j::parity
