// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The end of a matrix product: from f32 sums to C. */
#ifndef QLORA4J_SRC_CPU_GEMM_EPILOGUE_H_
#define QLORA4J_SRC_CPU_GEMM_EPILOGUE_H_

#include <cstdint>

#include "gemm.h"
#include "vec.h"

namespace q4j::cpu {

template <class T>
void finish_sums_of(const Epilogue& e, const float* sums, int64_t stride, int64_t row, int64_t column, int64_t rows,
                    int64_t columns) {
  const Vec alpha = broadcast(e.alpha);
  for (int64_t part = 0; part < columns; part += kLanes) {
    const Mask lanes = first_lanes(columns - part);
    Vec bias = zero();
    if (e.bias != nullptr) {
      bias = e.bias_dtype == Q4J_BF16 ? load(static_cast<const bf16*>(e.bias) + column + part, lanes)
                                      : load(static_cast<const float*>(e.bias) + column + part, lanes);
    }
    for (int64_t i = 0; i < rows; ++i) {
      Vec v = load(sums + i * stride + part);
      if (e.alpha != 1.0f) v = v * alpha;
      if (e.bias != nullptr) v = v + bias;
      if (e.residual != nullptr) v = v + load(static_cast<const T*>(e.residual) + (row + i) * e.ldr + column + part, lanes);
      if (e.round_to_bf16) v = rounded_to<bf16>(v);
      store(static_cast<T*>(e.c) + (row + i) * e.ldc + column + part, v, lanes);
    }
  }
}

/** C from (row, column) on. sums: [rows][stride]; rows hold whole vectors. */
inline void finish_sums(const Epilogue& e, const float* sums, int64_t stride, int64_t row, int64_t column, int64_t rows,
                        int64_t columns) {
  if (e.dtype == Q4J_BF16) {
    finish_sums_of<bf16>(e, sums, stride, row, column, rows, columns);
  } else {
    finish_sums_of<float>(e, sums, stride, row, column, rows, columns);
  }
}

}  // namespace q4j::cpu

#endif  // QLORA4J_SRC_CPU_GEMM_EPILOGUE_H_
