// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Compares the operators of a pack with those of the reference pack, through the ABI alone: needs a C++ compiler, no CUDA, no
 * Java.
 *
 * A file of this folder holds the cases of one family of operators. A case is a function that computes on whatever pack it is
 * given and names its outputs with their tolerances; it runs on the reference, then on the pack, with the same random numbers:
 *
 *   void cases(const Options& options) {
 *     for (const int64_t n : {1, 33, 4096}) {
 *       register_case("rms_norm_forward", text("n %lld", n), [=](Run& run) {
 *         auto p = params<q4j_rms_norm_forward_params>();
 *         const Tensor& x = run.input(Q4J_BF16, 3, n, run.random.normal(3 * n, 1.0));
 *         const Tensor& y = run.output(Q4J_BF16, 3, n);
 *         ...
 *         run.call(q4j_rms_norm_forward, p);
 *         run.compare("y", y, Tolerance::rounded(Q4J_BF16, 2) + Tolerance::sum(n));
 *       });
 *     }
 *   }
 *   const Family family(&cases);
 */
#ifndef QLORA4J_GPU_PARITY_HARNESS_H_
#define QLORA4J_GPU_PARITY_HARNESS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "qlora4j/operators.h"

namespace q4j::parity {

/** What the command line asks of all cases. */
struct Options {
  bool small = false; /* shapes that compute-sanitizer and AddressSanitizer finish in seconds */
  bool guards =
      true; /* false: every allocation ends where its tensor ends, so that compute-sanitizer sees the first byte too many */
  uint64_t seed = 1;
};

std::string text(const char* format, ...) __attribute__((format(printf, 1, 2)));

/** A call answered with an error, or a tensor's surroundings were written to. */
class Failure : public std::runtime_error {
 public:
  Failure(q4j_status status, const std::string& what) : std::runtime_error(what), status_(status) {}
  q4j_status status() const { return status_; }

 private:
  q4j_status status_;
};

/** Throws a Failure with the error text unless `status` is Q4J_OK. */
void require(q4j_status status, const std::string& what);

/** A parameter struct of zeros with its size set. */
template <typename P>
P params() {
  P p = {};
  p.size = sizeof p;
  return p;
}

// ---------------------------------------------------------------- numbers

/** xorshift64*: the same numbers on every machine. */
class Random {
 public:
  explicit Random(uint64_t seed);

  uint64_t next();
  /** In [0, 1). */
  double uniform();
  /** Standard normal (Box and Muller, 1958). */
  double gaussian();
  /** In [0, bound). */
  int64_t below(int64_t bound);
  bool one_in(int64_t count) { return below(count) == 0; }

  std::vector<float> normal(int64_t count, double deviation);
  std::vector<float> uniform(int64_t count, double from, double to);
  /** Spread over many orders of magnitude, both signs, with some zeros. */
  std::vector<float> wide(int64_t count, double decades);
  std::vector<uint8_t> bytes(int64_t count);
  std::vector<int32_t> integers(int64_t count, int32_t bound);
  /** Puts about one NaN, infinity, zero, subnormal or huge number into every 400 values. */
  void sprinkle_specials(std::vector<float>* values);

 private:
  uint64_t state_;
};

/** The values as elements of `dtype` (f32, bf16, f16), rounded to nearest even. */
std::vector<uint8_t> narrow(const std::vector<float>& values, int32_t dtype);

template <typename T>
std::vector<uint8_t> bytes_of(const std::vector<T>& values) {
  const auto* first = reinterpret_cast<const uint8_t*>(values.data());
  return std::vector<uint8_t>(first, first + values.size() * sizeof(T));
}

/**
 * How far a result may be from the expected one, as an error model instead of a guess (tests/.../support/Tolerance.java is the
 * same model). An element passes when |actual - expected| <= relative * |expected| + share * largest, where `largest` is the
 * largest finite magnitude of the expected tensor, or `floor` where that is larger. The first term covers roundings of the
 * result itself, the second errors that were made before cancellation. NaN must meet NaN and an infinity the same infinity.
 */
struct Tolerance {
  double relative = 0;
  double share = 0;
  double floor = 0; /* size of the terms that were added, for results that cancel as a whole */
  std::string reason;
  bool same_bits = false;

  /** Bit for bit; a NaN may have any payload. */
  static Tolerance bits();
  /** Equal values: -0 is +0. */
  static Tolerance exact();
  /** Unit roundoff: half the distance of 1 and the next larger value. */
  static double roundoff(int32_t dtype);
  /**
   * Two results of the same exact value, each rounded to `dtype` in `steps` places: two roundoffs per place, because a tiny
   * difference before a rounding can become one step of the type after it.
   */
  static Tolerance rounded(int32_t dtype, int steps);
  /**
   * A sum of `terms` products in f32, in any order, against the exact sum: grows like the square root of the number of
   * roundings and is relative to the partial sums, for which the largest result stands in. The factor 8 covers the tail: the
   * largest of thousands of elements lies about four standard deviations out, and partial sums exceed results by as much as
   * two.
   */
  static Tolerance sum(int64_t terms);
  /** An intermediate was rounded to `dtype` on both sides and fell to different neighbours in a few places. */
  static Tolerance intermediate(int32_t dtype);
  /** A function of the math library or an approximation of it, accurate to `steps` roundoffs of f32. */
  static Tolerance function(int steps);
  /** A share of the largest magnitude. */
  static Tolerance of_largest(double share, const std::string& reason);

  /** The same, where terms of size `terms` may cancel in all elements at once. */
  Tolerance of_terms(double terms) const;
  double allowed(double expected, double largest) const;
};

/** Sum of two independent errors. */
Tolerance operator+(const Tolerance& a, const Tolerance& b);

/** One output of a case: a matrix of some type, as the bytes of its elements. */
struct Output {
  std::string name;
  int32_t dtype; /* q4j_dtype, or kF64 */
  int64_t cols;
  std::vector<uint8_t> elements; /* without gaps between rows */
  Tolerance tolerance;
};

constexpr int32_t kF64 = 100;

/** An output against the expected one, and its worst element. */
struct Comparison {
  int64_t elements = 0;
  int64_t failures = 0; /* elements beyond their tolerance */
  int64_t worst = -1;
  double share = 0;  /* of the tolerance that the worst element used; infinite where NaN, infinities or exact values differ */
  std::string where; /* the worst element in words */

  static Comparison of(const Output& expected, const Output& actual);
};

// ---------------------------------------------------------------- memory

/** An opened pack. */
class Context {
 public:
  /** `rungs`: the choice of versions while this context is made, or NULL to leave the environment as it is. */
  explicit Context(const std::string& pack, const char* rungs = nullptr);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  q4j_context* get() const { return context_; }
  bool on_cpu() const { return q4j_pack_device_kind(context_) == Q4J_DEVICE_CPU; }
  std::string name() const { return q4j_pack_name(context_); }

 private:
  q4j_context* context_ = nullptr;
};

/**
 * Device memory between guard bytes. All of it starts as a pattern that is a NaN as f32, bf16, f16 and f64 and nothing a kernel
 * computes as an integer; check() finds bytes around it that changed. With AddressSanitizer and a pack on the CPU, touching the
 * guards is reported at once.
 */
class Buffer {
 public:
  /** `offset`: bytes that the memory starts behind an address aligned for everything. */
  Buffer(const Context& context, int64_t bytes, int64_t offset, bool guarded);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void* data() const { return memory_ + front_; }
  int64_t bytes() const { return bytes_; }
  void put(const std::vector<uint8_t>& bytes);
  std::vector<uint8_t> get() const { return get(0, bytes_); }
  std::vector<uint8_t> get(int64_t at, int64_t bytes) const;
  /** Throws a Failure when a byte outside was written. */
  void check() const;

  /** Byte `i` of the pattern, counted from the start of the memory. */
  static uint8_t pattern(int64_t i) { return (i & 1) == 0 ? 0xc5 : 0xff; }

 private:
  void poison(bool on) const;

  const Context& context_;
  bool guarded_;
  int64_t bytes_;
  int64_t front_;
  int64_t back_;
  unsigned char* memory_ = nullptr;
};

/** How a matrix lies in memory. */
struct Layout {
  int64_t ld = 0;     /* elements between two rows; 0: as many as there are columns */
  int64_t offset = 0; /* elements that its base lies behind an aligned address */
};

/** A matrix in device memory. Ends with its last element: behind it, and between its rows where ld > cols, lie guard bytes. */
class Tensor {
 public:
  Tensor(const Context& context, int32_t dtype, int64_t rows, int64_t cols, Layout layout, bool guarded);

  void* data() const { return buffer_.data(); }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t ld() const { return ld_; }
  int32_t dtype() const { return dtype_; }

  /** Elements without gaps. */
  void put(const std::vector<uint8_t>& elements);
  std::vector<uint8_t> get() const;
  void check() const;

 private:
  int32_t dtype_;
  int64_t rows_;
  int64_t cols_;
  int64_t ld_;
  bool guarded_;
  Buffer buffer_;
};

// ---------------------------------------------------------------- cases

/** How a weight matrix is stored. */
struct WeightKind {
  int32_t format = Q4J_WEIGHT_DENSE; /* q4j_weight_format */
  int32_t dtype = Q4J_BF16;
  int32_t block_size = 64;
  int32_t nested_block_size = 0;
  bool packed = false; /* 4-bit: rearranged by the pack's own pack_weight */
};

/** One execution of a case on one pack: its memory, its random numbers, what it computed. */
class Run {
 public:
  Run(const Context& pack, const Context& reference, const Options& options, uint64_t seed);

  /** The same numbers on both packs, as long as the case draws them in the same order. */
  Random random;

  q4j_context* context() const { return pack_.get(); }
  const Options& options() const { return options_; }

  /** A matrix with these values, rounded to `dtype`. */
  Tensor& input(int32_t dtype, int64_t rows, int64_t cols, const std::vector<float>& values, Layout layout = {});
  /** A matrix with these elements. */
  Tensor& input_bytes(int32_t dtype, int64_t rows, int64_t cols, const std::vector<uint8_t>& elements, Layout layout = {});
  /** A matrix of NaN patterns. */
  Tensor& output(int32_t dtype, int64_t rows, int64_t cols, Layout layout = {});

  /**
   * A weight [rows, cols] with these values, quantized by the reference, so that both packs get the same bits. `layout` is that
   * of a dense weight; of the others, whose rows are contiguous, only the offset counts.
   */
  q4j_weight weight(const WeightKind& kind, int64_t rows, int64_t cols, const std::vector<float>& values, Layout layout = {});
  /** A LoRA branch for a weight [n, k] with random a and b and rank > 0. */
  q4j_lora lora(int32_t rank, int64_t n, int64_t k, int32_t compute, float dropout = 0.0f);

  /** Calls an operator. */
  template <typename P>
  void call(q4j_status (*function)(q4j_context*, const P*), const P& p) {
    require(function(context(), &p), "call");
  }
  /** Calls an operator with the workspace it asks for. */
  template <typename P>
  void call(q4j_status (*function)(q4j_context*, const P*), q4j_status (*workspace_size)(q4j_context*, const P*, int64_t*),
            P p) {
    require(workspace_size(context(), &p, &p.workspace_bytes), "workspace_size");
    p.workspace = p.workspace_bytes > 0 ? output(Q4J_U8, 1, p.workspace_bytes).data() : nullptr;
    require(function(context(), &p), "call");
  }

  /** Names a result, which the operator has written: elements that still hold the pattern fail the case. */
  void compare(const std::string& name, const Tensor& tensor, const Tolerance& tolerance);
  void compare(const std::string& name, double value, const Tolerance& tolerance);

  const std::vector<Output>& outputs() const { return outputs_; }
  void check_guards() const;

 private:
  void quantize_4bit(const WeightKind& kind, const std::vector<float>& values, int64_t offset, q4j_weight* w);
  void quantize_rowwise(const WeightKind& kind, const std::vector<float>& values, int64_t offset, q4j_weight* w);

  const Context& pack_;
  const Context& reference_;
  const Options& options_;
  std::vector<std::unique_ptr<Tensor>> tensors_;
  std::vector<Output> outputs_;
};

using Compute = std::function<void(Run&)>;

struct Case {
  std::string operator_name;
  std::string name;
  Compute compute;
};

/** Adds a case of the ABI's operator `operator_name`; `name` says shape and options. Called from a Family's function. */
void register_case(const std::string& operator_name, const std::string& name, Compute compute);

/** Makes the cases of one file known: define one as a static constant. */
class Family {
 public:
  explicit Family(void (*cases)(const Options&));
};

/** The cases of all families, in the order of the ABI's operators. Throws a Failure for an operator that the ABI lacks. */
std::vector<Case> all_cases(const Options& options);

/** What came of one case. */
struct Verdict {
  enum Kind { kPassed, kFailed, kUnsupported } kind = kPassed;
  bool fatal = false; /* the device answers no call any more */
  double share = 0;   /* of its tolerance that the worst output used */
  std::string detail; /* the worst element, or what went wrong */
};

/** Runs a case on both packs and compares; on a GPU twice, and the second run must give the same bits. */
Verdict check(const Case& c, const Context& pack, const Context& reference, const Options& options);

}  // namespace q4j::parity

#endif  // QLORA4J_GPU_PARITY_HARNESS_H_
