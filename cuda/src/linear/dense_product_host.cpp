// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The products in plain loops. */
#include "half.h"
#include "linear/dense_product.h"
#include "pack/context.h"

namespace q4j::cuda {

namespace {

class LoopMultiplier final : public DenseMultiplier {
 public:
  q4j_status multiply(const q4j_pack_context&, const DenseProduct& p, void*) override {
    const auto* a = static_cast<const bf16*>(p.a);
    const auto* b = static_cast<const bf16*>(p.b);
    for (int64_t i = 0; i < p.m; ++i) {
      for (int64_t j = 0; j < p.n; ++j) {
        float sum = 0.0f;
        for (int64_t l = 0; l < p.k; ++l) {
          sum += to_f32(p.a_transposed ? a[l * p.lda + i] : a[i * p.lda + l]) *
                 to_f32(p.b_transposed ? b[j * p.ldb + l] : b[l * p.ldb + j]);
        }
        sum *= p.scale;
        if (p.dtype == Q4J_F32) {
          if (p.c != nullptr) sum += static_cast<const float*>(p.c)[i * p.ldc + j];
          static_cast<float*>(p.d)[i * p.ldd + j] = sum;
        } else {
          if (p.c != nullptr) sum += to_f32(static_cast<const bf16*>(p.c)[i * p.ldc + j]);
          static_cast<bf16*>(p.d)[i * p.ldd + j] = bf16_from_f32(sum);
        }
      }
    }
    return Q4J_OK;
  }
};

}  // namespace

q4j_status DenseMultiplier::open(const q4j_pack_context&, std::unique_ptr<DenseMultiplier>* multiplier) {
  *multiplier = std::make_unique<LoopMultiplier>();
  return Q4J_OK;
}

}  // namespace q4j::cuda
