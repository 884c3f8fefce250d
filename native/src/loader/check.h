// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The vocabulary validate.cpp is written in: a chain of checks of which the first that fails decides. */
#ifndef QLORA4J_LOADER_CHECK_H_
#define QLORA4J_LOADER_CHECK_H_

#include <cmath>
#include <cstdint>

#include "error.h"
#include "half.h"
#include "validate.h"

namespace q4j::loader {

/** No array may have more elements than this (2^48). Products below it, times the bytes of an f64, stay far inside int64. */
constexpr int64_t max_elements = int64_t{1} << 48;

/** A row-major matrix in memory, for overlap checks. */
struct Region {
  const char* name;
  const void* data;
  int64_t rows;
  int64_t cols;
  int64_t ld;
  int64_t element_bytes;
};

/**
 * Every method takes the name of the field and its value, and by default the line it is called from, which the error text
 * shows. After a failure the rest of the chain does nothing.
 */
class Check {
 public:
  Check(const char* operation, Phase phase) : operation_(operation), phase_(phase) {}

  q4j_status status() const { return status_; }
  bool ok() const { return status_ == Q4J_OK; }

  /** f32 or bf16: the types activations have. */
  Check& activation_type(const char* name, int32_t dtype, int line = __builtin_LINE()) {
    if (ok() && dtype != Q4J_F32 && dtype != Q4J_BF16) {
      fail_at(line, "%s: %s must be f32 (0) or bf16 (1), found %s (%d)", operation_, name, dtype_name(dtype), dtype);
    }
    return *this;
  }

  /** f32, bf16 or f16. */
  Check& float_type(const char* name, int32_t dtype, int line = __builtin_LINE()) {
    if (ok() && dtype != Q4J_F32 && dtype != Q4J_BF16 && dtype != Q4J_F16) {
      fail_at(line, "%s: %s must be f32 (0), bf16 (1) or f16 (2), found %s (%d)", operation_, name, dtype_name(dtype), dtype);
    }
    return *this;
  }

  Check& in_range(const char* name, int64_t value, int64_t low, int64_t high, int line = __builtin_LINE()) {
    if (ok() && (value < low || value > high)) {
      fail_at(line, "%s: %s must be in [%lld, %lld], found %lld", operation_, name, ll(low), ll(high), ll(value));
    }
    return *this;
  }

  Check& flag(const char* name, int32_t value, int line = __builtin_LINE()) { return in_range(name, value, 0, 1, line); }

  /** The distance between rows is at least a row's length, also where there are fewer than two rows. */
  Check& leading_dimension(const char* name, int64_t ld, int64_t rows, int64_t cols, int line = __builtin_LINE()) {
    if (ok() && ld < cols) {
      fail_at(line, "%s: %s must be at least the %lld columns of its matrix, found %lld", operation_, name, ll(cols), ll(ld));
    }
    return elements(name, rows, ld, line);
  }

  /** Counts that may be zero. */
  Check& count(const char* name, int64_t value, int line = __builtin_LINE()) {
    return in_range(name, value, 0, max_elements, line);
  }

  /** Sizes that may not be zero. */
  Check& size(const char* name, int64_t value, int line = __builtin_LINE()) {
    return in_range(name, value, 1, max_elements, line);
  }

  /** rows * cols within bounds. */
  Check& elements(const char* name, int64_t rows, int64_t cols, int line = __builtin_LINE()) {
    int64_t product = 0;
    if (ok() && (__builtin_mul_overflow(rows, cols, &product) || product > max_elements)) {
      fail_at(line, "%s: %s spans %lld * %lld elements, more than 2^48", operation_, name, ll(rows), ll(cols));
    }
    return *this;
  }

  Check& block_size(const char* name, int32_t value, int line = __builtin_LINE()) {
    if (ok() && (value < 32 || value > 4096 || (value & (value - 1)) != 0)) {
      fail_at(line, "%s: %s must be a power of two in [32, 4096], found %d", operation_, name, value);
    }
    return *this;
  }

  Check& finite(const char* name, double value, int line = __builtin_LINE()) {
    if (ok() && !std::isfinite(value)) fail_at(line, "%s: %s must be finite, found %g", operation_, name, value);
    return *this;
  }

  Check& at_least_zero(const char* name, double value, int line = __builtin_LINE()) {
    if (ok() && !(value >= 0.0 && std::isfinite(value)))
      fail_at(line, "%s: %s must be finite and at least 0, found %g", operation_, name, value);
    return *this;
  }

  /** A probability or decay rate: [0, 1). */
  Check& fraction(const char* name, double value, int line = __builtin_LINE()) {
    if (ok() && !(value >= 0.0 && value < 1.0)) fail_at(line, "%s: %s must be in [0, 1), found %g", operation_, name, value);
    return *this;
  }

  /** Not NULL, when the call runs and `needed` (normally: the array has elements). */
  Check& pointer(const char* name, const void* value, bool needed = true, int line = __builtin_LINE()) {
    if (ok() && phase_ == Phase::run && needed && value == nullptr) fail_at(line, "%s: %s is NULL", operation_, name);
    return *this;
  }

  /** Not NULL in either phase: a host struct or array the shapes are read from. */
  Check& given(const char* name, const void* value, int line = __builtin_LINE()) {
    if (ok() && value == nullptr) fail_at(line, "%s: %s is NULL", operation_, name);
    return *this;
  }

  /** NULL or a multiple of `alignment`. */
  Check& aligned(const char* name, const void* value, uintptr_t alignment, int line = __builtin_LINE()) {
    if (ok() && reinterpret_cast<uintptr_t>(value) % alignment != 0) {
      fail_at(line, "%s: %s must be aligned to %lld bytes, found %p", operation_, name, ll(static_cast<int64_t>(alignment)),
              value);
    }
    return *this;
  }

  Check& that(bool condition, const char* expectation, int64_t found, int line = __builtin_LINE()) {
    if (ok() && !condition) fail_at(line, "%s: %s, found %lld", operation_, expectation, ll(found));
    return *this;
  }

  Check& equal(const char* name, int64_t value, const char* other_name, int64_t other, int line = __builtin_LINE()) {
    if (ok() && value != other)
      fail_at(line, "%s: %s is %lld but %s is %lld; they must be equal", operation_, name, ll(value), other_name, ll(other));
    return *this;
  }

  /** No element of the output in the input's memory. */
  Check& apart(const Region& output, const Region& input, int line = __builtin_LINE()) {
    if (ok() && phase_ == Phase::run && overlap(output, input)) {
      fail_at(line, "%s: %s overlaps %s", operation_, output.name, input.name);
    }
    return *this;
  }

  /** The same memory with the same leading dimension, or none of it. */
  Check& same_or_apart(const Region& output, const Region& input, int line = __builtin_LINE()) {
    const bool same = output.data == input.data && (output.ld == input.ld || output.rows <= 1);
    return same ? *this : apart(output, input, line);
  }

  const char* operation() const { return operation_; }
  Phase phase() const { return phase_; }

  /** For checks that do not fit a method: records the failure with its line in validate.cpp. */
  template <typename... Arguments>
  void fail_at(int line, const char* format, Arguments... arguments) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    status_ = fail(Q4J_INVALID_ARGUMENT, "validate.cpp", line, nullptr, format, arguments...);
#pragma GCC diagnostic pop
  }

 private:
  static long long ll(int64_t value) { return static_cast<long long>(value); }

  /** Exact for contiguous arrays and for columns of one matrix; other strided arrays that interleave are let through. */
  static bool overlap(const Region& a, const Region& b) {
    if (a.data == nullptr || b.data == nullptr || a.rows <= 0 || b.rows <= 0 || a.cols <= 0 || b.cols <= 0) return false;
    const auto begin = [](const Region& r) { return reinterpret_cast<std::uintptr_t>(r.data); };
    const auto end = [&](const Region& r) {
      return begin(r) + static_cast<std::uintptr_t>(((r.rows - 1) * r.ld + r.cols) * r.element_bytes);
    };
    if (end(a) <= begin(b) || end(b) <= begin(a)) return false;
    const bool contiguous = (a.ld == a.cols || a.rows == 1) && (b.ld == b.cols || b.rows == 1);
    if (contiguous) return true;
    if (a.ld != b.ld || a.element_bytes != b.element_bytes) return false;
    const Region& low = begin(a) <= begin(b) ? a : b;
    const Region& high = begin(a) <= begin(b) ? b : a;
    const int64_t offset = static_cast<int64_t>((begin(high) - begin(low)) / static_cast<std::uintptr_t>(low.element_bytes));
    const int64_t column = offset % low.ld;
    return column < low.cols || column + high.cols > low.ld;
  }

  const char* operation_;
  Phase phase_;
  q4j_status status_ = Q4J_OK;
};

}  // namespace q4j::loader

#endif  // QLORA4J_LOADER_CHECK_H_
