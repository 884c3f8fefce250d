// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Element types in kernels: f32, bf16 and f16, and eight of them at a time. */
#ifndef QLORA4J_CUDA_SUPPORT_ELEMENTS_H_
#define QLORA4J_CUDA_SUPPORT_ELEMENTS_H_

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

#include "half.h"
#include "support/device.h"

namespace q4j::cuda {

/** Elements that a thread of a vectorised kernel takes at once. */
constexpr int kEight = 8;

#if defined(__CUDACC__)

Q4J_DEVICE float widen(float value) { return value; }
Q4J_DEVICE float widen(bf16 value) { return bits_float(static_cast<uint32_t>(value.bits) << 16); }
Q4J_DEVICE float widen(f16 value) { return __half2float(__ushort_as_half(value.bits)); }

/** The value rounded to T, to nearest even. */
template <typename T>
Q4J_DEVICE T narrow(float value);
template <>
Q4J_DEVICE float narrow<float>(float value) {
  return value;
}
template <>
Q4J_DEVICE bf16 narrow<bf16>(float value) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
}
template <>
Q4J_DEVICE f16 narrow<f16>(float value) {
  return {__half_as_ushort(__float2half_rn(value))};
}

/** Two values rounded to T, the first one in the low half. One instruction where narrow twice and a merge would be three. */
template <typename T>
Q4J_DEVICE uint32_t narrow_pair(float first, float second);
template <>
Q4J_DEVICE uint32_t narrow_pair<bf16>(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  return static_cast<uint32_t>(__bfloat16_as_ushort(pair.x)) | static_cast<uint32_t>(__bfloat16_as_ushort(pair.y)) << 16;
}
template <>
Q4J_DEVICE uint32_t narrow_pair<f16>(float first, float second) {
  const __half2 pair = __floats2half2_rn(first, second);
  return static_cast<uint32_t>(__half_as_ushort(pair.x)) | static_cast<uint32_t>(__half_as_ushort(pair.y)) << 16;
}

#else

template <typename T>
inline float widen(T value) {
  return to_f32(value);
}

template <typename T>
inline T narrow(float value) {
  return from_f32<T>(value);
}

template <typename T>
inline uint32_t narrow_pair(float first, float second) {
  return static_cast<uint32_t>(from_f32<T>(first).bits) | static_cast<uint32_t>(from_f32<T>(second).bits) << 16;
}

#endif

/** Eight elements as they lie in memory: 16 bytes, or 32 for f32. */
template <typename T>
struct Eight {
  static constexpr int kVectors = static_cast<int>(kEight * sizeof(T) / sizeof(Words4));
  Words4 vector[kVectors];
};

/** Element i of an Eight; i must be a constant after unrolling, so that the vectors stay in registers. */
template <typename T>
Q4J_DEVICE float element(const Eight<T>& eight, int i) {
  if constexpr (sizeof(T) == 4) {
    return bits_float(eight.vector[i / 4].word[i % 4]);
  } else {
    const uint32_t word = eight.vector[0].word[i / 2];
    T value;
    value.bits = static_cast<uint16_t>(i % 2 == 0 ? word & 0xffffu : word >> 16);
    return widen(value);
  }
}

/** Elements [from, from + 8) of the first n; those at n and beyond read as 0. `vectors`: `input` is aligned to 16 bytes. */
template <typename T>
Q4J_DEVICE Eight<T> load_eight(const T* input, int64_t from, int64_t n, bool vectors) {
  Eight<T> result;
  if (vectors && from + kEight <= n) {
    const auto* source = reinterpret_cast<const Words4*>(input + from);
    Q4J_UNROLL
    for (int v = 0; v < Eight<T>::kVectors; ++v) result.vector[v] = load_read_only(source + v);
    return result;
  }
  Q4J_UNROLL
  for (int v = 0; v < Eight<T>::kVectors; ++v) {
    Q4J_UNROLL
    for (int w = 0; w < 4; ++w) {
      if constexpr (sizeof(T) == 4) {
        const int64_t at = from + v * 4 + w;
        result.vector[v].word[w] = at < n ? float_bits(input[at]) : 0u;
      } else {
        const int64_t at = from + w * 2;
        const uint32_t low = at < n ? input[at].bits : 0u;
        const uint32_t high = at + 1 < n ? input[at + 1].bits : 0u;
        result.vector[v].word[w] = low | high << 16;
      }
    }
  }
  return result;
}

/** Writes eight values, rounded to T, to output[from ...] as far as n goes. `vectors`: `output` is aligned to 16 bytes. */
template <typename T>
Q4J_DEVICE void store_eight(T* output, int64_t from, int64_t n, bool vectors, const float (&value)[kEight]) {
  if (vectors && from + kEight <= n) {
    auto* target = reinterpret_cast<Words4*>(output + from);
    if constexpr (sizeof(T) == 4) {
      store(target, Words4{{float_bits(value[0]), float_bits(value[1]), float_bits(value[2]), float_bits(value[3])}});
      store(target + 1, Words4{{float_bits(value[4]), float_bits(value[5]), float_bits(value[6]), float_bits(value[7])}});
    } else {
      store(target, Words4{{narrow_pair<T>(value[0], value[1]), narrow_pair<T>(value[2], value[3]),
                            narrow_pair<T>(value[4], value[5]), narrow_pair<T>(value[6], value[7])}});
    }
    return;
  }
  Q4J_UNROLL
  for (int i = 0; i < kEight; ++i) {
    if (from + i < n) output[from + i] = narrow<T>(value[i]);
  }
}

/** Writes eight bytes, the first in the lowest bits, to output[from ...] as far as n goes. `words`: aligned to 8 bytes. */
Q4J_DEVICE void store_eight_bytes(uint8_t* output, int64_t from, int64_t n, bool words, const Words2& bytes) {
  if (words && from + kEight <= n) {
    store(reinterpret_cast<Words2*>(output + from), bytes);
    return;
  }
  Q4J_UNROLL
  for (int i = 0; i < kEight; ++i) {
    if (from + i < n) output[from + i] = static_cast<uint8_t>(bytes.word[i / 4] >> (8 * (i % 4)));
  }
}

/** The bytes from `from` on, 0 at n and beyond. `words`: `input` is aligned to 8 bytes. */
Q4J_DEVICE Words2 load_eight_bytes(const uint8_t* input, int64_t from, int64_t n, bool words) {
  if (words && from + kEight <= n) return load_read_only(reinterpret_cast<const Words2*>(input + from));
  Words2 bytes = {{0u, 0u}};
  Q4J_UNROLL
  for (int i = 0; i < kEight; ++i) {
    if (from + i < n) bytes.word[i / 4] |= static_cast<uint32_t>(input[from + i]) << (8 * (i % 4));
  }
  return bytes;
}

/** True when a pointer can be read or written `bytes` at a time. */
Q4J_DEVICE bool is_aligned(const void* pointer, uintptr_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_SUPPORT_ELEMENTS_H_
