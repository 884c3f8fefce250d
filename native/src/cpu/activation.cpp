// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** SiLU and GELU, with the gated product (SwiGLU, GeGLU) and their gradients; element by element. */
#include "cpu_operators.h"
#include "error.h"
#include "norm.h"
#include "pack_context.h"
#include "vec.h"

namespace q4j::cpu {

namespace {

/** act(x) and act'(x). */
struct ValueAndSlope {
  Vec value;
  Vec slope;
};

struct Silu {
  static Vec value(Vec x) { return x / (broadcast(1.0f) + exp(zero() - x)); }
  static ValueAndSlope both(Vec x) {
    const Vec one = broadcast(1.0f);
    const Vec s = sigmoid(x);
    return {value(x), s * fma(x, one - s, one)};
  }
};

/**
 * x * Phi(x), Phi the normal distribution function. 1 + erf(x / sqrt(2)) cancels for negative x, so the tail is computed
 * itself: Phi(-z) = e^(-z^2/2) g(z) for z >= 0, with g a polynomial of degree 10 in t = 1 / (1 + 0.3 z), fitted for [0, 14.5]
 * to a relative error of 3e-9 (3e-7 as evaluated in f32). Beyond that the exponential is zero.
 */
struct GeluErf {
  static Vec value(Vec x) { return x * both_parts(x).value; }
  static ValueAndSlope both(Vec x) {
    const ValueAndSlope phi = both_parts(x);
    return {x * phi.value, fma(x, phi.slope, phi.value)};
  }

 private:
  /** Phi(x) and its density. */
  static ValueAndSlope both_parts(Vec x) {
    const Vec z = min(broadcast(15.0f), abs(x));
    const Vec square = z * z;
    // The rounding error of the square, up to 2^-17 for large z, would show in the exponential.
    const Vec error = fma(z, z, zero() - square);
    const Vec e = exp(square * broadcast(-0.5f)) * fnma(error, broadcast(0.5f), broadcast(1.0f));
    const Vec t = broadcast(1.0f) / fma(z, broadcast(0.3f), broadcast(1.0f));
    Vec g = broadcast(-0.020019628f);
    g = fma(g, t, broadcast(0.1088897f));
    g = fma(g, t, broadcast(-0.21908668f));
    g = fma(g, t, broadcast(0.17825206f));
    g = fma(g, t, broadcast(-0.06665073f));
    g = fma(g, t, broadcast(0.08815505f));
    g = fma(g, t, broadcast(0.08175211f));
    g = fma(g, t, broadcast(0.10930145f));
    g = fma(g, t, broadcast(0.11973564f));
    g = fma(g, t, broadcast(0.119670324f));
    g = fma(g, t, broadcast(7.065339e-07f));
    const Vec tail = g * e;
    constexpr float kDensityOfZero = 0.3989422804f;  // 1 / sqrt(2 pi)
    return {select(x > zero(), broadcast(1.0f) - tail, tail), e * broadcast(kDensityOfZero)};
  }
};

/** x/2 (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3): nothing cancels that way. */
struct GeluTanh {
  static Vec value(Vec x) { return x / (broadcast(1.0f) + exp(zero() - twice_u(x))); }
  static ValueAndSlope both(Vec x) {
    const Vec one = broadcast(1.0f);
    const Vec e = exp(zero() - abs(twice_u(x)));
    // sigmoid(|2u|) and sigmoid(-|2u|), each to full accuracy.
    const Vec large = one / (one + e);
    const Vec small = e / (one + e);
    const Vec s = select(twice_u(x) > zero(), large, small);
    const Vec slope_of_twice_u = fma(x * x, broadcast(3.0f * 0.044715f * kFactor), broadcast(kFactor));
    return {x * s, fma(x * (large * small), slope_of_twice_u, s)};
  }

 private:
  static constexpr float kFactor = 1.5957691216f;  // 2 sqrt(2/pi)
  static Vec twice_u(Vec x) { return x * fma(x * x, broadcast(0.044715f * kFactor), broadcast(kFactor)); }
};

template <class F>
bool with_activation(int32_t activation, F&& f) {
  switch (activation) {
    case Q4J_ACTIVATION_SILU:
      f(Silu{});
      return true;
    case Q4J_ACTIVATION_GELU_ERF:
      f(GeluErf{});
      return true;
    case Q4J_ACTIVATION_GELU_TANH:
      f(GeluTanh{});
      return true;
    default:
      return false;
  }
}

/** Calls f(row, first column, last column) on pieces of the matrix, long rows cut. */
template <class F>
void for_each_piece(ThreadPool& pool, int64_t m, int64_t n, F&& f) {
  constexpr int64_t kColumns = 8192;
  const int64_t cuts = (n + kColumns - 1) / kColumns;
  pool.parallel_pieces(m * cuts, rows_per_piece(n < kColumns ? n : kColumns), [&](int64_t begin, int64_t end, int) {
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t first = piece % cuts * kColumns;
      f(piece / cuts, first, first + kColumns < n ? first + kColumns : n);
    }
  });
}

}  // namespace

q4j_status activation_forward(q4j_pack_context* context, const q4j_activation_forward_params* params) {
  const q4j_activation_forward_params& p = *params;
  bool known = false;
  with_activation_type(p.dtype, [&](auto* tag) {
    using T = std::remove_pointer_t<decltype(tag)>;
    known = with_activation(p.activation, [&](auto activation) {
      using Activation = decltype(activation);
      for_each_piece(context->pool, p.m, p.n, [&](int64_t row, int64_t first, int64_t last) {
        const T* x = static_cast<const T*>(p.x) + row * p.ldx;
        const T* up = p.up == nullptr ? nullptr : static_cast<const T*>(p.up) + row * p.ldup;
        T* y = static_cast<T*>(p.y) + row * p.n;
        for (int64_t i = first; i < last; i += kLanes) {
          Vec result = Activation::value(load_first(x + i, last - i));
          if (up != nullptr) result = rounded_to<T>(result) * load_first(up + i, last - i);
          store_first(y + i, result, last - i);
        }
      });
    });
  });
  Q4J_REQUIRE(known, Q4J_UNSUPPORTED, "activation_forward: dtype %s, activation %d", dtype_name(p.dtype), p.activation);
  return Q4J_OK;
}

q4j_status activation_backward(q4j_pack_context* context, const q4j_activation_backward_params* params) {
  const q4j_activation_backward_params& p = *params;
  bool known = false;
  with_activation_type(p.dtype, [&](auto* tag) {
    using T = std::remove_pointer_t<decltype(tag)>;
    known = with_activation(p.activation, [&](auto activation) {
      using Activation = decltype(activation);
      for_each_piece(context->pool, p.m, p.n, [&](int64_t row, int64_t first, int64_t last) {
        const T* x = static_cast<const T*>(p.x) + row * p.ldx;
        const T* up = p.up == nullptr ? nullptr : static_cast<const T*>(p.up) + row * p.ldup;
        const T* dy = static_cast<const T*>(p.dy) + row * p.n;
        T* dx = static_cast<T*>(p.dx) + row * p.lddx;
        T* dup = p.up == nullptr ? nullptr : static_cast<T*>(p.dup) + row * p.lddup;
        for (int64_t i = first; i < last; i += kLanes) {
          const ValueAndSlope act = Activation::both(load_first(x + i, last - i));
          const Vec d = load_first(dy + i, last - i);
          if (up == nullptr) {
            store_first(dx + i, d * act.slope, last - i);
            continue;
          }
          // All loads before the stores: dx may be x, dup may be up or dy.
          const Vec u = load_first(up + i, last - i);
          store_first(dx + i, d * u * act.slope, last - i);
          store_first(dup + i, d * rounded_to<T>(act.value), last - i);
        }
      });
    });
  });
  Q4J_REQUIRE(known, Q4J_UNSUPPORTED, "activation_backward: dtype %s, activation %d", dtype_name(p.dtype), p.activation);
  return Q4J_OK;
}

}  // namespace q4j::cpu
