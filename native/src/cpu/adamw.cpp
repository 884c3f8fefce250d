// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * AdamW over many tensors in one sweep, and the norm of many gradients. All tensors are treated as one long sequence of
 * elements that is cut into a number of ranges which depends on its length alone; a range may begin and end inside a tensor.
 * Bound by memory: 28 bytes per element for a step, 4 for the norm.
 */
#include <algorithm>
#include <cmath>

#include "cpu_operators.h"
#include "pack_context.h"
#include "vec.h"

namespace q4j::cpu {

namespace {

constexpr int64_t kMaximumRanges = 256;
constexpr int64_t kSmallestRange = 16384;

/** The elements of all tensors, cut into ranges of equal length. */
struct Ranges {
  Ranges(const int64_t* tensor_lengths, int32_t tensors) : lengths(tensor_lengths), count(tensors) {
    int64_t total = 0;
    for (int32_t i = 0; i < tensors; ++i) total += tensor_lengths[i];
    size = std::max(kSmallestRange, (total + kMaximumRanges - 1) / kMaximumRanges);
    // Whole cache lines, so that two threads do not share one inside a tensor.
    size = (size + 15) / 16 * 16;
    number = (total + size - 1) / size;
  }

  /** Calls f(tensor, first, last) for the pieces of tensors that make up a range. */
  template <class F>
  void for_each_piece(int64_t range, F&& f) const {
    const int64_t begin = range * size;
    const int64_t end = begin + size;
    int64_t start = 0;
    for (int32_t tensor = 0; tensor < count && start < end; ++tensor) {
      const int64_t first = std::max<int64_t>(0, begin - start);
      const int64_t last = std::min(lengths[tensor], end - start);
      if (first < last) f(tensor, first, last);
      start += lengths[tensor];
    }
  }

  const int64_t* lengths;
  int32_t count;
  int64_t size;
  int64_t number;
};

/** Sum of squares of f32 values in f64: a square of an f32 is exact there. */
double sum_of_squares(const float* x, int64_t n) {
  double result = 0.0;
  int64_t i = 0;
#if defined(__AVX512F__)
  __m512d sums[4] = {_mm512_setzero_pd(), _mm512_setzero_pd(), _mm512_setzero_pd(), _mm512_setzero_pd()};
  for (; i + 32 <= n; i += 32) {
    for (int part = 0; part < 4; ++part) {
      const __m512d value = _mm512_cvtps_pd(_mm256_loadu_ps(x + i + part * 8));
      sums[part] = _mm512_fmadd_pd(value, value, sums[part]);
    }
  }
  result = _mm512_reduce_add_pd(_mm512_add_pd(_mm512_add_pd(sums[0], sums[1]), _mm512_add_pd(sums[2], sums[3])));
#else
  __m256d sums[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()};
  for (; i + 16 <= n; i += 16) {
    for (int part = 0; part < 4; ++part) {
      const __m256d value = _mm256_cvtps_pd(_mm_loadu_ps(x + i + part * 4));
      sums[part] = _mm256_fmadd_pd(value, value, sums[part]);
    }
  }
  alignas(32) double lanes[4];
  _mm256_store_pd(lanes, _mm256_add_pd(_mm256_add_pd(sums[0], sums[1]), _mm256_add_pd(sums[2], sums[3])));
  result = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
#endif
  for (; i < n; ++i) {
    const double value = static_cast<double>(x[i]);
    result += value * value;
  }
  return result;
}

/** The scalars of one step, computed in f64 and rounded once. */
struct Step {
  Vec beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, correction2, eps, gradient_scale;
};

void update(const Step& s, Vec decay, float* parameter, const float* gradient, float* first, float* second, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t left = n - i;
    const Vec g = load_first(gradient + i, left) * s.gradient_scale;
    const Vec m = fma(s.beta1, load_first(first + i, left), s.one_minus_beta1 * g);
    const Vec v = fma(s.beta2, load_first(second + i, left), s.one_minus_beta2 * g * g);
    const Vec denominator = sqrt(v) / s.correction2 + s.eps;
    const Vec p = load_first(parameter + i, left) * decay;
    store_first(first + i, m, left);
    store_first(second + i, v, left);
    store_first(parameter + i, fnma(s.step_size, m / denominator, p), left);
  }
}

}  // namespace

q4j_status gradient_norm(q4j_pack_context* context, const q4j_gradient_norm_params* params) {
  const q4j_gradient_norm_params& p = *params;
  const Ranges ranges(p.lengths, p.count);
  double partial[kMaximumRanges];
  context->pool.parallel_for(ranges.number, [&](int64_t range, int) {
    double sum = 0.0;
    ranges.for_each_piece(range, [&](int32_t tensor, int64_t first, int64_t last) {
      sum += sum_of_squares(static_cast<const float*>(p.tensors[tensor]) + first, last - first);
    });
    partial[range] = sum;
  });
  double total = 0.0;
  for (int64_t range = 0; range < ranges.number; ++range) total += partial[range];
  *static_cast<double*>(p.result) = std::sqrt(total);
  return Q4J_OK;
}

q4j_status adamw(q4j_pack_context* context, const q4j_adamw_params* params) {
  const q4j_adamw_params& p = *params;
  const double correction1 = 1.0 - std::pow(p.beta1, static_cast<double>(p.t));
  const double correction2 = std::sqrt(1.0 - std::pow(p.beta2, static_cast<double>(p.t)));
  const auto scalar = [](double x) { return broadcast(static_cast<float>(x)); };
  const Step step = {scalar(p.beta1),
                     scalar(1.0 - p.beta1),
                     scalar(p.beta2),
                     scalar(1.0 - p.beta2),
                     scalar(p.learning_rate / correction1),
                     scalar(correction2),
                     scalar(p.eps),
                     broadcast(p.gradient_scale)};
  const Ranges ranges(p.lengths, p.count);
  context->pool.parallel_for(ranges.number, [&](int64_t range, int) {
    ranges.for_each_piece(range, [&](int32_t tensor, int64_t first, int64_t last) {
      const Vec decay = scalar(1.0 - p.learning_rate * static_cast<double>(p.weight_decays[tensor]));
      update(step, decay, static_cast<float*>(p.parameters[tensor]) + first,
             static_cast<const float*>(p.gradients[tensor]) + first, static_cast<float*>(p.first_moments[tensor]) + first,
             static_cast<float*>(p.second_moments[tensor]) + first, last - first);
    });
  });
  return Q4J_OK;
}

}  // namespace q4j::cpu
