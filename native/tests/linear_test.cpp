// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * linear_forward, linear_backward_input, lora_weight_gradient and linear_weight_gradient of one pack against loops in f64.
 *
 * usage: linear_test PACK.so [cases per operator] [seed]
 *
 * Shapes around every tile and block size are drawn at random from a fixed seed, with everything the operators offer switched
 * on and off: types, formats, block sizes, double quantization, ranks, branch modes, dropout, bias, residual, strides. Each
 * case runs with 1 to 4 threads, which must agree bit for bit, with a workspace of exactly the promised size full of NaN, with
 * NaN between the rows of strided inputs, and with guards between the rows of strided outputs.
 *
 * Tolerance, element by element: a sum of t products in f32 is off by at most (t + 8) * 2^-24 * (sum of magnitudes), whatever
 * its order; 8 covers the factors, bias and residual. A bf16 result adds 2^-8 of itself (its rounding, and once more where the
 * error above moves it over a boundary). Flushed denormals add 1e-36. Where the exact result is not finite, the result must be
 * the same infinity or a NaN as well. An INT8 weight times bf16 activations is one term here: the codes of x follow a rule of
 * one possible result, and their products are summed exactly.
 *
 * The narrow outputs xa and dyb are checked first; the wide ones are then expected to follow from the xa or dyb the operator
 * returned.
 */
#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <random>
#include <string>
#include <vector>

#include "qlora4j/pack.h"
#include "support/half.h"
#include "support/philox.h"
#include "support/quant.h"

namespace {

using q4j::bf16;
using q4j::f16;

constexpr int kThreads[] = {1, 2, 3, 4};

int passed = 0;
int failed = 0;
double worst_share = 0;  // of the tolerance
std::string worst_case;

/** Memory of exactly the given size: the page behind it cannot be touched, or a sanitizer sees any access beyond it. */
class Buffer {
 public:
  explicit Buffer(int64_t bytes, int fill = 0xff) : bytes_(bytes) {
    if (bytes == 0) return;
#if defined(__SANITIZE_ADDRESS__)
    data_ = std::malloc(static_cast<size_t>(bytes));
#else
    mapped_ = (static_cast<size_t>(bytes) + kPage - 1) / kPage * kPage + kPage;
    mapping_ = static_cast<char*>(mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (mapping_ == MAP_FAILED || mprotect(mapping_ + mapped_ - kPage, kPage, PROT_NONE) != 0) std::abort();
    data_ = mapping_ + mapped_ - kPage - bytes;
#endif
    std::memset(data_, fill, static_cast<size_t>(bytes));
  }
  Buffer(const Buffer& other) : Buffer(other.bytes_) {
    if (data_ != nullptr) std::memcpy(data_, other.data_, static_cast<size_t>(bytes_));
  }
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
#if defined(__SANITIZE_ADDRESS__)
    std::free(data_);
#else
    if (mapping_ != nullptr) munmap(mapping_, mapped_);
#endif
  }

  void* get() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  bool equals(const Buffer& other) const {
    return bytes_ == other.bytes_ && (bytes_ == 0 || std::memcmp(data_, other.data_, static_cast<size_t>(bytes_)) == 0);
  }

 private:
  int64_t bytes_;
  void* data_ = nullptr;
#if !defined(__SANITIZE_ADDRESS__)
  static constexpr size_t kPage = 4096;
  size_t mapped_ = 0;
  char* mapping_ = nullptr;
#endif
};

/** A matrix in one of the storage types, with its values in f64. */
struct Matrix {
  Matrix(int64_t rows_in, int64_t cols_in, int64_t ld_in, int32_t dtype_in)
      : rows(rows_in), cols(cols_in), ld(ld_in), dtype(dtype_in), memory(rows_in * ld_in * q4j::dtype_bytes(dtype_in)) {}

  double at(int64_t row, int64_t col) const {
    const int64_t i = row * ld + col;
    if (dtype == Q4J_F32) return static_cast<double>(memory.as<float>()[i]);
    if (dtype == Q4J_BF16) return static_cast<double>(q4j::to_f32(memory.as<bf16>()[i]));
    return static_cast<double>(q4j::to_f32(memory.as<f16>()[i]));
  }
  void set(int64_t row, int64_t col, float value) {
    const int64_t i = row * ld + col;
    if (dtype == Q4J_F32) memory.as<float>()[i] = value;
    if (dtype == Q4J_BF16) memory.as<bf16>()[i] = q4j::bf16_from_f32(value);
    if (dtype == Q4J_F16) memory.as<f16>()[i] = q4j::f16_from_f32(value);
  }
  // Bytes between the rows still hold what they were filled with.
  bool guards_intact() const {
    const int64_t bytes = q4j::dtype_bytes(dtype);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = (row * ld + cols) * bytes; i < (row + 1) * ld * bytes; ++i) {
        if (memory.as<uint8_t>()[i] != 0xff) return false;
      }
    }
    return true;
  }

  int64_t rows, cols, ld;
  int32_t dtype;
  Buffer memory;
};

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  int64_t below(int64_t bound) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(bound)); }
  bool chance(int percent) { return below(100) < percent; }
  template <class T, size_t N>
  T pick(const T (&values)[N]) {
    return values[below(static_cast<int64_t>(N))];
  }
  float normal() { return normal_(engine_); }
  /** Puts rows of zeros and rows with a NaN or an infinity into a matrix, now and then. */
  void disturb(Matrix& matrix) {
    if (!chance(15) || matrix.cols == 0) return;
    for (int64_t row = 0; row < matrix.rows; ++row) {
      if (chance(15)) {
        for (int64_t col = 0; col < matrix.cols; ++col) matrix.set(row, col, 0.0f);
      }
      if (chance(15)) matrix.set(row, below(matrix.cols), pick({NAN, INFINITY, -INFINITY}));
    }
  }
  Matrix matrix(int64_t rows, int64_t cols, int64_t ld, int32_t dtype) {
    Matrix result(rows, cols, ld, dtype);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t col = 0; col < cols; ++col) result.set(row, col, normal());
    }
    return result;
  }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<float> normal_;
};

constexpr int32_t kFormats[] = {Q4J_WEIGHT_DENSE, Q4J_WEIGHT_NF4,  Q4J_WEIGHT_NF4, Q4J_WEIGHT_FP4,
                                Q4J_WEIGHT_INT8,  Q4J_WEIGHT_INT8, Q4J_WEIGHT_FP8, Q4J_WEIGHT_FP8};

/** The blocks of a 4-bit weight; any if `size` is 0. */
struct Blocks {
  int32_t size = 0;
  int32_t nested = 0;
};

/** A weight in any format. */
struct TestWeight {
  TestWeight(Random& random, int64_t rows, int64_t cols) : TestWeight(random, rows, cols, random.pick(kFormats)) {}
  TestWeight(Random& random, int64_t rows, int64_t cols, int32_t format_in, const Blocks& forced = {})
      : ld(cols + (random.chance(30) ? 3 : 0)),
        format(format_in),
        rowwise(format == Q4J_WEIGHT_INT8 || format == Q4J_WEIGHT_FP8),
        dense(random.matrix(format == Q4J_WEIGHT_DENSE ? rows : 0, cols, ld, random.pick({Q4J_F32, Q4J_BF16, Q4J_F16}))),
        block_size(forced.size != 0 ? forced.size : random.pick({32, 64, 64, 128, 4096})),
        nested(rowwise             ? 0
               : forced.size != 0  ? forced.nested
               : random.chance(50) ? random.pick({32, 64, 256, 256, 4096})
                                   : 0),
        blocks(rowwise ? rows : (rows * cols + block_size - 1) / block_size),
        packed(rowwise ? rows * cols : (rows * cols + 1) / 2),
        absmax(blocks * (nested != 0 ? 1 : 4)),
        nested_absmax(nested == 0 ? 0 : (blocks + nested - 1) / nested * 4) {
    const bool has_nan = random.chance(20);
    for (int64_t i = 0; i < (rowwise ? rows * cols : (rows * cols + 1) / 2); ++i) {
      uint8_t code = static_cast<uint8_t>(random.below(256));
      // A NaN hides its whole row or column.
      if (format == Q4J_WEIGHT_FP8 && (code & 0x7f) == 0x7f && !(has_nan && random.chance(2))) code = 1;
      packed.as<uint8_t>()[i] = code;
    }
    for (int64_t i = 0; i < blocks; ++i) {
      if (nested != 0) {
        absmax.as<uint8_t>()[i] = static_cast<uint8_t>(random.below(256));
      } else {
        absmax.as<float>()[i] = std::fabs(random.normal());
        if (rowwise && has_nan && random.chance(3)) absmax.as<float>()[i] = random.pick({NAN, INFINITY, 0.0f});
      }
    }
    for (int64_t i = 0; nested != 0 && i < (blocks + nested - 1) / nested; ++i) {
      nested_absmax.as<float>()[i] = std::fabs(random.normal());
    }
    weight = {};
    weight.size = sizeof weight;
    weight.format = format;
    weight.dtype = dense.dtype;
    weight.block_size = block_size;
    weight.nested_block_size = nested;
    weight.nested_offset = nested != 0 ? 0.7f : 0.0f;
    weight.rows = rows;
    weight.cols = cols;
    weight.ld = ld;
    weight.data = format == Q4J_WEIGHT_DENSE ? dense.memory.get() : packed.get();
    weight.absmax = absmax.get();
    weight.nested_absmax = nested_absmax.get();
  }

  /** The element as the operators use it. */
  double used(int64_t row, int64_t col, int32_t dtype) const {
    const float value = this->value(row, col);
    return static_cast<double>(dtype == Q4J_BF16 ? q4j::round_to_bf16(value) : value);
  }
  float value(int64_t row, int64_t col) const {
    const int64_t i = row * weight.cols + col;
    if (format == Q4J_WEIGHT_DENSE) return static_cast<float>(dense.at(row, col));
    if (format == Q4J_WEIGHT_INT8) {
      return static_cast<float>(packed.as<int8_t>()[i]) * absmax.as<float>()[row] * (1.0f / 127.0f);
    }
    if (format == Q4J_WEIGHT_FP8) return q4j::to_f32(packed.as<q4j::e4m3>()[i]) * absmax.as<float>()[row];
    return q4j::dequantized_4bit(weight, i);
  }
  /** Whether the codes of x are multiplied with the weight's. */
  bool multiplies_codes(int32_t dtype) const { return format == Q4J_WEIGHT_INT8 && dtype == Q4J_BF16; }

  int64_t ld;
  int32_t format;
  bool rowwise;
  Matrix dense;
  int32_t block_size;
  int32_t nested;
  int64_t blocks;
  Buffer packed, absmax, nested_absmax;
  q4j_weight weight;
};

/** A LoRA branch. */
struct TestLora {
  TestLora(Random& random, int64_t n, int64_t k)
      : rank(random.pick({0, 1, 4, 8, 9, 16, 33, 64})),
        a(random.matrix(rank, k, k, Q4J_F32)),
        b(random.matrix(n, rank, rank, Q4J_F32)) {
    lora.size = sizeof lora;
    lora.rank = static_cast<int32_t>(rank);
    lora.s = random.pick({2.0f, 0.37f, 1.0f});
    lora.compute = random.pick({Q4J_LORA_FAST, Q4J_LORA_F32});
    lora.a = a.memory.get();
    lora.b = b.memory.get();
    lora.dropout = {sizeof lora.dropout,      random.pick({0.0f, 0.0f, 0.1f, 0.5f}), 0x123456789abcdef0u, 7, 3, 11, 0,
                    random.below(3) * 1000003};
  }

  bool rounds(int32_t dtype) const { return dtype == Q4J_BF16 && lora.compute == Q4J_LORA_FAST; }
  double used(const Matrix& m, int64_t row, int64_t col, int32_t dtype) const {
    return rounds(dtype) ? static_cast<double>(q4j::round_to_bf16(static_cast<float>(m.at(row, col)))) : m.at(row, col);
  }
  // 0 or the scale of a kept element.
  double mask(int64_t row, int64_t k, int64_t col) const {
    if (lora.dropout.probability <= 0) return 1;
    const bool keeps = q4j::dropout_keeps(lora.dropout, q4j::dropout_threshold(lora.dropout.probability), row, k, col);
    return keeps ? static_cast<double>(q4j::dropout_scale(lora.dropout.probability)) : 0;
  }

  int64_t rank;
  Matrix a, b;
  q4j_lora lora = {};
};

/** A row of x in INT8 codes: quantize_int8_rowwise without outliers. */
struct CodedRow {
  CodedRow(const Matrix& x, int64_t row) : codes(static_cast<size_t>(x.cols)) {
    float most = 0;
    for (int64_t i = 0; i < x.cols; ++i) most = q4j::absmax_of(most, static_cast<float>(x.at(row, i)));
    const float scale = 127.0f / most;
    for (int64_t i = 0; i < x.cols; ++i) {
      const float scaled = static_cast<float>(x.at(row, i)) * scale;
      codes[static_cast<size_t>(i)] = std::fabs(scaled) <= 127.5f ? static_cast<int>(std::nearbyint(scaled)) : 0;
    }
    absmax = static_cast<double>(most);
  }
  double times(const TestWeight& w, int64_t row) const {
    int64_t sum = 0;
    for (int64_t i = 0; i < w.weight.cols; ++i) {
      sum += codes[static_cast<size_t>(i)] * w.packed.as<int8_t>()[row * w.weight.cols + i];
    }
    return static_cast<double>(sum) * absmax * static_cast<double>(w.absmax.as<float>()[row]) / (127.0 * 127.0);
  }

  std::vector<int> codes;
  double absmax;
};

/** A sum with what its tolerance needs. */
struct Sum {
  double value = 0;
  double magnitude = 0;
  int64_t terms = 0;
  void add(double term) {
    value += term;
    magnitude += std::fabs(term);
    ++terms;
  }
};

class Check {
 public:
  Check(std::string name, uint64_t seed) : name_(std::move(name)), seed_(seed) {}

  void element(const char* what, int64_t row, int64_t col, double found, const Sum& expected, bool rounded_to_bf16) {
    if (!std::isfinite(expected.value)) {
      if (std::isnan(expected.value) ? !std::isnan(found) : found != expected.value) {
        fail(what, row, col, found, expected.value);
      }
      return;
    }
    double tolerance = static_cast<double>(expected.terms + 8) * 0x1p-24 * expected.magnitude + 1e-36;
    if (rounded_to_bf16) tolerance += std::fabs(expected.value) * 0x1p-8;
    const double share = std::fabs(found - expected.value) / tolerance;
    if (share > worst_share) {
      worst_share = share;
      worst_case = name_ + " " + what;
    }
    if (!(share <= 1)) fail(what, row, col, found, expected.value, tolerance);
  }

  void fail(const char* what, int64_t row = -1, int64_t col = -1, double found = 0, double expected = 0, double tolerance = 0) {
    if (ok_) {
      std::printf("FAILED %s seed=%llu: %s (%lld, %lld) found %.9g expected %.9g tolerance %.3g\n", name_.c_str(),
                  static_cast<unsigned long long>(seed_), what, static_cast<long long>(row), static_cast<long long>(col), found,
                  expected, tolerance);
    }
    ok_ = false;
  }

  ~Check() { ++(ok_ ? passed : failed); }
  Check(const Check&) = delete;
  Check& operator=(const Check&) = delete;

 private:
  std::string name_;
  uint64_t seed_;
  bool ok_ = true;
};

const q4j_pack* pack = nullptr;
q4j_pack_context* contexts[4] = {};

constexpr int64_t kSizes[] = {1,  2,  3,  5,  6,  7,  8,  11, 12,  13,  15,  16,  17,  23,  24,  25, 31,
                              32, 33, 48, 63, 64, 65, 96, 97, 127, 128, 129, 192, 200, 257, 385, 800};

int64_t size(Random& random) { return random.chance(2) ? 0 : random.pick(kSizes); }

/**
 * Runs an operator with every number of threads on copies of the outputs and leaves the first result in them. `bind` puts the
 * outputs' addresses into the parameters.
 */
template <class Params, class Size, class Run, class Bind>
void run_all(Check& check, Params& params, Size workspace_size, Run run, const std::vector<Matrix*>& outputs, Bind bind) {
  std::vector<Matrix> originals;
  for (const Matrix* output : outputs) originals.push_back(*output);
  for (int i = 0; i < 4; ++i) {
    std::vector<Matrix> copies(originals);
    std::vector<Matrix*> targets;
    for (size_t j = 0; j < outputs.size(); ++j) targets.push_back(i == 0 ? outputs[j] : &copies[j]);
    bind(targets);
    int64_t bytes = -1;
    if (workspace_size(contexts[i], &params, &bytes) != Q4J_OK || bytes < 0) return check.fail("workspace size");
    const Buffer workspace(bytes);
    params.workspace = workspace.get();
    params.workspace_bytes = bytes;
    if (run(contexts[i], &params) != Q4J_OK) return check.fail("status");
    for (size_t j = 0; i > 0 && j < outputs.size(); ++j) {
      if (!outputs[j]->memory.equals(copies[j].memory)) check.fail("same bits with another number of threads", kThreads[i]);
    }
  }
  for (const Matrix* output : outputs) {
    if (!output->guards_intact()) check.fail("guards between rows");
  }
}

std::string shape(const char* name, int64_t m, int64_t n, int64_t k, int32_t dtype) {
  char text[160];
  std::snprintf(text, sizeof text, "%s %s m=%lld n=%lld k=%lld", name, q4j::dtype_name(dtype), static_cast<long long>(m),
                static_cast<long long>(n), static_cast<long long>(k));
  return text;
}

std::string describe(const TestWeight& w, const TestLora& l, bool branch) {
  char text[160];
  std::snprintf(text, sizeof text, " format=%d block=%d nested=%d rank=%d compute=%d dropout=%g", w.format, w.block_size,
                w.nested, branch ? l.lora.rank : -1, l.lora.compute, static_cast<double>(l.lora.dropout.probability));
  return text;
}

/** Parameters of a forward of the first m rows of x; y, and what else there is, are still to come. */
q4j_linear_forward_params forward_params(const Matrix& x, int64_t m, const q4j_weight& weight) {
  q4j_linear_forward_params p = {};
  p.size = sizeof p;
  p.dtype = x.dtype;
  p.m = m;
  p.weight = &weight;
  p.x = x.memory.get();
  p.ldx = x.ld;
  return p;
}

void test_forward(Random& random, uint64_t seed, int64_t m, int64_t n, int64_t k, int32_t format, const Blocks& blocks = {}) {
  const int32_t dtype = random.pick({Q4J_F32, Q4J_BF16});
  const TestWeight w(random, n, k, format, blocks);
  const TestLora l(random, n, k);
  const bool branch = random.chance(80);
  const int64_t rank = branch ? l.rank : 0;
  Matrix x = random.matrix(m, k, k + (random.chance(40) ? 5 : 0), dtype);
  random.disturb(x);
  const Matrix bias = random.matrix(1, n, n, random.pick({Q4J_F32, Q4J_BF16}));
  const bool has_bias = random.chance(40);
  const int64_t ldy = n + (random.chance(40) ? 7 : 0);
  const Matrix residual = random.matrix(m, n, ldy, dtype);
  const bool has_residual = random.chance(40);
  const bool in_place = has_residual && random.chance(50);
  const bool only_xa = rank > 0 && random.chance(5);
  Matrix y = in_place ? residual : Matrix(m, n, ldy, dtype);
  Matrix xa(m, rank, rank, Q4J_F32);

  Check check(shape("linear_forward", m, n, k, dtype) + describe(w, l, branch), seed);
  q4j_linear_forward_params p = forward_params(x, m, w.weight);
  p.lora = branch ? &l.lora : nullptr;
  p.bias = has_bias ? bias.memory.get() : nullptr;
  p.bias_dtype = bias.dtype;
  run_all(check, p, pack->workspaces->linear_forward_workspace_size, pack->operators->linear_forward, {&y, &xa},
          [&](const std::vector<Matrix*>& to) {
            p.y = only_xa ? nullptr : to[0]->memory.get();
            p.ldy = ldy;
            p.residual = !has_residual || only_xa ? nullptr : in_place ? p.y : residual.memory.get();
            p.ldr = ldy;
            p.xa = to[1]->memory.get();
          });
  std::vector<double> weights(static_cast<size_t>(n * k));
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = 0; i < k; ++i) weights[static_cast<size_t>(j * k + i)] = w.used(j, i, dtype);
  }
  const bool codes = w.multiplies_codes(dtype);
  for (int64_t row = 0; row < m; ++row) {
    const CodedRow coded(x, row);
    for (int64_t r = 0; r < rank; ++r) {
      Sum sum;
      for (int64_t i = 0; i < k; ++i) {
        const double kept = l.mask(row, k, i);
        sum.add(kept == 0 ? 0 : x.at(row, i) * kept * l.used(l.a, r, i, dtype));
      }
      check.element("xa", row, r, xa.at(row, r), sum, l.rounds(dtype));
    }
    for (int64_t col = 0; col < n && !only_xa; ++col) {
      Sum sum;
      if (codes) sum.add(coded.times(w, col));
      for (int64_t i = 0; i < k && !codes; ++i) sum.add(x.at(row, i) * weights[static_cast<size_t>(col * k + i)]);
      for (int64_t r = 0; r < rank; ++r) {
        sum.add(static_cast<double>(l.lora.s) * xa.at(row, r) * l.used(l.b, col, r, dtype));
      }
      if (has_bias) sum.add(bias.at(0, col));
      if (has_residual) sum.add(residual.at(row, col));
      check.element("y", row, col, y.at(row, col), sum, dtype == Q4J_BF16);
    }
  }
}

/**
 * Sums of codes beyond 32 bits, and the longest that fit: all products of one sign, and of the largest codes; every row of x of
 * another size, so that no row may be finished with another one's absmax.
 */
void test_long_codes(int64_t m, int64_t k) {
  const int64_t n = 5;
  const auto value = [](int64_t row) { return static_cast<float>((row % 200 + 1) * (row % 2 == 0 ? 1 : -1)); };
  Matrix x(m, k, k, Q4J_BF16);
  Buffer codes(n * k), absmax(n * 4);
  for (int64_t i = 0; i < m * k; ++i) x.memory.as<bf16>()[i] = q4j::bf16_from_f32(value(i / k));
  for (int64_t j = 0; j < n; ++j) {
    absmax.as<float>()[j] = 1.0f;
    for (int64_t i = 0; i < k; ++i) codes.as<int8_t>()[j * k + i] = static_cast<int8_t>(j == 1 ? 127 : j == 2 ? i % 100 : -128);
  }
  q4j_weight weight = {};
  weight.size = sizeof weight;
  weight.format = Q4J_WEIGHT_INT8;
  weight.dtype = Q4J_BF16;
  weight.rows = n;
  weight.cols = k;
  weight.data = codes.get();
  weight.absmax = absmax.get();
  Matrix y(m, n, n, Q4J_BF16);
  Check check(shape("linear_forward of long rows of codes", m, n, k, Q4J_BF16), 0);
  q4j_linear_forward_params p = forward_params(x, m, weight);
  run_all(check, p, pack->workspaces->linear_forward_workspace_size, pack->operators->linear_forward, {&y},
          [&](const std::vector<Matrix*>& to) {
            p.y = to[0]->memory.get();
            p.ldy = n;
          });
  for (int64_t row = 0; row < m; ++row) {
    for (int64_t col = 0; col < n; ++col) {
      int64_t total = 0;
      for (int64_t i = 0; i < k; ++i) total += codes.as<int8_t>()[col * k + i];
      Sum sum;
      sum.add(static_cast<double>(total) * static_cast<double>(value(row)) / 127.0);
      check.element("y", row, col, y.at(row, col), sum, true);
    }
  }
}

void test_forward(uint64_t seed) {
  Random random(seed);
  const int64_t m = size(random), n = size(random), k = size(random);
  test_forward(random, seed, m, n, k, random.pick(kFormats));
}

// Rows of x or dy: few, and around the most that the kernels for few rows take in some pack.
constexpr int64_t kFewRows[] = {1,  1,  2,  3,  4,  5,  6,  7,  8,  9,  12, 13, 15, 16, 17, 18,
                                19, 23, 24, 25, 31, 32, 33, 39, 40, 41, 47, 48, 49, 63, 64, 65};

/**
 * Few rows and, mostly, a contraction in whole chunks of 64: what decoding takes. The longest contractions do not fit into the
 * first-level cache. Formats take turns, so that every one comes.
 */
void test_forward_few_rows(uint64_t seed) {
  Random random(seed);
  const int64_t m = random.pick(kFewRows);
  const int64_t chunks = random.pick({1, 2, 3, 4, 5, 7, 8, 16, 17, 34, 66});
  const int64_t k = chunks * 64 + (random.chance(20) ? random.pick({-1, 1, 32}) : 0);
  const int64_t n = random.pick({1, 2, 3, 4, 5, 15, 16, 17, 33, 63, chunks < 16 ? 129 : 20});
  test_forward(random, seed, m, n, k, kFormats[seed % 8]);
}

/**
 * One and two rows with 4-bit weights, which have kernels of their own: contractions of whole chunks, of chunks of 64 only, of
 * more than the first-level cache takes; columns that come in twos and one too many; blocks whose absmax is read as it is,
 * or decoded 32 at a time with fewer of them at the end.
 */
void test_forward_one_row(uint64_t seed) {
  Random random(seed);
  for (const int64_t k : {64, 192, 640, 4096, 4160, 6272, 12352, 12416}) {
    for (const int64_t m : {1, 2}) {
      for (const Blocks& blocks :
           {Blocks{32, 0}, Blocks{32, 256}, Blocks{64, 0}, Blocks{64, 32}, Blocks{64, 256}, Blocks{128, 32}}) {
        const int64_t n = k < 4096 ? random.pick({1, 2, 33, 67, 131}) : random.pick({1, 2, 5, 17, 37});
        test_forward(random, seed, m, n, k, random.pick({Q4J_WEIGHT_NF4, Q4J_WEIGHT_FP4}), blocks);
      }
    }
  }
}

/**
 * A row of y is the same, bit for bit, however many rows are multiplied with it, from three on; with INT8 codes it is that of
 * the blocked product, too.
 */
void test_rows_alike(uint64_t seed, int32_t format, int32_t dtype) {
  Random random(seed);
  const int64_t most = 60, n = 37, k = 64 * random.pick({1, 2, 5, 34, 200});
  TestWeight w(random, n, k, format);
  TestLora l(random, n, k);
  l.lora.dropout.probability = 0;
  const bool codes = w.multiplies_codes(dtype);
  const bool branch = l.rank > 0 && !codes && random.chance(50);
  const Matrix x = random.matrix(most, k, k, dtype);
  Matrix xa(most, branch ? l.rank : 0, branch ? l.rank : 0, Q4J_F32);
  Check check(shape("linear_forward of some rows of", most, n, k, dtype), seed);
  const auto multiply = [&](int64_t m) {
    Matrix y(m, n, n, dtype);
    q4j_linear_forward_params p = forward_params(x, m, w.weight);
    p.lora = branch ? &l.lora : nullptr;
    p.xa = branch ? xa.memory.as<float>() : nullptr;
    run_all(check, p, pack->workspaces->linear_forward_workspace_size, pack->operators->linear_forward, {&y},
            [&](const std::vector<Matrix*>& to) {
              p.y = to[0]->memory.get();
              p.ldy = n;
            });
    return y;
  };
  const Matrix few = multiply(8);  // every pack's kernels for few rows take eight, and sixteen but with codes
  for (const int64_t m : {3, 4, 5, 6, 7, 9, 13, 16, 60}) {
    if (m == most && !codes) continue;
    const Matrix y = multiply(m);
    for (int64_t i = 0; i < std::min<int64_t>(m, 8) * n; ++i) {
      const double found = y.at(i / n, i % n);
      const double expected = few.at(i / n, i % n);
      if (found != expected && !(std::isnan(found) && std::isnan(expected))) check.fail("y", i / n, i % n, found, expected);
    }
  }
}

/** Parameters of the gradient to the input for the first m rows of dy; dx, and what else there is, are still to come. */
q4j_linear_backward_input_params backward_params(const Matrix& dy, int64_t m, int64_t k, const q4j_weight* weight) {
  q4j_linear_backward_input_params p = {};
  p.size = sizeof p;
  p.dtype = dy.dtype;
  p.m = m;
  p.n = dy.cols;
  p.k = k;
  p.weight = weight;
  p.dy = dy.memory.get();
  p.lddy = dy.ld;
  return p;
}

void test_backward(Random& random, uint64_t seed, int64_t m, int64_t n, int64_t k, int32_t format, const Blocks& blocks = {}) {
  const int32_t dtype = random.pick({Q4J_F32, Q4J_BF16});
  const TestWeight w(random, n, k, format, blocks);
  const TestLora l(random, n, k);
  const bool branch = random.chance(80);
  const int64_t rank = branch ? l.rank : 0;
  const bool only_dyb = rank > 0 && random.chance(5);
  Matrix dy = random.matrix(m, n, n + (random.chance(40) ? 5 : 0), dtype);
  random.disturb(dy);
  const int64_t lddx = k + (random.chance(40) ? 7 : 0);
  const Matrix before = random.matrix(m, k, lddx, dtype);
  const bool accumulate = random.chance(40);
  Matrix dx = accumulate ? before : Matrix(m, k, lddx, dtype);
  Matrix dyb(m, rank, rank, Q4J_F32);

  Check check(shape("linear_backward_input", m, n, k, dtype) + describe(w, l, branch), seed);
  q4j_linear_backward_input_params p = backward_params(dy, m, k, only_dyb ? nullptr : &w.weight);
  p.lora = branch ? &l.lora : nullptr;
  p.accumulate = accumulate ? 1 : 0;
  run_all(check, p, pack->workspaces->linear_backward_input_workspace_size, pack->operators->linear_backward_input, {&dx, &dyb},
          [&](const std::vector<Matrix*>& to) {
            p.dx = only_dyb ? nullptr : to[0]->memory.get();
            p.lddx = lddx;
            p.dyb = to[1]->memory.get();
          });
  std::vector<double> weights(static_cast<size_t>(n * k));
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = 0; i < k; ++i) weights[static_cast<size_t>(j * k + i)] = w.used(j, i, dtype);
  }
  for (int64_t row = 0; row < m; ++row) {
    for (int64_t r = 0; r < rank; ++r) {
      Sum sum;
      for (int64_t j = 0; j < n; ++j) sum.add(dy.at(row, j) * l.used(l.b, j, r, dtype));
      check.element("dyb", row, r, dyb.at(row, r), sum, l.rounds(dtype));
    }
    for (int64_t col = 0; col < k && !only_dyb; ++col) {
      Sum sum;
      for (int64_t j = 0; j < n; ++j) sum.add(dy.at(row, j) * weights[static_cast<size_t>(j * k + col)]);
      const double factor = rank > 0 ? static_cast<double>(l.lora.s) * l.mask(row, k, col) : 0;
      for (int64_t r = 0; r < rank && factor != 0; ++r) sum.add(factor * dyb.at(row, r) * l.used(l.a, r, col, dtype));
      if (accumulate) sum.add(before.at(row, col));
      check.element("dx", row, col, dx.at(row, col), sum, dtype == Q4J_BF16);
    }
  }
}

/**
 * Every code under factors of every kind, as one term of a sum of zeros, in both directions: the values that the format
 * defines, bit for bit but for denormals.
 */
void test_values(int32_t format, int32_t dtype, int64_t m, int32_t block_size, int32_t nested) {
  const int64_t n = 256, k = 256;
  for (const uint32_t factor_bits :
       {0x3f800000u, 0x3ebd70a4u, 0x7c000000u, 0x03800000u, 0x00004000u, 0u, 0x7f800000u, 0x7fffffffu}) {
    const float factor = q4j::float_of(factor_bits);
    Random random(1);
    TestWeight w(random, n, k, format);
    w.weight.block_size = block_size;
    w.weight.nested_block_size = nested;
    w.weight.nested_offset = 0;
    const int64_t blocks = w.rowwise ? n : n * k / block_size;
    const std::vector<float> factors(static_cast<size_t>(blocks), factor);
    const std::vector<uint8_t> last_codes(static_cast<size_t>(blocks), 255);  // the last code of the map is 1
    w.weight.absmax = nested != 0 ? static_cast<const void*>(last_codes.data()) : factors.data();
    w.weight.nested_absmax = factors.data();
    const bool bytes = w.rowwise;
    const unsigned zero_code = format == Q4J_WEIGHT_NF4 ? 0x77 : 0;
    std::memset(w.packed.get(), static_cast<int>(zero_code), static_cast<size_t>(bytes ? n * k : n * k / 2));
    for (int64_t row = 0; row < n; ++row) {
      const int64_t at = row * k + row * 37 % k;
      uint8_t& byte = w.packed.as<uint8_t>()[bytes ? at : at / 2];
      const auto code = static_cast<unsigned>(row);
      byte = static_cast<uint8_t>(bytes         ? code
                                  : at % 2 == 0 ? (code & 15) << 4 | (zero_code & 15)
                                                : (zero_code & 0xf0) | (code & 15));
    }
    Matrix ones(m, k, k, dtype);
    for (int64_t i = 0; i < m * k; ++i) ones.set(i / k, i % k, 1.0f);
    Matrix y(m, n, n, dtype);
    Matrix dx(m, k, k, dtype);
    char text[140];
    std::snprintf(text, sizeof text, "values of format %d times %08x, %s, m=%d block=%d nested=%d", format, factor_bits,
                  q4j::dtype_name(dtype), static_cast<int>(m), block_size, nested);
    Check check(text, 0);
    const bool forward = !w.multiplies_codes(dtype);  // x would be quantized
    if (forward) {
      q4j_linear_forward_params p = forward_params(ones, m, w.weight);
      run_all(check, p, pack->workspaces->linear_forward_workspace_size, pack->operators->linear_forward, {&y},
              [&](const std::vector<Matrix*>& to) {
                p.y = to[0]->memory.get();
                p.ldy = n;
              });
    }
    q4j_linear_backward_input_params p = backward_params(ones, m, k, &w.weight);
    run_all(check, p, pack->workspaces->linear_backward_input_workspace_size, pack->operators->linear_backward_input, {&dx},
            [&](const std::vector<Matrix*>& to) {
              p.dx = to[0]->memory.get();
              p.lddx = k;
            });
    for (int64_t i = 0; i < m * n; ++i) {
      const int64_t row = i % n;
      const auto code = static_cast<unsigned>(row);
      const float plain = format == Q4J_WEIGHT_INT8  ? static_cast<float>(static_cast<int8_t>(code)) * factor * (1.0f / 127.0f)
                          : format == Q4J_WEIGHT_FP8 ? q4j::to_f32(q4j::e4m3{static_cast<uint8_t>(code)}) * factor
                                                     : q4j::values_4bit(format)[code & 15] * factor;
      const float value = dtype == Q4J_BF16 ? q4j::round_to_bf16(plain) : plain;
      // The zeros beside it are NaN where the factor is not finite.
      const double expected = static_cast<double>(std::isfinite(factor) ? value : NAN);
      const int64_t col = row * 37 % k;
      const auto compare = [&](const char* what, double found) {
        const bool same = std::isnan(expected)             ? std::isnan(found)
                          : std::fabs(expected) < 0x1p-125 ? std::fabs(found - expected) < 0x1p-125
                                                           : found == expected;
        if (!same) check.fail(what, row, col, found, expected);
      };
      if (forward) compare("value in y", y.at(i / n, row));
      compare("value in dx", dx.at(i / n, col));
    }
  }
}

void test_backward(uint64_t seed) {
  Random random(seed);
  const int64_t m = size(random), n = size(random), k = size(random);
  test_backward(random, seed, m, n, k, random.pick(kFormats));
}

/**
 * Few rows and, mostly, columns in whole chunks of 64. Rows of the weight around every tile and block of them; columns that
 * make several ranges, and parts of them. Formats take turns, so that every one comes.
 */
void test_backward_few_rows(uint64_t seed) {
  Random random(seed);
  const int64_t m = random.pick(kFewRows);
  const int64_t chunks = random.pick({1, 2, 3, 4, 5, 7, 8, 16, 17, 34, 66});
  const int64_t k = chunks * 64 + (random.chance(20) ? random.pick({-1, 1, 32}) : 0);
  const int64_t n = random.pick({1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 33, 63, 64, 65, chunks < 16 ? 131 : 20});
  const Blocks blocks = random.pick({Blocks{}, Blocks{32, 0}, Blocks{32, 256}, Blocks{64, 32}, Blocks{64, 256}});
  test_backward(random, seed, m, n, k, kFormats[seed % 8], blocks);
}

/**
 * Rows so long that a range has the most columns there are, that one thread takes several ranges, and that one row of dy takes
 * a range in parts; blocks whose absmax are as many as there can be.
 */
void test_backward_long_rows(uint64_t seed) {
  Random random(seed);
  for (const int64_t k : {6208, 8192, 8256, 16448}) {
    for (const int64_t m : {1, 2, 9}) {
      for (const Blocks& blocks : {Blocks{32, 0}, Blocks{32, 256}, Blocks{64, 32}, Blocks{256, 64}}) {
        test_backward(random, seed, m, random.pick({1, 17, 65}), k, random.pick({Q4J_WEIGHT_NF4, Q4J_WEIGHT_FP4}), blocks);
      }
      test_backward(random, seed, m, 17, k, random.pick({Q4J_WEIGHT_DENSE, Q4J_WEIGHT_INT8, Q4J_WEIGHT_FP8}));
    }
  }
}

/** Fewer ranges of columns than threads, which then share the rows of dy. */
void test_backward_narrow(uint64_t seed, int32_t format) {
  Random random(seed);
  for (const int64_t m : {4, 5, 8, 9, 16, 30}) test_backward(random, seed, m, 400, random.pick({64, 128, 192}), format);
}

/** Dense weights whose rows end within a chunk, and a branch whose rows do. */
void test_backward_part_rows(uint64_t seed) {
  Random random(seed);
  const int64_t k = random.pick({1, 16, 63, 65, 100, 127, 130, 2049});
  test_backward(random, seed, random.pick(kFewRows), random.pick({1, 7, 9, 66}), k, Q4J_WEIGHT_DENSE);
}

/**
 * A row of dx is the same, bit for bit, however many rows are multiplied with it: the kernels for few rows and the blocked
 * product sum in one order.
 */
void test_backward_rows_alike(uint64_t seed, int32_t format, int32_t dtype) {
  Random random(seed);
  const int64_t most = 100, n = random.pick({1, 37, 64, 199}), k = 64 * random.pick({1, 2, 5, 34});
  TestWeight w(random, n, k, format);
  TestLora l(random, n, k);
  l.lora.dropout.probability = 0;
  const bool branch = l.rank > 0 && random.chance(60);
  const Matrix dy = random.matrix(most, n, n, dtype);
  const Matrix before = random.matrix(most, k, k, dtype);
  Check check(shape("linear_backward_input of some rows of", most, n, k, dtype) + describe(w, l, branch), seed);
  const auto multiply = [&](int64_t m) {
    Matrix dx(m, k, k, dtype);
    std::memcpy(dx.memory.get(), before.memory.get(), static_cast<size_t>(m * k * q4j::dtype_bytes(dtype)));
    Matrix dyb(m, branch ? l.rank : 0, branch ? l.rank : 0, Q4J_F32);
    q4j_linear_backward_input_params p = backward_params(dy, m, k, &w.weight);
    p.lora = branch ? &l.lora : nullptr;
    p.accumulate = 1;
    run_all(check, p, pack->workspaces->linear_backward_input_workspace_size, pack->operators->linear_backward_input,
            {&dx, &dyb}, [&](const std::vector<Matrix*>& to) {
              p.dx = to[0]->memory.get();
              p.lddx = k;
              p.dyb = to[1]->memory.get();
            });
    return dx;
  };
  // In a pack with AMX more than 16 rows of bf16 are summed in another order.
  const auto compare = [&](int64_t reference, std::initializer_list<int64_t> counts) {
    const Matrix all = multiply(reference);
    for (const int64_t m : counts) {
      const Matrix dx = multiply(m);
      for (int64_t i = 0; i < m * k; ++i) {
        const double found = dx.at(i / k, i % k);
        const double expected = all.at(i / k, i % k);
        if (found != expected && !(std::isnan(found) && std::isnan(expected))) check.fail("dx", i / k, i % k, found, expected);
      }
    }
  };
  compare(16, {1, 2, 7, 15});
  compare(most, {17, 33, 64, 65});
}

/**
 * The last row of the weight is infinite, or that of a branch's A: what stands in for rows that a tile or a pair lacks must not
 * turn that into NaN.
 */
void test_backward_infinite_row(int32_t format, int32_t dtype, int64_t k) {
  for (int64_t n = 1; n <= 17; ++n) {
    Random random(static_cast<uint64_t>(n));
    TestWeight w(random, n, k, format, {32, 0});
    const int64_t bytes = w.rowwise ? n * k : n * k / 2;
    // Codes of one positive value, or of a negative one in FP4.
    std::memset(w.packed.get(),
                format == Q4J_WEIGHT_INT8  ? 100
                : format == Q4J_WEIGHT_FP8 ? 0x38
                                           : 0xff,
                format == Q4J_WEIGHT_DENSE ? 0 : static_cast<size_t>(bytes));
    for (int64_t i = 0; i < w.blocks && format != Q4J_WEIGHT_DENSE; ++i) {
      w.absmax.as<float>()[i] = i < w.blocks - w.blocks / n ? 1.0f : INFINITY;
    }
    for (int64_t i = 0; i < n * k && format == Q4J_WEIGHT_DENSE; ++i)
      w.dense.set(i / k, i % k, i / k < n - 1 ? 1.0f : INFINITY);
    Matrix dy(3, n, n, dtype);
    for (int64_t i = 0; i < 3 * n; ++i) dy.set(i / n, i % n, 1.0f);
    // The branch has as many rows as the weight, and its B makes every dyb positive.
    const float sign = format == Q4J_WEIGHT_FP4 ? -1.0f : 1.0f;
    Matrix a(n, k, k, Q4J_F32), b(n, n, n, Q4J_F32), dyb(3, n, n, Q4J_F32);
    for (int64_t i = 0; i < n * k; ++i) a.set(i / k, i % k, i / k < n - 1 ? sign : sign * INFINITY);
    for (int64_t i = 0; i < n * n; ++i) b.set(i / n, i % n, 0.25f);
    q4j_lora lora = {};
    lora.size = sizeof lora;
    lora.rank = static_cast<int32_t>(n);
    lora.s = 2.0f;
    lora.a = a.memory.get();
    lora.b = b.memory.get();
    lora.dropout.size = sizeof lora.dropout;
    for (const bool branch : {false, true}) {
      Matrix dx(3, k, k, dtype);
      Check check(shape("linear_backward_input with an infinite row", 3, n, k, dtype), 0);
      q4j_linear_backward_input_params p = backward_params(dy, 3, k, &w.weight);
      p.lora = branch ? &lora : nullptr;
      run_all(check, p, pack->workspaces->linear_backward_input_workspace_size, pack->operators->linear_backward_input,
              {&dx, &dyb}, [&](const std::vector<Matrix*>& to) {
                p.dx = to[0]->memory.get();
                p.lddx = k;
                p.dyb = to[1]->memory.get();
              });
      const double expected = static_cast<double>(sign * INFINITY);
      for (int64_t i = 0; i < 3 * k; ++i) {
        if (dx.at(i / k, i % k) != expected) check.fail("dx", i / k, i % k, dx.at(i / k, i % k), expected);
      }
    }
  }
}

/**
 * A contraction in several ranges and so many columns that a weight is packed by tasks and not once for all: what is fetched
 * ahead, and the sums that are kept between ranges.
 */
void test_ranges(uint64_t seed, int32_t format) {
  Random random(seed);
  test_forward(random, seed, 45, 700, 1700, format);
  test_backward(random, seed, 45, 1700, 700, format);
}

void test_lora_gradient(uint64_t seed) {
  Random random(seed);
  const int64_t m = size(random), n = size(random), k = size(random);
  const int32_t dtype = random.pick({Q4J_F32, Q4J_BF16});
  const TestLora l(random, n, k);
  const int64_t rank = l.rank;
  const Matrix x = random.matrix(m, k, k + (random.chance(40) ? 5 : 0), dtype);
  const Matrix dy = random.matrix(m, n, n + (random.chance(40) ? 5 : 0), dtype);
  Matrix xa = random.matrix(m, rank, rank, Q4J_F32);
  Matrix dyb = random.matrix(m, rank, rank, Q4J_F32);
  for (int64_t i = 0; l.rounds(dtype) && i < m * rank; ++i) {
    xa.memory.as<float>()[i] = q4j::round_to_bf16(xa.memory.as<float>()[i]);
    dyb.memory.as<float>()[i] = q4j::round_to_bf16(dyb.memory.as<float>()[i]);
  }
  const Matrix da_before = random.matrix(rank, k, k, Q4J_F32);
  const Matrix db_before = random.matrix(n, rank, rank, Q4J_F32);
  Matrix da(da_before);
  Matrix db(db_before);

  char text[80];
  std::snprintf(text, sizeof text, " rank=%lld compute=%d dropout=%g", static_cast<long long>(rank), l.lora.compute,
                static_cast<double>(l.lora.dropout.probability));
  Check check(shape("lora_weight_gradient", m, n, k, dtype) + text, seed);
  q4j_lora_weight_gradient_params p = {};
  p.size = sizeof p;
  p.dtype = dtype;
  p.m = m;
  p.n = n;
  p.k = k;
  p.lora = &l.lora;
  p.x = x.memory.get();
  p.ldx = x.ld;
  p.dy = dy.memory.get();
  p.lddy = dy.ld;
  p.xa = xa.memory.get();
  p.dyb = dyb.memory.get();
  run_all(check, p, pack->workspaces->lora_weight_gradient_workspace_size, pack->operators->lora_weight_gradient, {&da, &db},
          [&](const std::vector<Matrix*>& to) {
            p.da = to[0]->memory.get();
            p.db = to[1]->memory.get();
          });
  for (int64_t r = 0; r < rank; ++r) {
    for (int64_t col = 0; col < k; ++col) {
      Sum sum;
      for (int64_t row = 0; row < m; ++row) {
        sum.add(static_cast<double>(l.lora.s) * dyb.at(row, r) * x.at(row, col) * l.mask(row, k, col));
      }
      sum.add(da_before.at(r, col));
      check.element("da", r, col, da.at(r, col), sum, false);
    }
    for (int64_t col = 0; col < n; ++col) {
      Sum sum;
      for (int64_t row = 0; row < m; ++row) sum.add(static_cast<double>(l.lora.s) * dy.at(row, col) * xa.at(row, r));
      sum.add(db_before.at(col, r));
      check.element("db", col, r, db.at(col, r), sum, false);
    }
  }
}

void test_weight_gradient(uint64_t seed) {
  Random random(seed);
  const int64_t m = size(random), n = size(random), k = size(random);
  const int32_t dtype = random.pick({Q4J_F32, Q4J_BF16});
  const Matrix x = random.matrix(m, k, k + (random.chance(40) ? 5 : 0), dtype);
  const Matrix dy = random.matrix(m, n, n + (random.chance(40) ? 5 : 0), dtype);
  const Matrix dw_before = random.matrix(n, k, k, Q4J_F32);
  const Matrix dbias_before = random.matrix(1, n, n, Q4J_F32);
  const bool wants_dw = random.chance(90);
  const bool wants_dbias = !wants_dw || random.chance(50);
  Matrix dw(dw_before);
  Matrix dbias(dbias_before);

  Check check(shape("linear_weight_gradient", m, n, k, dtype), seed);
  q4j_linear_weight_gradient_params p = {};
  p.size = sizeof p;
  p.dtype = dtype;
  p.m = m;
  p.n = n;
  p.k = k;
  p.x = x.memory.get();
  p.ldx = x.ld;
  p.dy = dy.memory.get();
  p.lddy = dy.ld;
  run_all(check, p, pack->workspaces->linear_weight_gradient_workspace_size, pack->operators->linear_weight_gradient,
          {&dw, &dbias}, [&](const std::vector<Matrix*>& to) {
            p.dw = wants_dw ? to[0]->memory.get() : nullptr;
            p.dbias = wants_dbias ? to[1]->memory.get() : nullptr;
          });
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t col = 0; col < k; ++col) {
      Sum sum;
      for (int64_t t = 0; wants_dw && t < m; ++t) sum.add(dy.at(t, row) * x.at(t, col));
      sum.add(dw_before.at(row, col));
      check.element("dw", row, col, dw.at(row, col), sum, false);
    }
    Sum sum;
    for (int64_t t = 0; wants_dbias && t < m; ++t) sum.add(dy.at(t, row));
    sum.add(dbias_before.at(0, row));
    check.element("dbias", 0, row, dbias.at(0, row), sum, false);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: linear_test PACK.so [cases per operator] [seed]\n");
    return 2;
  }
  const int64_t cases = argc > 2 ? std::atoll(argv[2]) : 250;
  const uint64_t first_seed = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 1;
  void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 2;
  }
  q4j_pack_open_function open = nullptr;
  void* symbol = dlsym(library, "q4j_pack_open");
  std::memcpy(&open, &symbol, sizeof open);
  const q4j_host host = {sizeof host, [](const char* text) { std::fprintf(stderr, "%s\n", text); }};
  pack = open == nullptr ? nullptr : open(&host);
  // 77 is the exit status that CTest counts as skipped: the pack has said what this machine lacks.
  if (pack == nullptr) return open == nullptr ? 2 : 77;
  std::printf("%s %s, %lld cases per operator from seed %llu\n", pack->name, pack->build_info, static_cast<long long>(cases),
              static_cast<unsigned long long>(first_seed));
  for (int i = 0; i < 4; ++i) {
    const q4j_context_options options = {sizeof options, 0, kThreads[i], 0, nullptr};
    if (pack->create(&options, &contexts[i]) != Q4J_OK) return 2;
  }
  for (int64_t i = 0; i < cases; ++i) {
    const uint64_t seed = first_seed + static_cast<uint64_t>(i);
    test_forward(seed);
    test_forward_few_rows(seed);
    test_backward(seed);
    test_backward_few_rows(seed);
    test_lora_gradient(seed);
    test_weight_gradient(seed);
  }
  for (const int32_t format : {Q4J_WEIGHT_NF4, Q4J_WEIGHT_FP4, Q4J_WEIGHT_INT8, Q4J_WEIGHT_FP8}) {
    const bool blocks = format == Q4J_WEIGHT_NF4 || format == Q4J_WEIGHT_FP4;
    for (const int32_t dtype : {Q4J_F32, Q4J_BF16}) {
      for (const int64_t m : {1, 2, 3, 6}) {
        test_values(format, dtype, m, 64, 0);
        if (!blocks) continue;
        test_values(format, dtype, m, 32, 0);
        test_values(format, dtype, m, 64, 32);
        test_values(format, dtype, m, 32, 256);
      }
    }
  }
  test_forward_one_row(first_seed);
  for (uint64_t seed = first_seed; seed < first_seed + 8; ++seed) {
    for (const int32_t format : {Q4J_WEIGHT_DENSE, Q4J_WEIGHT_NF4, Q4J_WEIGHT_INT8, Q4J_WEIGHT_FP8}) {
      for (const int32_t dtype : {Q4J_F32, Q4J_BF16}) {
        test_rows_alike(seed, format, dtype);
        test_backward_rows_alike(seed, format, dtype);
      }
    }
  }
  for (uint64_t seed = first_seed; seed < first_seed + 48; ++seed) test_backward_part_rows(seed);
  test_backward_long_rows(first_seed);
  for (uint64_t seed = first_seed; seed < first_seed + 3; ++seed) {
    for (const int32_t format : kFormats) test_backward_narrow(seed, format);
  }
  for (const int32_t dtype : {Q4J_F32, Q4J_BF16}) {
    for (const int32_t format : {Q4J_WEIGHT_DENSE, Q4J_WEIGHT_NF4, Q4J_WEIGHT_FP4, Q4J_WEIGHT_INT8, Q4J_WEIGHT_FP8}) {
      test_backward_infinite_row(format, dtype, 64);
    }
    test_backward_infinite_row(Q4J_WEIGHT_DENSE, dtype, 65);
  }
  for (uint64_t seed = first_seed; seed < first_seed + 2; ++seed) {
    for (const int32_t format : {Q4J_WEIGHT_DENSE, Q4J_WEIGHT_NF4, Q4J_WEIGHT_INT8, Q4J_WEIGHT_FP8}) test_ranges(seed, format);
  }
  // Few rows and whole chunks of 64 take another kernel, up to 2^20 steps.
  for (const int64_t k : {131072, 140000, 140032, 1 << 20, 17 << 16}) test_long_codes(3, k);
  test_long_codes(5, 1 << 20);  // the sums of more rows lie in memory
  test_long_codes(1000, 9000);  // more rows than are packed at once
  for (q4j_pack_context* context : contexts) pack->destroy(context);
  std::printf("worst share of the tolerance %.3f (%s)\n%d passed, %d failed\n", worst_share, worst_case.c_str(), passed,
              failed);
  return failed == 0 ? 0 : 1;
}
