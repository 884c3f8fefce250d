// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** da += s dyb^T dropout(x), db += s dy^T xa. */
#include "matrix.h"

namespace q4j::reference {

q4j_status lora_weight_gradient_workspace_size(q4j_pack_context*, const q4j_lora_weight_gradient_params* p, int64_t* bytes) {
  Scratch scratch(nullptr);
  scratch.take<double>(p->lora->rank * p->k);  // da, in f64
  scratch.take<double>(p->n * p->lora->rank);  // db, in f64
  scratch.take<float>(p->k);                   // one row of x
  *bytes = scratch.used();
  return Q4J_OK;
}

q4j_status lora_weight_gradient(q4j_pack_context*, const q4j_lora_weight_gradient_params* p) {
  const q4j_lora& lora = *p->lora;
  const int64_t rank = lora.rank;
  Scratch scratch(p->workspace);
  double* da_sum = scratch.take<double>(rank * p->k);
  double* db_sum = scratch.take<double>(p->n * rank);
  float* row = scratch.take<float>(p->k);
  for (int64_t i = 0; i < rank * p->k; ++i) da_sum[i] = 0.0;
  for (int64_t i = 0; i < p->n * rank; ++i) db_sum[i] = 0.0;

  const float* xa = static_cast<const float*>(p->xa);
  const float* dyb = static_cast<const float*>(p->dyb);
  with_type(p->dtype, [&](auto type) {
    using T = decltype(type);
    const T* x = static_cast<const T*>(p->x);
    const T* dy = static_cast<const T*>(p->dy);
    for (int64_t i = 0; i < p->m; ++i) {
      widen(x + i * p->ldx, p->dtype, 1, p->k, p->ldx, row);
      mask_row(lora.dropout, i, p->k, row);
      for (int64_t r = 0; r < rank; ++r) add_scaled(da_sum + r * p->k, static_cast<double>(dyb[i * rank + r]), row, p->k);
      for (int64_t j = 0; j < p->n; ++j) {
        add_scaled(db_sum + j * rank, static_cast<double>(to_f32(dy[i * p->lddy + j])), xa + i * rank, rank);
      }
    }
  });

  const double s = static_cast<double>(lora.s);
  const double s_da = s * dropout_factor(lora.dropout);
  float* da = static_cast<float*>(p->da);
  float* db = static_cast<float*>(p->db);
  for (int64_t i = 0; i < rank * p->k; ++i) da[i] = static_cast<float>(static_cast<double>(da[i]) + s_da * da_sum[i]);
  for (int64_t i = 0; i < p->n * rank; ++i) db[i] = static_cast<float>(static_cast<double>(db[i]) + s * db_sum[i]);
  return Q4J_OK;
}

}  // namespace q4j::reference
