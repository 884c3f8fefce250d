// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The reference pack: every operator in plain scalar C++, the oracle for every other pack.
 *
 * Rules all files keep: sums are made in f64 and rounded once where the ABI says so (operators.h); nothing allocates, scratch
 * comes from the caller's workspace; arguments were validated by the loader. Loops are ordered so that inner loops walk memory,
 * and that is all the tuning there is.
 */
#ifndef QLORA4J_REFERENCE_REFERENCE_H_
#define QLORA4J_REFERENCE_REFERENCE_H_

#include <cstddef>
#include <cstdint>

#include "error.h"
#include "half.h"
#include "qlora4j/pack.h"

struct q4j_pack_context {
  int32_t unused;  // the reference keeps no state: one thread, no handles
};

namespace q4j::reference {

#define Q4J_DECLARE(name) q4j_status name(q4j_pack_context*, const q4j_##name##_params*);
#define Q4J_DECLARE_SIZE(name) q4j_status name##_workspace_size(q4j_pack_context*, const q4j_##name##_params*, int64_t*);
Q4J_FOR_EACH_OPERATOR(Q4J_DECLARE)
Q4J_FOR_EACH_WORKSPACE(Q4J_DECLARE_SIZE)
#undef Q4J_DECLARE
#undef Q4J_DECLARE_SIZE

/** Calls body(T{}) with T the element type `dtype` names: float, bf16 or f16. The loader let no other type through. */
template <typename Body>
static inline void with_type(int32_t dtype, Body body) {
  if (dtype == Q4J_BF16) {
    body(bf16{});
  } else if (dtype == Q4J_F16) {
    body(f16{});
  } else {
    body(float{});
  }
}

/** Element `index` of an array of `dtype`, widened. For small arrays such as a bias; loops over matrices use with_type. */
static inline float load(const void* data, int32_t dtype, int64_t index) {
  if (dtype == Q4J_BF16) return to_f32(static_cast<const bf16*>(data)[index]);
  if (dtype == Q4J_F16) return to_f32(static_cast<const f16*>(data)[index]);
  return static_cast<const float*>(data)[index];
}

/** Rounds an f64 result to f32 and then to T: for bf16 the first rounding moves the result by at most 2^-24 of its size. */
template <typename T>
static inline T rounded(double value) {
  return from_f32<T>(static_cast<float>(value));
}

/** Hands out consecutive, 64-byte aligned pieces of a workspace; with a null workspace it only counts. */
class Scratch {
 public:
  explicit Scratch(void* workspace) : begin_(static_cast<unsigned char*>(workspace)) {}

  template <typename T>
  T* take(int64_t count) {
    unsigned char* piece = begin_ == nullptr ? nullptr : begin_ + used_;
    used_ += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return reinterpret_cast<T*>(piece);
  }

  int64_t used() const { return used_; }

 private:
  unsigned char* begin_;
  int64_t used_ = 0;
};

}  // namespace q4j::reference

#endif  // QLORA4J_REFERENCE_REFERENCE_H_
