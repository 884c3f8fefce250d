// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Softmax cross entropy with label smoothing and z-loss, loss and gradient of each row in one pass over the chunk. */
#include <cmath>
#include <limits>

#include "reference.h"

namespace q4j::reference {

namespace {

constexpr int32_t ignored_label = -100;

}  // namespace

q4j_status cross_entropy(q4j_pack_context*, const q4j_cross_entropy_params* p) {
  const int32_t* labels = static_cast<const int32_t*>(p->labels);
  float* loss = static_cast<float*>(p->loss);
  for (int64_t i = 0; i < p->m; ++i) {
    Q4J_REQUIRE(labels[i] == ignored_label || (labels[i] >= 0 && labels[i] < p->n), Q4J_INVALID_ARGUMENT,
                "cross_entropy: label %d of row %lld is neither in [0, %lld) nor -100", labels[i], static_cast<long long>(i),
                static_cast<long long>(p->n));
  }
  const double smoothing = static_cast<double>(p->smoothing);
  const double z_loss = static_cast<double>(p->z_loss);
  const double scale = static_cast<double>(p->scale);
  const double n = static_cast<double>(p->n);
  with_type(p->dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t i = 0; i < p->m; ++i) {
      const T* logits = static_cast<const T*>(p->logits) + i * p->ldlogits;
      T* dlogits = p->dlogits == nullptr ? nullptr : static_cast<T*>(p->dlogits) + i * p->lddlogits;
      const int32_t label = labels[i];
      if (label == ignored_label) {
        loss[i] = 0.0f;
        for (int64_t j = 0; j < p->n && dlogits != nullptr; ++j) dlogits[j] = from_f32<T>(0.0f);
        continue;
      }
      double largest = -std::numeric_limits<double>::infinity();
      for (int64_t j = 0; j < p->n; ++j) {
        const double z = static_cast<double>(to_f32(logits[j]));
        if (z > largest || std::isnan(z)) largest = z;
      }
      double exponentials = 0.0;
      double total = 0.0;
      for (int64_t j = 0; j < p->n; ++j) {
        const double z = static_cast<double>(to_f32(logits[j]));
        exponentials += std::exp(z - largest);
        total += z;
      }
      const double lse = largest + std::log(exponentials);
      double value = (1.0 - smoothing) * (lse - static_cast<double>(to_f32(logits[label])));
      // Terms that are switched off must not turn a logit of -infinity (a masked class) into 0 * infinity.
      if (smoothing != 0.0) value += smoothing * (lse - total / n);
      if (z_loss != 0.0) value += z_loss * lse * lse;
      loss[i] = static_cast<float>(value);
      if (dlogits == nullptr) continue;
      const double softmax_factor = 1.0 + 2.0 * z_loss * lse;
      for (int64_t j = 0; j < p->n; ++j) {
        double d = std::exp(static_cast<double>(to_f32(logits[j])) - lse) * softmax_factor - smoothing / n;
        if (j == label) d -= 1.0 - smoothing;
        dlogits[j] = rounded<T>(scale * d);
      }
    }
  });
  return Q4J_OK;
}

}  // namespace q4j::reference
