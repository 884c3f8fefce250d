// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The activations and their slopes in f32. All are written so that nothing cancels: accurate to a few roundoffs of the value
 * where |x| is moderate. Where the value goes to 0, for x far below zero, an exponential's rounded argument counts: a share of
 * |x|.
 */
#ifndef QLORA4J_CUDA_ACTIVATION_FUNCTIONS_H_
#define QLORA4J_CUDA_ACTIVATION_FUNCTIONS_H_

#include "error.h"
#include "qlora4j/operators.h"
#include "support/device.h"

namespace q4j::cuda {

struct ValueAndSlope {
  float value;
  float slope;
};

struct Silu {
  Q4J_DEVICE static float value(float x) { return divide_approximate(x, 1.0f + exponential(-x)); }

  Q4J_DEVICE static ValueAndSlope both(float x) {
    const float sigmoid = divide_approximate(1.0f, 1.0f + exponential(-x));
    return {x * sigmoid, sigmoid * multiply_add(x, 1.0f - sigmoid, 1.0f)};
  }
};

/**
 * x * Phi(x), Phi the normal distribution function. 1 + erf(x / sqrt(2)) cancels for negative x, and erfc amplifies the
 * rounding of its argument, so the tail is computed itself, as the CPU packs do: Phi(-z) = e^(-z^2/2) g(z) for z >= 0, with g a
 * polynomial of degree 10 in t = 1 / (1 + 0.3 z), fitted for [0, 14.5] to a relative error of 3e-9 (3e-7 as evaluated in f32).
 * Beyond that the exponential is zero.
 */
struct GeluErf {
  Q4J_DEVICE static float value(float x) { return x * distribution(x).value; }

  Q4J_DEVICE static ValueAndSlope both(float x) {
    const ValueAndSlope phi = distribution(x);
    return {x * phi.value, multiply_add(x, phi.slope, phi.value)};
  }

 private:
  /** Phi(x) and its density. */
  Q4J_DEVICE static ValueAndSlope distribution(float x) {
    const float z = absolute(x) < 15.0f ? absolute(x) : 15.0f;  // NaN comes back by the factor x
    const float square = multiply(z, z);
    // The rounding error of the square, up to 2^-17 for large z, would show in the exponential.
    const float error = multiply_add(z, z, -square);
    const float e = exponential(-0.5f * square) * multiply_add(error, -0.5f, 1.0f);
    const float t = divide_approximate(1.0f, multiply_add(z, 0.3f, 1.0f));
    float g = -0.020019628f;
    g = multiply_add(g, t, 0.1088897f);
    g = multiply_add(g, t, -0.21908668f);
    g = multiply_add(g, t, 0.17825206f);
    g = multiply_add(g, t, -0.06665073f);
    g = multiply_add(g, t, 0.08815505f);
    g = multiply_add(g, t, 0.08175211f);
    g = multiply_add(g, t, 0.10930145f);
    g = multiply_add(g, t, 0.11973564f);
    g = multiply_add(g, t, 0.119670324f);
    g = multiply_add(g, t, 7.065339e-07f);
    const float tail = g * e;
    constexpr float kDensityOfZero = 0.3989422804f;  // 1 / sqrt(2 pi)
    return {x > 0.0f ? 1.0f - tail : tail, e * kDensityOfZero};
  }
};

/** x/2 (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3): nothing cancels that way. */
struct GeluTanh {
  Q4J_DEVICE static float value(float x) { return divide_approximate(x, 1.0f + exponential(-twice_u(x))); }

  Q4J_DEVICE static ValueAndSlope both(float x) {
    const float e = exponential(-absolute(twice_u(x)));
    // sigmoid(|2u|) and sigmoid(-|2u|), each to full accuracy.
    const float large = divide_approximate(1.0f, 1.0f + e);
    const float small = e * large;
    const float sigmoid = x > 0.0f ? large : small;
    // Where |x| > 100 the product of the sigmoids is 0 and the square may be infinite.
    const float bounded = absolute(x) < 100.0f ? x : 100.0f;
    const float slope_of_twice_u = multiply_add(bounded * bounded, 3.0f * kCubic * kFactor, kFactor);
    return {x * sigmoid, multiply_add(x * (large * small), slope_of_twice_u, sigmoid)};
  }

 private:
  static constexpr float kFactor = 1.5957691216f;  // 2 sqrt(2/pi)
  static constexpr float kCubic = 0.044715f;
  Q4J_DEVICE static float twice_u(float x) { return x * multiply_add(x * x, kCubic * kFactor, kFactor); }
};

/** Calls body(Silu{}) or the same with another activation. */
template <typename Body>
q4j_status with_activation(int32_t activation, Body body) {
  switch (activation) {
    case Q4J_ACTIVATION_SILU:
      return body(Silu{});
    case Q4J_ACTIVATION_GELU_ERF:
      return body(GeluErf{});
    case Q4J_ACTIVATION_GELU_TANH:
      return body(GeluTanh{});
    default:
      Q4J_FAIL(Q4J_UNSUPPORTED, "the CUDA pack has the activations 0 to 2, found %d", activation);
  }
}

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_ACTIVATION_FUNCTIONS_H_
