// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The rotation of one pair, as both rungs make it. */
#ifndef QLORA4J_CUDA_ROTARY_ROTATION_H_
#define QLORA4J_CUDA_ROTARY_ROTATION_H_

#include "rotary/rotary.h"
#include "support/vectors.h"

namespace q4j::cuda {

/** Rounded to the elements' type; the sine with the sign of the direction. */
struct Rotation {
  float cosine;
  float sine;

  Q4J_DEVICE float low(float low_element, float high_element) const {
    return multiply_add(low_element, cosine, -multiply(high_element, sine));
  }
  Q4J_DEVICE float high(float low_element, float high_element) const {
    return multiply_add(high_element, cosine, multiply(low_element, sine));
  }
};

template <typename T>
Q4J_DEVICE Rotation rotation_of(const Rotary& r, int64_t token, int pair) {
  float sine;
  float cosine;
  // The angle's rounding is part of the definition.
  sine_cosine(multiply(static_cast<float>(r.positions[token]), r.inverse_frequencies[pair]), &sine, &cosine);
  sine = rounded<T>(multiply(sine, r.attention_scale));
  return {rounded<T>(multiply(cosine, r.attention_scale)), r.inverse ? -sine : sine};
}

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_ROTARY_ROTATION_H_
