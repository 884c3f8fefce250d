// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Sixteen bytes of elements, f32 or bf16: the unit of the row kernels. A warp's access is then contiguous for both types,
 * where eight f32 per thread (Eight<float>) would leave every other 16 bytes to a second instruction.
 */
#ifndef QLORA4J_CUDA_SUPPORT_VECTORS_H_
#define QLORA4J_CUDA_SUPPORT_VECTORS_H_

#include <initializer_list>

#include "support/elements.h"

namespace q4j::cuda {

/** Whether all of them may be read and written in vectors. A NULL may. */
inline bool are_aligned(std::initializer_list<const void*> pointers) {
  for (const void* pointer : pointers) {
    if (reinterpret_cast<uintptr_t>(pointer) % sizeof(Words4) != 0) return false;
  }
  return true;
}

/** Elements of T in a vector. */
template <typename T>
constexpr int kPerVector = static_cast<int>(sizeof(Words4) / sizeof(T));

Q4J_DEVICE Words4 zero_vector() { return {{0u, 0u, 0u, 0u}}; }

/** Element i of a vector; i must be a constant after unrolling, so that the vector stays in registers. */
template <typename T>
Q4J_DEVICE float element(const Words4& vector, int i) {
  if constexpr (sizeof(T) == 4) {
    return bits_float(vector.word[i]);
  } else {
    const uint32_t word = vector.word[i / 2];
    T value;
    value.bits = static_cast<uint16_t>(i % 2 == 0 ? word & 0xffffu : word >> 16);
    return widen(value);
  }
}

/** The values rounded to T. */
template <typename T>
Q4J_DEVICE Words4 vector_of(const float (&value)[kPerVector<T>]) {
  if constexpr (sizeof(T) == 4) {
    return {{float_bits(value[0]), float_bits(value[1]), float_bits(value[2]), float_bits(value[3])}};
  } else {
    return {{narrow_pair<T>(value[0], value[1]), narrow_pair<T>(value[2], value[3]), narrow_pair<T>(value[4], value[5]),
             narrow_pair<T>(value[6], value[7])}};
  }
}

/** The value as T has it. */
template <typename T>
Q4J_DEVICE float rounded(float value) {
  return widen(narrow<T>(value));
}

// Of memory that the kernel may also write: outputs of the row kernels may be their inputs.
template <typename T>
Q4J_DEVICE Words4 load_vector(const T* from) {
  return load(reinterpret_cast<const Words4*>(from));
}
/** Zero, and nothing is read, unless `live`. */
template <typename T>
Q4J_DEVICE Words4 load_vector_if(bool live, const T* from) {
  return live ? load_vector(from) : zero_vector();
}
template <typename T>
Q4J_DEVICE void store_vector(T* to, const float (&value)[kPerVector<T>]) {
  store(reinterpret_cast<Words4*>(to), vector_of<T>(value));
}

/** N (4 or 8) f32 values to memory aligned to 16 bytes. */
template <int N>
Q4J_DEVICE void store_floats(float* to, const float (&value)[N]) {
  Q4J_UNROLL
  for (int i = 0; i < N; i += 4) {
    store(reinterpret_cast<Words4*>(to + i),
          Words4{{float_bits(value[i]), float_bits(value[i + 1]), float_bits(value[i + 2]), float_bits(value[i + 3])}});
  }
}

/** Element `at` of an array that is bf16 or f32: weights, whose type is not that of the activations. */
Q4J_DEVICE float load_float(const void* data, bool is_bf16, int64_t at) {
  return is_bf16 ? widen(static_cast<const bf16*>(data)[at]) : static_cast<const float*>(data)[at];
}

/** N (4 or 8) of them in wide loads: `data` is aligned to 16 bytes, `at` is a multiple of N. The kernel must not write it. */
template <int N>
Q4J_DEVICE void load_floats(const void* data, bool is_bf16, int64_t at, float (&value)[N]) {
  static_assert(N == 4 || N == 8, "the elements of a vector");
  if (is_bf16) {
    Words4 words = zero_vector();
    if constexpr (N == 8) {
      words = load_read_only(reinterpret_cast<const Words4*>(static_cast<const bf16*>(data) + at));
    } else {
      const Words2 half = load_read_only(reinterpret_cast<const Words2*>(static_cast<const bf16*>(data) + at));
      words.word[0] = half.word[0];
      words.word[1] = half.word[1];
    }
    Q4J_UNROLL
    for (int i = 0; i < N; ++i) value[i] = element<bf16>(words, i);
  } else {
    Q4J_UNROLL
    for (int v = 0; v < N / 4; ++v) {
      const Words4 words = load_read_only(reinterpret_cast<const Words4*>(static_cast<const float*>(data) + at) + v);
      Q4J_UNROLL
      for (int i = 0; i < 4; ++i) value[v * 4 + i] = element<float>(words, i);
    }
  }
}

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_SUPPORT_VECTORS_H_
