// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** From run-time types to template arguments. */
#ifndef QLORA4J_CUDA_SUPPORT_DISPATCH_H_
#define QLORA4J_CUDA_SUPPORT_DISPATCH_H_

#include <type_traits>

#include "error.h"
#include "half.h"

namespace q4j::cuda {

/** Calls body(T{}) with the element type of `dtype`: f32, bf16 or f16. */
template <typename Body>
q4j_status with_dtype(int32_t dtype, Body body) {
  switch (dtype) {
    case Q4J_F32:
      return body(float{});
    case Q4J_BF16:
      return body(bf16{});
    case Q4J_F16:
      return body(f16{});
    default:
      Q4J_FAIL(Q4J_UNSUPPORTED, "the CUDA pack takes f32, bf16 and f16 here, found %s", dtype_name(dtype));
  }
}

/** The same for activations, which are f32 or bf16: a third instantiation of their kernels would never run. */
template <typename Body>
q4j_status with_activation_type(int32_t dtype, Body body) {
  switch (dtype) {
    case Q4J_F32:
      return body(float{});
    case Q4J_BF16:
      return body(bf16{});
    default:
      Q4J_FAIL(Q4J_UNSUPPORTED, "the CUDA pack takes f32 and bf16 activations, found %s", dtype_name(dtype));
  }
}

template <int Value>
using Constant = std::integral_constant<int, Value>;

/** Calls body(Constant<Q4J_WEIGHT_NF4>{}) or the same for FP4. */
template <typename Body>
q4j_status with_format(int32_t format, Body body) {
  switch (format) {
    case Q4J_WEIGHT_NF4:
      return body(Constant<Q4J_WEIGHT_NF4>{});
    case Q4J_WEIGHT_FP4:
      return body(Constant<Q4J_WEIGHT_FP4>{});
    default:
      Q4J_FAIL(Q4J_UNSUPPORTED, "the CUDA pack has the 4-bit formats NF4 and FP4, found format %d", format);
  }
}

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_SUPPORT_DISPATCH_H_
