// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Row-wise FP8 E4M3 (Micikevicius et al. 2022). */
#include <cmath>

#include "quant.h"
#include "reference.h"

namespace q4j::reference {

q4j_status quantize_fp8_rowwise(q4j_pack_context*, const q4j_quantize_fp8_rowwise_params* p) {
  e4m3* codes = static_cast<e4m3*>(p->codes);
  float* row_scale = static_cast<float*>(p->row_scale);
  with_type(p->dtype, [&](auto type) {
    const auto* input = static_cast<const decltype(type)*>(p->input);
    for (int64_t r = 0; r < p->rows; ++r) {
      float absmax = 0.0f;
      for (int64_t c = 0; c < p->cols; ++c) absmax = absmax_of(absmax, to_f32(input[r * p->cols + c]));
      const float scale = absmax / 448.0f;
      row_scale[r] = scale;
      for (int64_t c = 0; c < p->cols; ++c) {
        const int64_t i = r * p->cols + c;
        const float scaled = scale == 0.0f ? 0.0f : to_f32(input[i]) / scale;
        codes[i] = std::isnan(scaled) ? e4m3{0x7f} : e4m3_from_f32(scaled);  // processors differ in the sign of a NaN
      }
    }
  });
  return Q4J_OK;
}

q4j_status dequantize_fp8_rowwise(q4j_pack_context*, const q4j_dequantize_fp8_rowwise_params* p) {
  const e4m3* codes = static_cast<const e4m3*>(p->codes);
  const float* row_scale = static_cast<const float*>(p->row_scale);
  with_type(p->dtype, [&](auto type) {
    using T = decltype(type);
    T* output = static_cast<T*>(p->output);
    for (int64_t r = 0; r < p->rows; ++r) {
      for (int64_t c = 0; c < p->cols; ++c) {
        const int64_t i = r * p->cols + c;
        output[i] = from_f32<T>(to_f32(codes[i]) * row_scale[r]);
      }
    }
  });
  return Q4J_OK;
}

}  // namespace q4j::reference
