// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** activation_forward and activation_backward: alone and gating, with gaps between rows, with outputs over inputs. */
#include <cmath>

#include "harness.h"

namespace q4j::parity {
namespace {

/** kOverDy: dup over dy instead of up. */
enum Place { kApart, kGaps, kWideGaps, kOverInputs, kOverDy, kPlaces };

struct Shape {
  int64_t m;
  int64_t n;
  int64_t offset;
};

struct Choice {
  int32_t dtype;
  int32_t activation;
  bool gated;
  Place place;
};

/** act(x) is rounded, then the product. Where act(x) tends to 0 the error is that of the exponential's argument, a share of
 * |x|. */
Tolerance result(int32_t dtype) {
  return Tolerance::rounded(dtype, 2) + Tolerance::function(16) + Tolerance::of_largest(8 * 0x1p-24, "tail").of_terms(1);
}

/** Normal numbers, some of them far out. */
std::vector<float> gates(Run& run, int64_t count) {
  std::vector<float> values = run.random.normal(count, 2);
  for (size_t i = 0; i < values.size(); i += 11) values[i] *= 20;
  return values;
}

Layout input_layout(const Shape& s, Place place) {
  return {place == kGaps ? s.n + 9 : place == kWideGaps ? s.n + 16 : 0, s.offset};
}

Layout output_layout(const Shape& s, Place place) {
  return {place == kGaps ? s.n + 4 : place == kWideGaps ? s.n + 8 : 0, s.offset};
}

void forward(Run& run, const Shape& s, const Choice& o) {
  const Tensor& x = run.input(o.dtype, s.m, s.n, gates(run, s.m * s.n), input_layout(s, o.place));
  const Tensor& up = run.input(o.dtype, s.m, s.n, run.random.normal(s.m * s.n, 1), input_layout(s, o.place));
  const Tensor& apart = run.output(o.dtype, s.m, s.n, {0, s.offset});
  const Tensor& y = o.place == kOverInputs ? x : apart;
  auto p = params<q4j_activation_forward_params>();
  p.dtype = o.dtype;
  p.activation = o.activation;
  p.m = s.m;
  p.n = s.n;
  p.x = x.data();
  p.ldx = x.ld();
  p.up = o.gated ? up.data() : nullptr;
  p.ldup = o.gated ? up.ld() : 0;
  p.y = y.data();
  run.call(q4j_activation_forward, p);
  run.compare("y", y, result(o.dtype));
}

void backward(Run& run, const Shape& s, const Choice& o) {
  const Tensor& x = run.input(o.dtype, s.m, s.n, gates(run, s.m * s.n), input_layout(s, o.place));
  const Tensor& up = run.input(o.dtype, s.m, s.n, run.random.normal(s.m * s.n, 1), input_layout(s, o.place));
  const Tensor& dy = run.input(o.dtype, s.m, s.n, run.random.normal(s.m * s.n, 1), {0, s.offset});
  const Tensor& apart = run.output(o.dtype, s.m, s.n, output_layout(s, o.place));
  const Tensor& apart_too = run.output(o.dtype, s.m, s.n, output_layout(s, o.place));
  const bool over = o.place == kOverInputs || o.place == kOverDy;
  const Tensor& dx = over ? x : apart;
  const Tensor& dup = !over ? apart_too : o.place == kOverDy ? dy : up;
  auto p = params<q4j_activation_backward_params>();
  p.dtype = o.dtype;
  p.activation = o.activation;
  p.m = s.m;
  p.n = s.n;
  p.x = x.data();
  p.ldx = x.ld();
  p.up = o.gated ? up.data() : nullptr;
  p.ldup = o.gated ? up.ld() : 0;
  p.dy = dy.data();
  p.dx = dx.data();
  p.lddx = dx.ld();
  p.dup = o.gated ? dup.data() : nullptr;
  p.lddup = o.gated ? dup.ld() : 0;
  run.call(q4j_activation_backward, p);
  run.compare("dx", dx, result(o.dtype));
  if (o.gated) run.compare("dup", dup, result(o.dtype));
}

/** Numbers at which a formula may overflow, cancel or divide 0 by 0. Enough of them for whole vectors and a tail. */
void special(Run& run, const Choice& o, bool back) {
  std::vector<float> values = {NAN,    INFINITY, -INFINITY, 0.0f,  -0.0f,  1e-30f, -1e-30f, 1e30f, -1e30f,
                               200.0f, -200.0f,  90.0f,     60.0f, -60.0f, 20.0f,  -20.0f,  7.0f,  -7.0f,
                               3.0f,   -3.0f,    1.0f,      -1.0f, 0.5f,   -0.5f,  1e-3f};
  // The largest number stands for all others in a tolerance, so each is a matrix of its own.
  for (size_t i = 0; i < values.size(); ++i) {
    const Shape s = {1, 19, 0};
    const Tensor& x = run.input(o.dtype, s.m, s.n, std::vector<float>(19, values[i]));
    const Tensor& dy = run.input(o.dtype, s.m, s.n, std::vector<float>(19, 1.5f));
    const Tensor& up = run.input(o.dtype, s.m, s.n, std::vector<float>(19, -0.75f));
    const Tensor& y = run.output(o.dtype, s.m, s.n);
    const Tensor& dup = run.output(o.dtype, s.m, s.n);
    if (back) {
      auto p = params<q4j_activation_backward_params>();
      p.dtype = o.dtype;
      p.activation = o.activation;
      p.m = s.m;
      p.n = p.ldx = p.ldup = p.lddx = p.lddup = s.n;
      p.x = x.data();
      p.up = o.gated ? up.data() : nullptr;
      p.dy = dy.data();
      p.dx = y.data();
      p.dup = o.gated ? dup.data() : nullptr;
      run.call(q4j_activation_backward, p);
    } else {
      auto p = params<q4j_activation_forward_params>();
      p.dtype = o.dtype;
      p.activation = o.activation;
      p.m = s.m;
      p.n = p.ldx = p.ldup = s.n;
      p.x = x.data();
      p.up = o.gated ? up.data() : nullptr;
      p.y = y.data();
      run.call(q4j_activation_forward, p);
    }
    run.compare(text("of %g", static_cast<double>(values[i])), y, result(o.dtype));
    if (back && o.gated) run.compare(text("dup of %g", static_cast<double>(values[i])), dup, result(o.dtype));
  }
}

void cases(const Options& options) {
  Random random(33);
  std::vector<Shape> shapes = {{0, 8, 0},  {1, 1, 0},  {1, 7, 0},  {2, 15, 0},  {3, 16, 0},
                               {2, 17, 0}, {3, 64, 1}, {5, 64, 0}, {7, 1000, 8}};
  if (!options.small) shapes.insert(shapes.end(), {{65, 130, 0}, {300, 1376, 0}, {1, 5003, 0}, {700, 8, 0}});
  for (int32_t activation = Q4J_ACTIVATION_SILU; activation <= Q4J_ACTIVATION_GELU_TANH; ++activation) {
    for (const int32_t dtype : {Q4J_F32, Q4J_BF16}) {
      for (const bool gated : {false, true}) {
        for (const Shape& s : shapes) {
          for (int place = 0; place < kPlaces; ++place) {
            if (place == kOverDy && !gated) continue;
            const Choice o = {dtype, activation, gated, static_cast<Place>(place)};
            const std::string name =
                text("dtype %d activation %d gated %d m %lld n %lld offset %lld place %d", dtype, activation, gated,
                     static_cast<long long>(s.m), static_cast<long long>(s.n), static_cast<long long>(s.offset), place);
            if (place != kOverDy) register_case("activation_forward", name, [=](Run& run) { forward(run, s, o); });
            register_case("activation_backward", name, [=](Run& run) { backward(run, s, o); });
          }
        }
        const Choice o = {dtype, activation, gated, kApart};
        const std::string name = text("dtype %d activation %d gated %d special", dtype, activation, gated);
        register_case("activation_forward", name, [=](Run& run) { special(run, o, false); });
        register_case("activation_backward", name, [=](Run& run) { special(run, o, true); });
      }
    }
  }
}

const Family family(&cases);

}  // namespace
}  // namespace q4j::parity
