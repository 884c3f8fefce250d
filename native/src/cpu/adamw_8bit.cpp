// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * AdamW with 8-bit moments over many tensors. The blocks of all tensors are treated as one long sequence that is cut into
 * pieces of work. The ABI prescribes the rounding of every operation, so nothing is fused and every pack gives the same bits.
 * Nine gathers of table entries per vector and moment outweigh everything else (AVX-512: five).
 */
#include <algorithm>
#include <cmath>

#include "cpu_operators.h"
#include "pack_context.h"
#include "quant.h"
#include "search_8bit.h"
#include "vec.h"

namespace q4j::cpu {

namespace {

constexpr int64_t kLargestBlock = 4096;
constexpr int64_t kSmallestPiece = 16384;

/** The scalars of one step, computed in f64 and rounded once. */
struct Step {
  Vec beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, root, eps, gradient_scale;
};

/** One block of one moment, as it is stored. */
struct Stored {
  uint8_t* codes;
  float* absmax;
};

/** A block's moments in f32. */
struct Moments {
  alignas(64) float first[kLargestBlock];
  alignas(64) float second[kLargestBlock];
};

void store_moments(const Search8Bit& search, const Stored& stored, const float* moments, int64_t n) {
  Vec most = zero();
  // The second operand wins where one is NaN.
  for (int64_t i = 0; i < n; i += kLanes) most = max(abs(load_first(moments + i, n - i)), most);
  *stored.absmax = reduce_max(most);
  search.store_block(moments, n, 0.0f, *stored.absmax, stored.codes);
}

void update_block(const Step& s, Vec decay, float* parameter, const float* gradient, const Stored& first, const Stored& second,
                  Moments& moments, int64_t n) {
  const Vec first_absmax = broadcast(*first.absmax);
  const Vec second_absmax = broadcast(*second.absmax);
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t left = n - i;
    const Vec g = load_first(gradient + i, left) * s.gradient_scale;
    const Vec old_m = values_of(dynamic_signed_map.data(), first.codes + i, left) * first_absmax;
    const Vec old_v = values_of(dynamic_unsigned_map.data(), second.codes + i, left) * second_absmax;
    const Vec m = s.beta1 * old_m + s.one_minus_beta1 * g;
    const Vec v = s.beta2 * old_v + s.one_minus_beta2 * (g * g);
    const Vec denominator = sqrt(v) / s.root + s.eps;
    const Vec p = load_first(parameter + i, left) * decay - s.step_size * (m / denominator);
    store_first(parameter + i, p, left);
    store_first(moments.first + i, m, left);
    store_first(moments.second + i, v, left);
  }
}

}  // namespace

q4j_status adamw_8bit(q4j_pack_context* context, const q4j_adamw_8bit_params* params) {
  const q4j_adamw_8bit_params& p = *params;
  const auto scalar = [](double x) { return broadcast(static_cast<float>(x)); };
  const auto steps = static_cast<double>(p.t);
  const Step step = {scalar(p.beta1),
                     scalar(1.0 - p.beta1),
                     scalar(p.beta2),
                     scalar(1.0 - p.beta2),
                     scalar(p.learning_rate / (1.0 - std::pow(p.beta1, steps))),
                     scalar(std::sqrt(1.0 - std::pow(p.beta2, steps))),
                     scalar(p.eps),
                     broadcast(p.gradient_scale)};
  const Search8Bit signed_search(dynamic_signed_thresholds.data());
  const Search8Bit unsigned_search(dynamic_unsigned_thresholds.data());
  int64_t blocks = 0;
  for (int32_t t = 0; t < p.count; ++t) blocks += ceil_div(p.lengths[t], p.block_size);
  const int64_t grain = std::max<int64_t>(1, kSmallestPiece / p.block_size);
  context->pool.parallel_pieces(blocks, grain, [&](int64_t begin, int64_t end, int) {
    Moments moments;
    int64_t start = 0;
    for (int32_t t = 0; t < p.count && start < end; ++t) {
      const int64_t here = ceil_div(p.lengths[t], p.block_size);
      const Vec decay = scalar(1.0 - p.learning_rate * static_cast<double>(p.weight_decays[t]));
      auto* first_absmax = static_cast<float*>(p.first_moment_absmax[t]);
      auto* second_absmax = static_cast<float*>(p.second_moment_absmax[t]);
      for (int64_t block = std::max<int64_t>(0, begin - start); block < std::min(here, end - start); ++block) {
        const int64_t from = block * p.block_size;
        const int64_t n = std::min<int64_t>(p.block_size, p.lengths[t] - from);
        const Stored first = {static_cast<uint8_t*>(p.first_moment_codes[t]) + from, first_absmax + block};
        const Stored second = {static_cast<uint8_t*>(p.second_moment_codes[t]) + from, second_absmax + block};
        update_block(step, decay, static_cast<float*>(p.parameters[t]) + from, static_cast<const float*>(p.gradients[t]) + from,
                     first, second, moments, n);
        store_moments(signed_search, first, moments.first, n);
        store_moments(unsigned_search, second, moments.second, n);
      }
      start += here;
    }
  });
  return Q4J_OK;
}

}  // namespace q4j::cpu
