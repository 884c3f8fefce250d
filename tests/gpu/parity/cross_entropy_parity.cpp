// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** cross_entropy: loss and gradient, with smoothing and z-loss, with gaps, over the logits, masked classes, NaN, wrong labels.
 */
#include <cmath>
#include <cstring>

#include "harness.h"

namespace q4j::parity {
namespace {

struct Shape {
  int64_t m;
  int64_t n;
  int64_t offset;
};

/** kShifted: the gradient's rows start elsewhere in a vector than the logits' rows. */
enum Place { kApart, kOver, kGaps, kShifted, kLossAlone, kPlaces };

/** What is strange about the logits. */
enum Kind { kOrdinary, kMasked, kNaN, kInfinite, kAllMasked };

constexpr int32_t kIgnored = -100;

struct Choice {
  int32_t dtype;
  float smoothing;
  float z_loss;
  Place place;
  Kind kind;
};

void loss(Run& run, const Shape& s, const Choice& o) {
  std::vector<float> values = run.random.normal(s.m * s.n, 4);
  std::vector<int32_t> labels(static_cast<size_t>(s.m));
  for (int64_t i = 0; i < s.m; ++i) {
    labels[static_cast<size_t>(i)] = i % 5 == 3 ? kIgnored : static_cast<int32_t>(run.random.below(s.n));
    for (int64_t j = 0; j < s.n; ++j) {
      float& value = values[static_cast<size_t>(i * s.n + j)];
      // One row far below the others, one with a peak: both overflow a sum that does not subtract the maximum.
      if (i % 4 == 1) value -= 1000;
      if (i % 4 == 2 && j == s.n / 2) value += 90;
      if (o.kind == kMasked && j != labels[static_cast<size_t>(i)] && run.random.one_in(3)) value = -INFINITY;
      if (o.kind == kAllMasked) value = -INFINITY;
    }
    if (o.kind == kNaN && i % 2 == 0) values[static_cast<size_t>(i * s.n + run.random.below(s.n))] = NAN;
    if (o.kind == kInfinite && i % 2 == 0) values[static_cast<size_t>(i * s.n + run.random.below(s.n))] = INFINITY;
  }
  const Tensor& logits = run.input(o.dtype, s.m, s.n, values, {o.place == kGaps ? s.n + 3 : 0, s.offset});
  const Layout apart = {o.place == kGaps      ? s.n + 6
                        : o.place == kShifted ? s.n + 1
                                              : 0,
                        o.place == kShifted ? s.offset + 1 : s.offset};
  const Tensor& output = run.output(o.dtype, s.m, s.n, apart);
  const Tensor& dlogits = o.place == kOver ? logits : output;
  const Tensor& losses = run.output(Q4J_F32, 1, s.m);
  auto p = params<q4j_cross_entropy_params>();
  p.dtype = o.dtype;
  p.m = s.m;
  p.n = s.n;
  p.smoothing = o.smoothing;
  p.z_loss = o.z_loss;
  p.scale = 0.125f;
  p.logits = logits.data();
  p.ldlogits = logits.ld();
  p.labels = run.input_bytes(Q4J_I32, 1, s.m, bytes_of(labels)).data();
  p.loss = losses.data();
  p.dlogits = o.place == kLossAlone ? nullptr : dlogits.data();
  p.lddlogits = o.place == kLossAlone ? 0 : dlogits.ld();
  run.call(q4j_cross_entropy, p);
  // log-sum-exp is as accurate as f32 holds logits of up to 1000; the loss is a difference of such numbers.
  Tolerance result = Tolerance::function(16) + Tolerance::of_largest(16 * 0x1p-24, "difference");
  if (s.m > 1) result = result + Tolerance::of_largest(0x1p-24, "logits around -1000").of_terms(1000);
  run.compare("loss", losses, result);
  if (o.place == kLossAlone) return;
  // The argument of an exponential is rounded at the size of the logits: up to 1000 roundoffs of the probability.
  run.compare("dlogits", dlogits,
              Tolerance::rounded(o.dtype, 1) + Tolerance::function(2048) + Tolerance::of_largest(16 * 0x1p-24, "difference"));
}

/** A label that is no class: an error of the reference before anything is written; a GPU pack makes its row NaN instead. */
void wrong_label(Run& run, int32_t dtype, int32_t label) {
  constexpr int64_t n = 40;
  const std::vector<int32_t> labels = {3, label, kIgnored, 7};
  const Tensor& logits = run.input(dtype, 4, n, run.random.normal(4 * n, 1));
  const Tensor& losses = run.output(Q4J_F32, 1, 4);
  auto p = params<q4j_cross_entropy_params>();
  p.dtype = dtype;
  p.m = 4;
  p.n = p.ldlogits = p.lddlogits = n;
  p.scale = 1;
  p.logits = logits.data();
  p.labels = run.input_bytes(Q4J_I32, 1, 4, bytes_of(labels)).data();
  p.loss = losses.data();
  const Tensor& dlogits = run.output(dtype, 4, n);
  p.dlogits = dlogits.data();
  // A loss and a gradient of every row.
  std::vector<float> found = {0, NAN, 0, 0, 0, NAN, 0, 0};
  if (q4j_pack_name(run.context()) == std::string("reference")) {
    if (q4j_cross_entropy(run.context(), &p) != Q4J_INVALID_ARGUMENT) {
      throw Failure(Q4J_INTERNAL_ERROR, "the reference let a wrong label through");
    }
  } else {
    run.call(q4j_cross_entropy, p);
    std::memcpy(found.data(), losses.get().data(), 4 * sizeof(float));
    const std::vector<uint8_t> gradients = dlogits.get();
    const size_t row = gradients.size() / 4;
    for (size_t i = 0; i < 4; ++i) {
      // The upper half of an f32 is a bf16 that is NaN where the f32 is.
      uint32_t bits = 0;
      std::memcpy(&bits, &gradients[(i + 1) * row - 2], 2);
      bits <<= 16;
      std::memcpy(&found[4 + i], &bits, 4);
    }
  }
  for (const float value : found) run.compare("is NaN", std::isnan(value) ? 1.0 : 0.0, Tolerance::exact());
}

void cases(const Options& options) {
  std::vector<Shape> shapes = {{0, 8, 0}, {1, 1, 0}, {1, 7, 0}, {2, 15, 0}, {3, 16, 0}, {2, 17, 0}, {6, 65, 3}, {5, 1000, 0}};
  if (!options.small) shapes.insert(shapes.end(), {{5, 2053, 0}, {70, 1000, 0}, {5, 32003, 1}, {2, 50257, 0}, {1, 262144, 0}});
  for (const Shape& s : shapes) {
    for (const int32_t dtype : {Q4J_F32, Q4J_BF16}) {
      for (const float smoothing : {0.0f, 0.1f}) {
        for (const float z_loss : {0.0f, 1e-4f}) {
          for (int place = 0; place < kPlaces; ++place) {
            const Choice o = {dtype, smoothing, z_loss, static_cast<Place>(place), kOrdinary};
            register_case("cross_entropy",
                          text("dtype %d m %lld n %lld offset %lld smoothing %g z %g place %d", dtype,
                               static_cast<long long>(s.m), static_cast<long long>(s.n), static_cast<long long>(s.offset),
                               static_cast<double>(smoothing), static_cast<double>(z_loss), place),
                          [=](Run& run) { loss(run, s, o); });
          }
        }
      }
    }
  }
  for (const Kind kind : {kMasked, kNaN, kInfinite, kAllMasked}) {
    for (const int32_t dtype : {Q4J_F32, Q4J_BF16}) {
      for (const Shape s : {Shape{9, 5, 0}, Shape{9, 1003, 1}, Shape{4, 4096, 0}}) {
        for (const float smoothing : {0.0f, 0.1f}) {
          const Choice o = {dtype, kind == kMasked ? 0.0f : smoothing, smoothing > 0 ? 1e-4f : 0.0f, kApart, kind};
          register_case("cross_entropy",
                        text("dtype %d m %lld n %lld kind %d smoothing %g", dtype, static_cast<long long>(s.m),
                             static_cast<long long>(s.n), kind, static_cast<double>(smoothing)),
                        [=](Run& run) { loss(run, s, o); });
        }
      }
    }
  }
  for (const int32_t dtype : {Q4J_F32, Q4J_BF16}) {
    for (const int32_t label : {-1, 40, 2147483647}) {
      register_case("cross_entropy", text("dtype %d n 40 label %d", dtype, label),
                    [=](Run& run) { wrong_label(run, dtype, label); });
    }
  }
}

const Family family(&cases);

}  // namespace
}  // namespace q4j::parity
