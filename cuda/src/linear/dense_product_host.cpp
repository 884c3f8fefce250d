// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The products in plain loops. Everything is done when a call returns, so the side stream is the one stream there is. */
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
    const auto* c = static_cast<const bf16*>(p.c);
    auto* d = static_cast<bf16*>(p.d);
    for (int64_t i = 0; i < p.m; ++i) {
      for (int64_t j = 0; j < p.n; ++j) {
        float sum = 0.0f;
        for (int64_t l = 0; l < p.k; ++l) {
          sum += to_f32(a[i * p.lda + l]) * to_f32(p.b_transposed ? b[j * p.ldb + l] : b[l * p.ldb + j]);
        }
        if (c != nullptr) sum += to_f32(c[i * p.ldc + j]);
        d[i * p.ldd + j] = bf16_from_f32(sum);
      }
    }
    return Q4J_OK;
  }

  void* side_stream() const override { return nullptr; }
  q4j_status fork(const q4j_pack_context&) override { return Q4J_OK; }
  q4j_status filled(const q4j_pack_context&, int) override { return Q4J_OK; }
  q4j_status consumed(const q4j_pack_context&, int) override { return Q4J_OK; }
};

}  // namespace

q4j_status DenseMultiplier::open(const q4j_pack_context&, std::unique_ptr<DenseMultiplier>* multiplier) {
  *multiplier = std::make_unique<LoopMultiplier>();
  return Q4J_OK;
}

}  // namespace q4j::cuda
