// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Row-wise INT8 as LLM.int8 does it (Dettmers, Lewis, Belkada, Zettlemoyer 2022), with its outlier columns. */
#include <cmath>
#include <cstring>

#include "quant.h"
#include "reference.h"

namespace q4j::reference {

q4j_status quantize_int8_rowwise(q4j_pack_context*, const q4j_quantize_int8_rowwise_params* p) {
  const bool outliers = p->outlier_threshold > 0.0f;
  const auto is_outlier = [&](float x) { return outliers && std::fabs(x) >= p->outlier_threshold; };
  int8_t* codes = static_cast<int8_t*>(p->codes);
  float* row_absmax = static_cast<float*>(p->row_absmax);
  uint8_t* outlier_cols = static_cast<uint8_t*>(p->outlier_cols);
  if (outlier_cols != nullptr) std::memset(outlier_cols, 0, static_cast<std::size_t>(p->cols));
  with_type(p->dtype, [&](auto type) {
    using T = decltype(type);
    const T* input = static_cast<const T*>(p->input);
    for (int64_t r = 0; r < p->rows; ++r) {
      float absmax = 0.0f;
      for (int64_t c = 0; c < p->cols; ++c) {
        const float x = to_f32(input[r * p->cols + c]);
        if (is_outlier(x)) {
          outlier_cols[c] = 1;
        } else {
          absmax = absmax_of(absmax, x);
        }
      }
      row_absmax[r] = absmax;
    }
    for (int64_t r = 0; r < p->rows; ++r) {
      const float scale = 127.0f / row_absmax[r];
      for (int64_t c = 0; c < p->cols; ++c) {
        const int64_t i = r * p->cols + c;
        const float scaled = to_f32(input[i]) * scale;
        const bool zero =
            (outliers && outlier_cols[c] != 0) || !(std::fabs(scaled) <= 127.5f);  // NaN: a row of zeros, or a NaN in it
        codes[i] = zero ? int8_t{0} : static_cast<int8_t>(std::nearbyint(scaled));
      }
    }
  });
  return Q4J_OK;
}

q4j_status dequantize_int8_rowwise(q4j_pack_context*, const q4j_dequantize_int8_rowwise_params* p) {
  const int8_t* codes = static_cast<const int8_t*>(p->codes);
  const float* row_absmax = static_cast<const float*>(p->row_absmax);
  with_type(p->dtype, [&](auto type) {
    using T = decltype(type);
    T* output = static_cast<T*>(p->output);
    for (int64_t r = 0; r < p->rows; ++r) {
      for (int64_t c = 0; c < p->cols; ++c) {
        // bitsandbytes' order of the two multiplications; each rounds.
        const float product = static_cast<float>(codes[r * p->cols + c]) * row_absmax[r];
        output[r * p->cols + c] = from_f32<T>(product * (1.0f / 127.0f));
      }
    }
  });
  return Q4J_OK;
}

}  // namespace q4j::reference
