// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Rung 2: vectors, two in flight per thread and array. A thread walks the matrix without a division per vector. */
#include "activation/activation.h"
#include "activation/functions.h"
#include "support/dispatch.h"
#include "support/launch.h"
#include "support/vectors.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kInFlight = 2;

/** A matrix cut into vectors, row by row; a thread starts at its number in the grid and steps by the grid's threads. */
struct Walk {
  int64_t row_vectors;
  int64_t step_rows; /* the step, as rows and vectors */
  int64_t step_vectors;

  Walk(int64_t n, int per_vector, int blocks)
      : row_vectors(n / per_vector),
        step_rows(static_cast<int64_t>(blocks) * kThreads / row_vectors),
        step_vectors(static_cast<int64_t>(blocks) * kThreads % row_vectors) {}
};

struct Position {
  int64_t row;
  int64_t vector;

  Q4J_DEVICE explicit Position(const Walk& walk) {
    const int64_t index = static_cast<int64_t>(block_index()) * kThreads + thread_index();
    row = index / walk.row_vectors;
    vector = index - row * walk.row_vectors;
  }
  Q4J_DEVICE Position next(const Walk& walk) const {
    Position position = *this;
    position.row += walk.step_rows;
    position.vector += walk.step_vectors;
    if (position.vector >= walk.row_vectors) {
      position.vector -= walk.row_vectors;
      ++position.row;
    }
    return position;
  }
  template <typename T>
  Q4J_DEVICE int64_t in(int64_t ld) const {
    return row * ld + vector * kPerVector<T>;
  }
};

/** The elements of one long row behind its last whole vector: one thread of the grid each. Its index, or -1. */
template <typename T>
Q4J_DEVICE int64_t tail_element(int64_t n) {
  const int64_t at = n / kPerVector<T> * kPerVector<T> + thread_index();
  return block_index() == 0 && at < n ? at : -1;
}

template <typename T, typename Function>
Q4J_KERNEL(kThreads, 4)
activation_forward_2_vectors(const ActivationForward a, const Walk walk) {
  constexpr int kN = kPerVector<T>;
  const T* x = static_cast<const T*>(a.x);
  const T* up = static_cast<const T*>(a.up);
  T* y = static_cast<T*>(a.y);
  for (Position first(walk); first.row < a.m;) {
    const Position at[kInFlight] = {first, first.next(walk)};
    first = at[1].next(walk);
    Words4 gates[kInFlight];
    Words4 ups[kInFlight];
    Q4J_UNROLL
    for (int k = 0; k < kInFlight; ++k) {
      const bool live = at[k].row < a.m;
      gates[k] = load_vector_if(live, x + at[k].in<T>(a.ldx));
      ups[k] = load_vector_if(live && up != nullptr, up + at[k].in<T>(a.ldup));
    }
    Q4J_UNROLL
    for (int k = 0; k < kInFlight; ++k) {
      if (at[k].row >= a.m) continue;
      float value[kN];
      Q4J_UNROLL
      for (int i = 0; i < kN; ++i) value[i] = Function::value(element<T>(gates[k], i));
      if (up != nullptr) {
        Q4J_UNROLL
        for (int i = 0; i < kN; ++i) value[i] = rounded<T>(value[i]) * element<T>(ups[k], i);
      }
      store_vector(y + at[k].in<T>(a.n), value);
    }
  }
  const int64_t tail = tail_element<T>(a.n);
  if (tail < 0) return;
  const float value = Function::value(widen(x[tail]));
  y[tail] = narrow<T>(up == nullptr ? value : rounded<T>(value) * widen(up[tail]));
}

template <typename T, typename Function>
Q4J_KERNEL(kThreads, 4)
activation_backward_2_vectors(const ActivationBackward a, const Walk walk) {
  constexpr int kN = kPerVector<T>;
  const T* x = static_cast<const T*>(a.x);
  const T* up = static_cast<const T*>(a.up);
  const T* dy = static_cast<const T*>(a.dy);
  T* dx = static_cast<T*>(a.dx);
  T* dup = static_cast<T*>(a.dup);
  for (Position first(walk); first.row < a.m;) {
    const Position at[kInFlight] = {first, first.next(walk)};
    first = at[1].next(walk);
    Words4 gates[kInFlight];
    Words4 ups[kInFlight];
    Words4 dys[kInFlight];
    Q4J_UNROLL
    for (int k = 0; k < kInFlight; ++k) {
      const bool live = at[k].row < a.m;
      gates[k] = load_vector_if(live, x + at[k].in<T>(a.ldx));
      dys[k] = load_vector_if(live, dy + at[k].in<T>(a.n));
      ups[k] = load_vector_if(live && up != nullptr, up + at[k].in<T>(a.ldup));
    }
    // A vector of every input is read before its outputs are written: they may be the inputs' memory.
    Q4J_UNROLL
    for (int k = 0; k < kInFlight; ++k) {
      if (at[k].row >= a.m) continue;
      float gradient[kN];
      float gradient_of_up[kN];
      Q4J_UNROLL
      for (int i = 0; i < kN; ++i) {
        const ValueAndSlope act = Function::both(element<T>(gates[k], i));
        const float d = element<T>(dys[k], i);
        gradient[i] = (up == nullptr ? d : d * element<T>(ups[k], i)) * act.slope;
        gradient_of_up[i] = d * act.value;
      }
      store_vector(dx + at[k].in<T>(a.lddx), gradient);
      if (up != nullptr) store_vector(dup + at[k].in<T>(a.lddup), gradient_of_up);
    }
  }
  const int64_t tail = tail_element<T>(a.n);
  if (tail < 0) return;
  const ValueAndSlope act = Function::both(widen(x[tail]));
  const float d = widen(dy[tail]);
  const float gate = up == nullptr ? 1.0f : widen(up[tail]);
  dx[tail] = narrow<T>(d * gate * act.slope);
  if (up != nullptr) dup[tail] = narrow<T>(d * act.value);
}

/** Whether vectors serve: one row of any length, or rows that are whole vectors and start on multiples of them. */
bool fits(int64_t m, int64_t n, int per_vector, std::initializer_list<int64_t> distances) {
  if (m == 1) return n >= per_vector;
  if (n % per_vector != 0) return false;
  for (const int64_t distance : distances) {
    if (distance % per_vector != 0) return false;
  }
  return true;
}

}  // namespace

q4j_status activation_forward_2(const q4j_pack_context& context, const ActivationForward& arguments) {
  ActivationForward a = arguments;
  if (a.m == 0) return Q4J_OK;
  if (a.ldx == a.n && (a.up == nullptr || a.ldup == a.n)) {
    a.n *= a.m;
    a.m = 1;
  }
  return with_activation_type(a.dtype, [&](auto type) {
    using T = decltype(type);
    const int64_t ldup = a.up == nullptr ? 0 : a.ldup;
    if (!fits(a.m, a.n, kPerVector<T>, {a.ldx, ldup}) || !are_aligned({a.x, a.up, a.y})) {
      return activation_forward_1(context, arguments);
    }
    return with_activation(a.activation, [&](auto function) {
      const auto kernel = activation_forward_2_vectors<T, decltype(function)>;
      int resident = 0;
      Q4J_RETURN_IF_ERROR(resident_blocks(context, kThreads, "activation_forward_2_vectors", kernel, &resident));
      const Grid grid = {blocks_for(a.m * (a.n / kPerVector<T>), kThreads * kInFlight, resident), kThreads};
      return launch(context, grid, "activation_forward_2_vectors", kernel, a, Walk(a.n, kPerVector<T>, grid.blocks));
    });
  });
}

q4j_status activation_backward_2(const q4j_pack_context& context, const ActivationBackward& arguments) {
  ActivationBackward a = arguments;
  if (a.m == 0) return Q4J_OK;
  if (a.ldx == a.n && a.lddx == a.n && (a.up == nullptr || (a.ldup == a.n && a.lddup == a.n))) {
    a.n *= a.m;
    a.m = 1;
  }
  return with_activation_type(a.dtype, [&](auto type) {
    using T = decltype(type);
    const bool gated = a.up != nullptr;
    if (!fits(a.m, a.n, kPerVector<T>, {a.ldx, a.lddx, gated ? a.ldup : 0, gated ? a.lddup : 0}) ||
        !are_aligned({a.x, a.up, a.dy, a.dx, gated ? a.dup : nullptr})) {
      return activation_backward_1(context, arguments);
    }
    return with_activation(a.activation, [&](auto function) {
      const auto kernel = activation_backward_2_vectors<T, decltype(function)>;
      int resident = 0;
      Q4J_RETURN_IF_ERROR(resident_blocks(context, kThreads, "activation_backward_2_vectors", kernel, &resident));
      const Grid grid = {blocks_for(a.m * (a.n / kPerVector<T>), kThreads * kInFlight, resident), kThreads};
      return launch(context, grid, "activation_backward_2_vectors", kernel, a, Walk(a.n, kPerVector<T>, grid.blocks));
    });
  });
}

}  // namespace q4j::cuda
