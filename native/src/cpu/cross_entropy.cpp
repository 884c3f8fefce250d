// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Softmax cross entropy, loss and gradient in one pass over memory: a row of logits (64 to 600 KB) stays in the second-level
 * cache between the three sweeps over it (maximum; sum of exponentials; gradient). Rows are independent.
 *
 * Exponentials are summed in f32 over stretches of 2048 logits (128 per lane of AVX-512) and the stretches in f64, so the sum's
 * relative error does not grow with the size of the vocabulary.
 */
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "cpu_operators.h"
#include "error.h"
#include "norm.h"
#include "pack_context.h"
#include "vec.h"

namespace q4j::cpu {

namespace {

constexpr int32_t kIgnored = -100;
constexpr int64_t kStretch = 2048;

/** Loads logits; lanes past the end get -infinity, which no maximum chooses and whose exponential is 0. */
template <class T>
inline Vec load_logits(const T* x, int64_t left) {
  if (left >= kLanes) return load(x);
  const Mask on = first_lanes(left);
  return select(on, load(x, on), broadcast(-std::numeric_limits<float>::infinity()));
}

template <class T>
float largest_logit(const T* x, int64_t n) {
  const Vec lowest = broadcast(-std::numeric_limits<float>::infinity());
  Vec most[4] = {lowest, lowest, lowest, lowest};
  int64_t i = 0;
  // A NaN is passed over here and comes back in the sum of exponentials.
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int part = 0; part < 4; ++part) most[part] = max(load(x + i + part * kLanes), most[part]);
  }
  for (; i < n; i += kLanes) most[0] = max(load_logits(x + i, n - i), most[0]);
  return reduce_max(max(max(most[0], most[1]), max(most[2], most[3])));
}

template <class T>
double sum_of_logits(const T* x, int64_t n) {
  double total = 0.0;
  for (int64_t first = 0; first < n; first += kStretch) {
    const int64_t last = std::min(first + kStretch, n);
    Vec sum = zero();
    for (int64_t i = first; i < last; i += kLanes) sum += load_first(x + i, last - i);
    total += static_cast<double>(reduce_add(sum));
  }
  return total;
}

/**
 * e^(x - largest) for x up to `largest`. The difference is rounded before it is scaled to a power of two: that costs 2^-24 |x -
 * largest| relative, which the exponential makes smaller than its own rounding as soon as it is large.
 */
inline Vec exponential(Vec x, Vec largest) { return exp2((x - largest) * broadcast(1.44269504088896341f)); }

/** Sum of e^(x - largest). Where `kept` is given the terms are stored there; it may be x. */
template <class T>
double sum_of_exponentials(const T* x, int64_t n, float largest, float* kept) {
  const Vec shift = broadcast(largest);
  double total = 0.0;
  for (int64_t first = 0; first < n; first += kStretch) {
    const int64_t last = std::min(first + kStretch, n);
    Vec sums[2] = {zero(), zero()};
    int64_t i = first;
    for (; i + 2 * kLanes <= last; i += 2 * kLanes) {
      for (int part = 0; part < 2; ++part) {
        const Vec e = exponential(load(x + i + part * kLanes), shift);
        if (kept != nullptr) store(kept + i + part * kLanes, e);
        sums[part] += e;
      }
    }
    for (; i < last; i += kLanes) {
      const Vec e = exponential(load_logits(x + i, last - i), shift);
      if (kept != nullptr) store_first(kept + i, e, last - i);
      sums[0] += e;
    }
    total += static_cast<double>(reduce_add(sums[0] + sums[1]));
  }
  return total;
}

template <class T>
void cross_entropy_row(const q4j_cross_entropy_params& p, int64_t row) {
  const int64_t n = p.n;
  const T* x = static_cast<const T*>(p.logits) + row * p.ldlogits;
  T* dx = p.dlogits == nullptr ? nullptr : static_cast<T*>(p.dlogits) + row * p.lddlogits;
  float& loss = static_cast<float*>(p.loss)[row];
  const int32_t label = static_cast<const int32_t*>(p.labels)[row];
  if (label == kIgnored) {
    loss = 0.0f;
    if (dx != nullptr) std::memset(dx, 0, static_cast<size_t>(n) * sizeof(T));
    return;
  }

  const float own = to_f32(x[label]);  // the gradient may overwrite it
  const float largest = largest_logit(x, n);
  const double smoothing = static_cast<double>(p.smoothing);
  const double z_loss = static_cast<double>(p.z_loss);
  // Without smoothing the mean has no say, even where it is infinite.
  const double mean = p.smoothing != 0.0f ? sum_of_logits(x, n) / static_cast<double>(n) : 0.0;
  float* kept = nullptr;
  if constexpr (std::is_same_v<T, float>) kept = dx;
  const double sum = sum_of_exponentials(x, n, largest, kept);
  const double lse = static_cast<double>(largest) + std::log(sum);

  double value = (1.0 - smoothing) * (lse - static_cast<double>(own));
  if (p.smoothing != 0.0f) value += smoothing * (lse - mean);
  if (p.z_loss != 0.0f) value += z_loss * lse * lse;
  loss = static_cast<float>(value);
  if (dx == nullptr) return;

  // d loss / d x_j = p_j (1 + 2 z lse) - smoothing / n - [j = label] (1 - smoothing).
  const double scale = static_cast<double>(p.scale);
  const double factor = p.z_loss != 0.0f ? 1.0 + 2.0 * z_loss * lse : 1.0;
  const Vec coefficient = broadcast(static_cast<float>(scale * factor / sum));
  const Vec base = broadcast(static_cast<float>(-scale * smoothing / static_cast<double>(n)));
  const Vec shift = broadcast(largest);
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vec e = kept != nullptr ? load_first(kept + i, n - i) : exponential(load_first(x + i, n - i), shift);
    store_first(dx + i, fma(e, coefficient, base), n - i);
  }
  const Vec own_value =
      fma(exponential(broadcast(own), shift), coefficient, base) - broadcast(static_cast<float>(scale * (1.0 - smoothing)));
  store_first(dx + label, own_value, 1);
}

}  // namespace

q4j_status cross_entropy(q4j_pack_context* context, const q4j_cross_entropy_params* params) {
  const q4j_cross_entropy_params& p = *params;
  const int32_t* labels = static_cast<const int32_t*>(p.labels);
  for (int64_t row = 0; row < p.m; ++row) {
    Q4J_REQUIRE(labels[row] == kIgnored || (labels[row] >= 0 && labels[row] < p.n), Q4J_INVALID_ARGUMENT,
                "cross_entropy: the label of row %lld is %d; expected -100 or a class in [0, %lld)",
                static_cast<long long>(row), labels[row], static_cast<long long>(p.n));
  }
  const bool known = with_activation_type(p.dtype, [&](auto* tag) {
    using T = std::remove_pointer_t<decltype(tag)>;
    context->pool.parallel_pieces(p.m, rows_per_piece(p.n), [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) cross_entropy_row<T>(p, row);
    });
  });
  Q4J_REQUIRE(known, Q4J_UNSUPPORTED, "cross_entropy: dtype %s", dtype_name(p.dtype));
  return Q4J_OK;
}

}  // namespace q4j::cpu
