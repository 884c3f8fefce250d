// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Rung 1: the definition, one thread per element. */
#include "activation/activation.h"
#include "activation/functions.h"
#include "support/dispatch.h"
#include "support/launch.h"
#include "support/vectors.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 256;

template <typename T, typename Function>
Q4J_KERNEL(kThreads, 4)
activation_forward_1_elements(const ActivationForward a) {
  const int64_t step = static_cast<int64_t>(grid_blocks()) * kThreads;
  for (int64_t i = static_cast<int64_t>(block_index()) * kThreads + thread_index(); i < a.m * a.n; i += step) {
    const int64_t row = i / a.n;
    const int64_t column = i - row * a.n;
    float value = Function::value(widen(static_cast<const T*>(a.x)[row * a.ldx + column]));
    if (a.up != nullptr) value = rounded<T>(value) * widen(static_cast<const T*>(a.up)[row * a.ldup + column]);
    static_cast<T*>(a.y)[i] = narrow<T>(value);
  }
}

template <typename T, typename Function>
Q4J_KERNEL(kThreads, 4)
activation_backward_1_elements(const ActivationBackward a) {
  const int64_t step = static_cast<int64_t>(grid_blocks()) * kThreads;
  for (int64_t i = static_cast<int64_t>(block_index()) * kThreads + thread_index(); i < a.m * a.n; i += step) {
    const int64_t row = i / a.n;
    const int64_t column = i - row * a.n;
    const ValueAndSlope act = Function::both(widen(static_cast<const T*>(a.x)[row * a.ldx + column]));
    const float d = widen(static_cast<const T*>(a.dy)[i]);
    // Everything is read before anything is written: outputs may be the inputs' memory.
    const float up = a.up == nullptr ? 1.0f : widen(static_cast<const T*>(a.up)[row * a.ldup + column]);
    static_cast<T*>(a.dx)[row * a.lddx + column] = narrow<T>(d * up * act.slope);
    if (a.up != nullptr) static_cast<T*>(a.dup)[row * a.lddup + column] = narrow<T>(d * act.value);
  }
}

}  // namespace

q4j_status activation_forward_1(const q4j_pack_context& context, const ActivationForward& arguments) {
  return with_activation_type(arguments.dtype, [&](auto type) {
    return with_activation(arguments.activation, [&](auto function) {
      const auto kernel = activation_forward_1_elements<decltype(type), decltype(function)>;
      const Grid grid = {blocks_for(arguments.m * arguments.n, kThreads), kThreads};
      return launch(context, grid, "activation_forward_1_elements", kernel, arguments);
    });
  });
}

q4j_status activation_backward_1(const q4j_pack_context& context, const ActivationBackward& arguments) {
  return with_activation_type(arguments.dtype, [&](auto type) {
    return with_activation(arguments.activation, [&](auto function) {
      const auto kernel = activation_backward_1_elements<decltype(type), decltype(function)>;
      const Grid grid = {blocks_for(arguments.m * arguments.n, kThreads), kThreads};
      return launch(context, grid, "activation_backward_1_elements", kernel, arguments);
    });
  });
}

}  // namespace q4j::cuda
