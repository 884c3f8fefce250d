// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#include "harness.h"

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <utility>

#include "half.h"
#include "qlora4j/pack.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace q4j::parity {

namespace {

constexpr int64_t kGuardBytes = 256;  // keeps the alignment of a GPU's allocations

int64_t element_bytes(int32_t dtype) { return dtype == kF64 ? 8 : dtype_bytes(dtype); }

bool is_float(int32_t dtype) { return dtype == Q4J_F32 || dtype == Q4J_BF16 || dtype == Q4J_F16 || dtype == kF64; }

template <typename T>
T at(const std::vector<uint8_t>& elements, int64_t i) {
  T value;
  std::memcpy(&value, &elements[static_cast<size_t>(i) * sizeof(T)], sizeof(T));
  return value;
}

double value_of(int32_t dtype, const std::vector<uint8_t>& elements, int64_t i) {
  switch (dtype) {
    case kF64:
      return at<double>(elements, i);
    case Q4J_F32:
      return static_cast<double>(at<float>(elements, i));
    case Q4J_BF16:
      return static_cast<double>(to_f32(at<bf16>(elements, i)));
    case Q4J_F16:
      return static_cast<double>(to_f32(at<f16>(elements, i)));
    case Q4J_I32:
      return static_cast<double>(at<int32_t>(elements, i));
    case Q4J_I64:
      return static_cast<double>(at<int64_t>(elements, i));
    case Q4J_I8:
      return static_cast<double>(at<int8_t>(elements, i));
    default:
      return static_cast<double>(elements[static_cast<size_t>(i)]);
  }
}

double share_of(double expected, double actual, bool same_bits, const Tolerance& tolerance, double largest) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  if (std::isnan(expected) || std::isnan(actual)) return std::isnan(expected) && std::isnan(actual) ? 0 : infinity;
  if (tolerance.same_bits) return same_bits ? 0 : infinity;
  if (expected == actual) return 0;
  const double allowed = tolerance.allowed(expected, largest);
  const double difference = std::fabs(actual - expected);
  // Covers a difference of infinities and an allowance of zero.
  return allowed > 0 && difference < infinity ? difference / allowed : infinity;
}

/** Whether elements were never written. A byte of the pattern may be a result, eight in a row and nothing else are not. */
bool holds_pattern(int32_t dtype, const std::vector<uint8_t>& elements) {
  const auto width = static_cast<size_t>(element_bytes(dtype));
  const auto is_pattern = [&](size_t i) { return elements[i] == Buffer::pattern(0) || elements[i] == Buffer::pattern(1); };
  if (!is_float(dtype)) {
    size_t count = 0;
    while (count < elements.size() && is_pattern(count)) ++count;
    return count >= 8 && count == elements.size();
  }
  for (size_t i = 0; i < elements.size(); i += width) {
    size_t count = 0;
    while (count < width && elements[i + count] == Buffer::pattern(static_cast<int64_t>(count))) ++count;
    if (count == width) return true;
  }
  return false;
}

/** Names of the ABI's operators, in its order. */
const std::vector<std::string>& operator_names() {
#define Q4J_OPERATOR_NAME(name) #name,
  static const std::vector<std::string> names = {Q4J_FOR_EACH_OPERATOR(Q4J_OPERATOR_NAME)};
#undef Q4J_OPERATOR_NAME
  return names;
}

std::vector<void (*)(const Options&)>& families() {
  static std::vector<void (*)(const Options&)> all;
  return all;
}

std::vector<Case>& registry() {
  static std::vector<Case> all;
  return all;
}

/** FNV-1a: a case's numbers depend on its name and not on the cases before it. */
uint64_t hash(const std::string& name) {
  uint64_t value = 0xcbf29ce484222325u;
  for (const char c : name) value = (value ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return value;
}

}  // namespace

std::string text(const char* format, ...) {
  char line[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  return line;
}

void require(q4j_status status, const std::string& what) {
  if (status != Q4J_OK)
    throw Failure(status, text("%s: status %d, %s", what.c_str(), static_cast<int>(status), q4j_last_error()));
}

// ---------------------------------------------------------------- numbers

Random::Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}

uint64_t Random::next() {
  state_ ^= state_ >> 12;
  state_ ^= state_ << 25;
  state_ ^= state_ >> 27;
  return state_ * 0x2545f4914f6cdd1du;
}

double Random::uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

double Random::gaussian() {
  const double u = 1 - uniform();
  return std::sqrt(-2 * std::log(u)) * std::cos(2 * 3.14159265358979323846 * uniform());
}

int64_t Random::below(int64_t bound) { return static_cast<int64_t>(next() % static_cast<uint64_t>(bound)); }

std::vector<float> Random::normal(int64_t count, double deviation) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(gaussian() * deviation);
  return values;
}

std::vector<float> Random::uniform(int64_t count, double from, double to) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(from + (to - from) * uniform());
  return values;
}

std::vector<float> Random::wide(int64_t count, double decades) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) {
    const double magnitude = std::pow(10.0, (uniform() - 0.5) * decades);
    value = one_in(16) ? 0.0f : static_cast<float>(gaussian() * magnitude);
  }
  return values;
}

std::vector<uint8_t> Random::bytes(int64_t count) {
  std::vector<uint8_t> values(static_cast<size_t>(count));
  for (uint8_t& value : values) value = static_cast<uint8_t>(below(256));
  return values;
}

std::vector<int32_t> Random::integers(int64_t count, int32_t bound) {
  std::vector<int32_t> values(static_cast<size_t>(count));
  for (int32_t& value : values) value = static_cast<int32_t>(below(bound));
  return values;
}

void Random::sprinkle_specials(std::vector<float>* values) {
  static const float specials[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1e-40f, -1e-39f, 3e38f};
  const auto n = static_cast<int64_t>(values->size());
  for (int64_t i = 0; n > 0 && i <= n / 400; ++i) (*values)[static_cast<size_t>(below(n))] = specials[below(8)];
}

std::vector<uint8_t> narrow(const std::vector<float>& values, int32_t dtype) {
  if (dtype == Q4J_F32) return bytes_of(values);
  std::vector<uint8_t> bytes(values.size() * 2);
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t bits = dtype == Q4J_BF16 ? bf16_from_f32(values[i]).bits : f16_from_f32(values[i]).bits;
    std::memcpy(&bytes[i * 2], &bits, 2);
  }
  return bytes;
}

Tolerance Tolerance::bits() { return {0, 0, 0, "bit for bit", true}; }

Tolerance Tolerance::exact() { return {0, 0, 0, "exact", false}; }

double Tolerance::roundoff(int32_t dtype) { return dtype == Q4J_F32 ? 0x1p-24 : dtype == Q4J_BF16 ? 0x1p-8 : 0x1p-11; }

Tolerance Tolerance::rounded(int32_t dtype, int steps) {
  return {2 * steps * roundoff(dtype), 0, 0, text("%d rounding(s) to %s", steps, dtype_name(dtype)), false};
}

Tolerance Tolerance::sum(int64_t terms) {
  const double share = 8 * std::sqrt(static_cast<double>(std::max<int64_t>(terms, 1))) * roundoff(Q4J_F32);
  return {0, share, 0, text("f32 sum of %lld terms", static_cast<long long>(terms)), false};
}

Tolerance Tolerance::intermediate(int32_t dtype) {
  return {0, 2 * roundoff(dtype), 0, text("an intermediate rounded to %s", dtype_name(dtype)), false};
}

Tolerance Tolerance::function(int steps) {
  return {steps * roundoff(Q4J_F32), 0, 0, text("function accurate to %d f32 roundoffs", steps), false};
}

Tolerance Tolerance::of_largest(double share, const std::string& reason) { return {0, share, 0, reason, false}; }

Tolerance Tolerance::of_terms(double terms) const {
  Tolerance tolerance = *this;
  tolerance.floor = std::max(floor, terms);
  return tolerance;
}

double Tolerance::allowed(double expected, double largest) const {
  return relative * std::fabs(expected) + share * std::max(floor, largest);
}

Tolerance operator+(const Tolerance& a, const Tolerance& b) {
  return {a.relative + b.relative, a.share + b.share, std::max(a.floor, b.floor), a.reason + " + " + b.reason, false};
}

Comparison Comparison::of(const Output& expected, const Output& actual) {
  Comparison result;
  if (expected.elements.size() != actual.elements.size() || expected.dtype != actual.dtype) {
    throw Failure(Q4J_INTERNAL_ERROR, "a case gave outputs of different shapes on the two packs: " + expected.name);
  }
  const auto width = static_cast<size_t>(element_bytes(expected.dtype));
  result.elements = static_cast<int64_t>(expected.elements.size() / width);
  double largest = 0;
  for (int64_t i = 0; i < result.elements; ++i) {
    const double magnitude = std::fabs(value_of(expected.dtype, expected.elements, i));
    if (std::isfinite(magnitude)) largest = std::max(largest, magnitude);
  }
  for (int64_t i = 0; i < result.elements; ++i) {
    const bool same_bits = std::memcmp(&expected.elements[static_cast<size_t>(i) * width],
                                       &actual.elements[static_cast<size_t>(i) * width], width) == 0;
    if (same_bits && result.worst >= 0) continue;
    const double share = share_of(value_of(expected.dtype, expected.elements, i), value_of(expected.dtype, actual.elements, i),
                                  same_bits, expected.tolerance, largest);
    if (share > 1) ++result.failures;
    if (share > result.share || result.worst < 0) {
      result.worst = i;
      result.share = share;
    }
  }
  if (result.worst < 0) {
    result.where = expected.name + ": empty";
    return result;
  }
  const int64_t cols = std::max<int64_t>(expected.cols, 1);
  result.where =
      text("%s[%lld, %lld] expected %.9g found %.9g, %.1f %% of the tolerance (%s)", expected.name.c_str(),
           static_cast<long long>(result.worst / cols), static_cast<long long>(result.worst % cols),
           value_of(expected.dtype, expected.elements, result.worst), value_of(expected.dtype, actual.elements, result.worst),
           100 * result.share, expected.tolerance.reason.c_str());
  if (result.failures > 0) {
    result.where += text(", %lld of %lld elements exceed it", static_cast<long long>(result.failures),
                         static_cast<long long>(result.elements));
  }
  return result;
}

// ---------------------------------------------------------------- memory

Context::Context(const std::string& pack, const char* rungs) {
  if (rungs != nullptr) setenv("Q4J_CUDA_RUNGS", rungs, 1);
  auto options = params<q4j_context_options>();
  require(q4j_context_create(pack.c_str(), nullptr, &options, &context_), pack);
}

Context::~Context() { q4j_context_destroy(context_); }

Buffer::Buffer(const Context& context, int64_t bytes, int64_t offset, bool guarded)
    : context_(context),
      guarded_(guarded),
      bytes_(bytes),
      front_(offset + (guarded ? kGuardBytes : 0)),
      back_(guarded ? kGuardBytes : 0) {
  const int64_t all = front_ + bytes_ + back_;
  void* memory = nullptr;
  require(q4j_allocate(context_.get(), std::max<int64_t>(all, 1), &memory), "allocate");
  memory_ = static_cast<unsigned char*>(memory);
  if (!guarded_) return;
  std::vector<uint8_t> start(static_cast<size_t>(all));
  for (size_t i = 0; i < start.size(); ++i) start[i] = pattern(static_cast<int64_t>(i));
  require(q4j_copy_in(context_.get(), memory_, start.data(), all), "copy_in");
  poison(true);
}

Buffer::~Buffer() {
  poison(false);
  q4j_free(context_.get(), memory_);
}

void Buffer::poison(bool on) const {
#if defined(__SANITIZE_ADDRESS__)
  if (!guarded_ || !context_.on_cpu()) return;
  if (on) {
    ASAN_POISON_MEMORY_REGION(memory_, front_);
    ASAN_POISON_MEMORY_REGION(memory_ + front_ + bytes_, back_);
  } else {
    ASAN_UNPOISON_MEMORY_REGION(memory_, front_ + bytes_ + back_);
  }
#else
  static_cast<void>(on);
#endif
}

void Buffer::put(const std::vector<uint8_t>& bytes) {
  require(q4j_copy_in(context_.get(), data(), bytes.data(), static_cast<int64_t>(bytes.size())), "copy_in");
}

std::vector<uint8_t> Buffer::get(int64_t at, int64_t bytes) const {
  std::vector<uint8_t> result(static_cast<size_t>(bytes));
  require(q4j_copy_out(context_.get(), result.data(), memory_ + front_ + at, bytes), "copy_out");
  return result;
}

void Buffer::check() const {
  if (!guarded_) return;
  poison(false);
  std::vector<uint8_t> edges(static_cast<size_t>(front_ + back_));
  require(q4j_copy_out(context_.get(), edges.data(), memory_, front_), "copy_out");
  require(q4j_copy_out(context_.get(), edges.data() + front_, memory_ + front_ + bytes_, back_), "copy_out");
  poison(true);
  for (int64_t i = 0; i < front_; ++i) {
    if (edges[static_cast<size_t>(i)] == pattern(i)) continue;
    throw Failure(Q4J_INTERNAL_ERROR, text("wrote %lld bytes before the start of a tensor of %lld bytes",
                                           static_cast<long long>(front_ - i), static_cast<long long>(bytes_)));
  }
  for (int64_t i = 0; i < back_; ++i) {
    if (edges[static_cast<size_t>(front_ + i)] == pattern(front_ + bytes_ + i)) continue;
    throw Failure(Q4J_INTERNAL_ERROR, text("wrote %lld bytes after the end of a tensor of %lld bytes",
                                           static_cast<long long>(i), static_cast<long long>(bytes_)));
  }
}

Tensor::Tensor(const Context& context, int32_t dtype, int64_t rows, int64_t cols, Layout layout, bool guarded)
    : dtype_(dtype),
      rows_(rows),
      cols_(cols),
      ld_(layout.ld == 0 ? cols : layout.ld),
      guarded_(guarded),
      buffer_(context, (rows == 0 || cols == 0 ? 0 : (rows - 1) * ld_ + cols) * element_bytes(dtype),
              layout.offset * element_bytes(dtype), guarded) {}

void Tensor::put(const std::vector<uint8_t>& elements) {
  const auto row = static_cast<size_t>(cols_ * element_bytes(dtype_));
  if (elements.size() != static_cast<size_t>(rows_) * row) {
    throw Failure(Q4J_INTERNAL_ERROR,
                  text("a case puts %zu bytes into a tensor of %zu", elements.size(), static_cast<size_t>(rows_) * row));
  }
  if (elements.empty()) return;
  std::vector<uint8_t> bytes(static_cast<size_t>(buffer_.bytes()));
  const int64_t first = reinterpret_cast<intptr_t>(buffer_.data()) & 1;
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = Buffer::pattern(first + static_cast<int64_t>(i));
  for (size_t r = 0; r < static_cast<size_t>(rows_); ++r) {
    std::memcpy(&bytes[r * static_cast<size_t>(ld_ * element_bytes(dtype_))], &elements[r * row], row);
  }
  buffer_.put(bytes);
}

std::vector<uint8_t> Tensor::get() const {
  if (ld_ == cols_ || rows_ == 0 || cols_ == 0) return buffer_.get();
  const int64_t row = cols_ * element_bytes(dtype_);
  const int64_t step = ld_ * element_bytes(dtype_);
  std::vector<uint8_t> elements;
  elements.reserve(static_cast<size_t>(rows_ * row));
  if (guarded_) {
    const std::vector<uint8_t> bytes = buffer_.get();
    for (auto from = bytes.begin(); elements.size() < static_cast<size_t>(rows_ * row); from += step) {
      elements.insert(elements.end(), from, from + row);
      if (bytes.end() - from < step) break;
    }
    return elements;
  }
  // Row by row: compute-sanitizer would report a copy of the gaps, which nobody initialised.
  for (int64_t r = 0; r < rows_; ++r) {
    const std::vector<uint8_t> bytes = buffer_.get(r * step, row);
    elements.insert(elements.end(), bytes.begin(), bytes.end());
  }
  return elements;
}

void Tensor::check() const {
  buffer_.check();
  if (!guarded_ || ld_ == cols_) return;
  const std::vector<uint8_t> bytes = buffer_.get();
  const int64_t width = element_bytes(dtype_);
  // The pattern counts from the start of the allocation, and everything before a row has an even number of bytes unless
  // elements are single bytes.
  const int64_t first = reinterpret_cast<intptr_t>(buffer_.data()) & 1;
  for (int64_t r = 0; r + 1 < rows_; ++r) {
    for (int64_t i = (r * ld_ + cols_) * width; i < (r + 1) * ld_ * width; ++i) {
      if (bytes[static_cast<size_t>(i)] == Buffer::pattern(first + i)) continue;
      throw Failure(Q4J_INTERNAL_ERROR, text("wrote between the rows of a matrix: row %lld, byte %lld of the gap",
                                             static_cast<long long>(r), static_cast<long long>(i - (r * ld_ + cols_) * width)));
    }
  }
}

// ---------------------------------------------------------------- cases

Run::Run(const Context& pack, const Context& reference, const Options& options, uint64_t seed)
    : random(seed), pack_(pack), reference_(reference), options_(options) {}

Tensor& Run::output(int32_t dtype, int64_t rows, int64_t cols, Layout layout) {
  tensors_.push_back(std::make_unique<Tensor>(pack_, dtype, rows, cols, layout, options_.guards));
  return *tensors_.back();
}

Tensor& Run::input_bytes(int32_t dtype, int64_t rows, int64_t cols, const std::vector<uint8_t>& elements, Layout layout) {
  Tensor& tensor = output(dtype, rows, cols, layout);
  tensor.put(elements);
  return tensor;
}

Tensor& Run::input(int32_t dtype, int64_t rows, int64_t cols, const std::vector<float>& values, Layout layout) {
  return input_bytes(dtype, rows, cols, narrow(values, dtype), layout);
}

q4j_weight Run::weight(const WeightKind& kind, int64_t rows, int64_t cols, const std::vector<float>& values, Layout layout) {
  auto w = params<q4j_weight>();
  w.format = kind.format;
  w.dtype = kind.dtype;
  w.rows = rows;
  w.cols = cols;
  w.ld = cols;
  if (kind.format == Q4J_WEIGHT_DENSE) {
    const Tensor& dense = input(kind.dtype, rows, cols, values, layout);
    w.ld = dense.ld();
    w.data = dense.data();
  } else if (kind.format == Q4J_WEIGHT_INT8 || kind.format == Q4J_WEIGHT_FP8) {
    quantize_rowwise(kind, values, layout.offset, &w);
  } else {
    quantize_4bit(kind, values, layout.offset, &w);
  }
  return w;
}

void Run::quantize_rowwise(const WeightKind& kind, const std::vector<float>& values, int64_t offset, q4j_weight* w) {
  Run quantizer(reference_, reference_, options_, 0);
  const Tensor& input = quantizer.input(kind.dtype, w->rows, w->cols, values);
  const Tensor& codes = quantizer.output(Q4J_U8, w->rows, w->cols);
  const Tensor& scales = quantizer.output(Q4J_F32, 1, w->rows);
  if (kind.format == Q4J_WEIGHT_INT8) {
    auto q = params<q4j_quantize_int8_rowwise_params>();
    q.dtype = kind.dtype;
    q.rows = w->rows;
    q.cols = w->cols;
    q.input = input.data();
    q.codes = codes.data();
    q.row_absmax = scales.data();
    quantizer.call(q4j_quantize_int8_rowwise, q);
  } else {
    auto q = params<q4j_quantize_fp8_rowwise_params>();
    q.dtype = kind.dtype;
    q.rows = w->rows;
    q.cols = w->cols;
    q.input = input.data();
    q.codes = codes.data();
    q.row_scale = scales.data();
    quantizer.call(q4j_quantize_fp8_rowwise, q);
  }
  w->data = input_bytes(Q4J_U8, w->rows, w->cols, codes.get(), {0, offset}).data();
  w->absmax = input_bytes(Q4J_F32, 1, w->rows, scales.get()).data();
}

void Run::quantize_4bit(const WeightKind& kind, const std::vector<float>& values, int64_t offset, q4j_weight* w) {
  w->block_size = kind.block_size;
  w->nested_block_size = kind.nested_block_size;
  const int64_t n = w->rows * w->cols;
  const int64_t blocks = (n + kind.block_size - 1) / kind.block_size;
  const int64_t nested = kind.nested_block_size;
  const int64_t nested_blocks = nested > 0 ? (blocks + nested - 1) / nested : 0;
  Run quantizer(reference_, reference_, options_, 0);
  const Tensor& packed = quantizer.output(Q4J_U8, 1, (n + 1) / 2);
  const Tensor& absmax = quantizer.output(nested > 0 ? Q4J_U8 : Q4J_F32, 1, blocks);
  const Tensor& nested_absmax = quantizer.output(Q4J_F32, 1, nested_blocks);
  const Tensor& nested_offset = quantizer.output(Q4J_F32, 1, 1);
  auto q = params<q4j_quantize_4bit_params>();
  q.format = kind.format;
  q.dtype = kind.dtype;
  q.block_size = kind.block_size;
  q.nested_block_size = kind.nested_block_size;
  q.n = n;
  q.input = quantizer.input(kind.dtype, 1, n, values).data();
  q.packed = packed.data();
  q.absmax = absmax.data();
  q.nested_absmax = nested > 0 ? nested_absmax.data() : nullptr;
  q.nested_offset = nested > 0 ? nested_offset.data() : nullptr;
  quantizer.call(q4j_quantize_4bit, q4j_quantize_4bit_workspace_size, q);
  if (nested > 0) w->nested_offset = at<float>(nested_offset.get(), 0);
  w->data = input_bytes(Q4J_U8, 1, packed.cols(), packed.get(), {0, kind.packed ? 0 : offset}).data();
  w->absmax = input_bytes(absmax.dtype(), 1, blocks, absmax.get()).data();
  w->nested_absmax = nested > 0 ? input_bytes(Q4J_F32, 1, nested_blocks, nested_absmax.get()).data() : nullptr;
  if (!kind.packed) return;
  int64_t bytes = 0;
  auto p = params<q4j_pack_weight_params>();
  p.weight = w;
  p.packed_bytes = &bytes;
  call(q4j_pack_weight, p);
  p.packed = output(Q4J_U8, 1, bytes).data();
  call(q4j_pack_weight, p);
  w->layout = Q4J_LAYOUT_PACKED;
  w->data = p.packed;
  w->absmax = nullptr;
  w->nested_absmax = nullptr;
}

q4j_lora Run::lora(int32_t rank, int64_t n, int64_t k, int32_t compute, float dropout) {
  auto lora = params<q4j_lora>();
  lora.rank = rank;
  lora.s = 0.5f;
  lora.compute = compute;
  lora.a =
      input(Q4J_F32, rank, k, random.normal(rank * k, 1.0 / std::sqrt(static_cast<double>(std::max<int64_t>(k, 1))))).data();
  lora.b = input(Q4J_F32, n, rank, random.normal(n * rank, 0.3)).data();
  lora.dropout.size = sizeof lora.dropout;
  lora.dropout.probability = dropout;
  lora.dropout.seed = random.next();
  lora.dropout.step = static_cast<uint32_t>(random.below(1000));
  lora.dropout.micro_batch = static_cast<uint32_t>(random.below(8));
  lora.dropout.linear = static_cast<uint32_t>(random.below(200));
  lora.dropout.row_offset = random.below(4096);
  return lora;
}

void Run::compare(const std::string& name, const Tensor& tensor, const Tolerance& tolerance) {
  const std::vector<uint8_t> elements = tensor.get();
  if (options_.guards && holds_pattern(tensor.dtype(), elements)) {
    throw Failure(Q4J_INTERNAL_ERROR, "an output was not written, or not all of it: " + name);
  }
  // What is no number is equal or not, whatever the case says.
  outputs_.push_back({name, tensor.dtype(), tensor.cols(), elements, is_float(tensor.dtype()) ? tolerance : Tolerance::bits()});
}

void Run::compare(const std::string& name, double value, const Tolerance& tolerance) {
  outputs_.push_back({name, kF64, 1, bytes_of(std::vector<double>{value}), tolerance});
}

void Run::check_guards() const {
  for (const auto& tensor : tensors_) tensor->check();
}

void register_case(const std::string& operator_name, const std::string& name, Compute compute) {
  registry().push_back({operator_name, name, std::move(compute)});
}

Family::Family(void (*cases)(const Options&)) { families().push_back(cases); }

std::vector<Case> all_cases(const Options& options) {
  registry().clear();
  for (auto* family : families()) family(options);
  std::vector<Case> ordered;
  for (const std::string& name : operator_names()) {
    for (const Case& c : registry()) {
      if (c.operator_name == name) ordered.push_back(c);
    }
  }
  for (const Case& c : registry()) {
    if (std::find(operator_names().begin(), operator_names().end(), c.operator_name) == operator_names().end()) {
      throw Failure(Q4J_INVALID_ARGUMENT, "a case is for the operator " + c.operator_name + ", which the ABI does not have");
    }
  }
  return ordered;
}

Verdict check(const Case& c, const Context& pack, const Context& reference, const Options& options) {
  const uint64_t seed = hash(c.operator_name + " " + c.name) ^ options.seed * 0x9e3779b97f4a7c15u;
  Verdict verdict;
  try {
    Run expected(reference, reference, options, seed);
    c.compute(expected);
    expected.check_guards();
    try {
      Run actual(pack, reference, options, seed);
      c.compute(actual);
      actual.check_guards();
      for (size_t i = 0; i < expected.outputs().size(); ++i) {
        const Comparison comparison = Comparison::of(expected.outputs()[i], actual.outputs()[i]);
        if (comparison.failures > 0) verdict.kind = Verdict::kFailed;
        if (verdict.detail.empty() || comparison.share > verdict.share) {
          verdict.share = comparison.share;
          verdict.detail = comparison.where;
        }
      }
      if (pack.on_cpu() || !options.guards || verdict.kind == Verdict::kFailed) return verdict;
      // Operators are deterministic, so a difference between two runs is a race.
      Run again(pack, reference, options, seed);
      c.compute(again);
      for (size_t i = 0; i < actual.outputs().size(); ++i) {
        if (actual.outputs()[i].elements == again.outputs()[i].elements) continue;
        verdict.kind = Verdict::kFailed;
        verdict.detail = "a second run gave other bits: " + actual.outputs()[i].name;
      }
    } catch (const Failure& failure) {
      verdict.kind = failure.status() == Q4J_UNSUPPORTED ? Verdict::kUnsupported : Verdict::kFailed;
      verdict.fatal = failure.status() == Q4J_DEVICE_ERROR_FATAL;
      verdict.detail = failure.what();
    }
  } catch (const Failure& failure) {
    verdict.kind = Verdict::kFailed;
    verdict.detail = std::string("on the reference: ") + failure.what();
  }
  return verdict;
}

}  // namespace q4j::parity
