// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#include "linear_small.h"

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>

#include "amx.h"
#include "gemm_codes.h"
#include "gemm_epilogue.h"
#include "gemm_source.h"
#if !defined(__AVX512F__)
#include "linear_small_avx2.h"
#endif
#include "linear_small_kernel.h"
#include "linear_small_rowwise.h"
#include "linear_small_scales.h"
#include "round_up.h"

namespace q4j::cpu {

namespace {

/** Most rows for each kind of product: beyond, multiply() is faster. Measured, see docs/kernels/linear.md, but with AMX. */
struct MostRows {
  int64_t four_bit_bf16;  // bf16 activations and a 4-bit weight
  int64_t four_bit_f32;
  int64_t int8_codes;  // products of INT8 codes
  int64_t int8_f32;
  int64_t fp8_bf16;
  int64_t fp8_f32;
  int64_t dense_bf16;
  int64_t dense_f32;

  constexpr int64_t most() const {
    return std::max({four_bit_bf16, four_bit_f32, int8_codes, int8_f32, fp8_bf16, fp8_f32, dense_bf16, dense_f32});
  }
};

#if defined(Q4J_AMX)
// An estimate: there multiply() takes little longer for 32 rows than for one where it multiplies bf16 or codes.
constexpr MostRows kMost = {16, 64, 8, 48, 16, 48, 16, 40};
#elif defined(__AVX512BF16__)
constexpr MostRows kMost = {48, 64, 16, 48, 48, 48, 40, 40};
#elif defined(__AVX512F__)
constexpr MostRows kMost = {64, 64, 24, 64, 64, 64, 48, 48};
#else
constexpr MostRows kMost = {48, 32, 16, 16, 48, 32, 24, 24};
#endif
constexpr int64_t kMostRows = kMost.most();

// Columns whose sums are kept while a range of k passes by: a longer contraction is taken in ranges, so that x stays in the
// first-level cache (32 KiB and more) meanwhile, or with many rows in the second-level cache.
constexpr int64_t kBlockColumns = 16;
constexpr int64_t kBlockBytes = 24 * 1024;
constexpr int64_t kTogetherBytes = 128 * 1024;
// The most for one or two rows of x whose weight is fetched in the order of memory; then x comes from the second-level cache.
constexpr int64_t kInOrderBytes = 128 * 1024;
// Most columns of a task: few enough that the threads end together.
constexpr int64_t kTaskColumns = 32;
constexpr int64_t kLeastTaskColumns = 4;
constexpr int64_t kTasksPerThread = 8;
// How many bytes ahead a row is fetched where four or more columns are taken; twice as many where fewer are.
constexpr int64_t kAheadBytes = 1024;
// The same from the end of what is being read, for rows that are fetched in the order of memory.
constexpr int64_t kAheadInOrderBytes = 4 * 1024;

bool fits(const Product& p) { return p.m > 0 && p.m <= kMostRows && p.n > 0 && p.k > 0 && p.k % kChunk == 0; }

struct Plan {
  int threads;
  int64_t task_columns;
  // Bytes, multiples of 64.
  int64_t x_bytes;
  int64_t scale_bytes;  // per thread
  int64_t sum_bytes;    // per thread

  int64_t thread_bytes() const { return scale_bytes + sum_bytes + kThreadsApart; }
};

Plan make_plan(const ThreadPool& pool, const Product& p) {
  Plan plan;
  plan.threads = threads_for(pool, p);
  const int64_t tasks = pool.threads() * kTasksPerThread;
  plan.task_columns = std::clamp(round_up(p.n / tasks, kLeastTaskColumns), kLeastTaskColumns, kTaskColumns);
  plan.x_bytes = round_up(p.m * p.k * 4, 64);
  plan.scale_bytes = round_up(Scales::buffer_elements(kBlockColumns, p.k) * 4, 64);
  plan.sum_bytes = round_up(p.m * round_up(plan.task_columns, kLanes) * 4, 64);
  return plan;
}

template <class Reader>
using Kernel = void (*)(const Reader*, int64_t, int64_t, const typename Reader::X*, const AheadByRows&, Vec*);

template <class Reader, int... M>
constexpr std::array<Kernel<Reader>, sizeof...(M)> kernels_for(std::integer_sequence<int, M...>) {
  return {multiply_rows<Reader, M + 1, Reader::Order::columns(M + 1), Reader::Order::sets(M + 1), AheadByRows>...};
}

// By rows of x, from one on.
template <class Reader>
constexpr std::array<Kernel<Reader>, Reader::Order::kRegisterRows> kKernels =
    kernels_for<Reader>(std::make_integer_sequence<int, Reader::Order::kRegisterRows>());

/** Sums of some rows and columns, a vector each: of the parts of one, or before a branch joins them. */
struct Lanes {
  Vec* data;
  int64_t row_step;
  int64_t column_step;
  Vec& at(int64_t row, int64_t column) const { return data[row * row_step + column * column_step]; }
};

/** One product at work. Make::rows(row, count, buffer).reader(i) is the reader of row `row + i` of the weight. */
template <class Make>
class SmallMultiplication {
 public:
  using Reader = typename Make::Reader;
  using X = typename Reader::X;
  static constexpr bool kCodes = std::is_integral_v<X>;

  SmallMultiplication(ThreadPool& pool, const Product& product, const Plan& plan, const Make& make, char* workspace)
      : pool_(pool),
        product_(product),
        plan_(plan),
        make_(make),
        x_(reinterpret_cast<X*>(workspace)),
        threads_(workspace + plan.x_bytes) {
    const int64_t chunks = product.k / Reader::kElements;
    const int64_t x_bytes = product.m * Reader::kElements * static_cast<int64_t>(sizeof(X));
    together_ = product.m > Reader::Order::kRegisterRows;
    step_ = together_ ? kTogether : Reader::Order::columns(product.m);
    const int64_t most_bytes = together_ ? kTogetherBytes : kBlockBytes;
    whole_ = chunks * x_bytes <= most_bytes;
    range_chunks_ = whole_ ? chunks : std::max<int64_t>(1, most_bytes / x_bytes);
    in_order_ = chunks * x_bytes <= kInOrderBytes && product.m <= Reader::Order::kInOrderRows;
  }

  void run() {
    pool_.parallel_for(
        product_.m, [&](int64_t row, int) { arrange(row); }, product_.m * product_.k < kSharedElements ? 1 : plan_.threads);
    const int64_t tasks = (product_.n + plan_.task_columns - 1) / plan_.task_columns;
    pool_.parallel_for_in_parts(
        tasks,
        [&](int64_t task, int thread) {
          const int64_t first = task * plan_.task_columns;
          multiply_columns(first, std::min(plan_.task_columns, product_.n - first), threads_ + thread * plan_.thread_bytes());
        },
        plan_.threads);
  }

 private:
  void arrange(int64_t row) {
    if constexpr (kCodes) {
      quantize(static_cast<const bf16*>(product_.a.data) + row * product_.a.ld, row);
    } else if (product_.a.dtype == Q4J_BF16) {
      arrange_from(static_cast<const bf16*>(product_.a.data) + row * product_.a.ld, row);
    } else if constexpr (std::is_same_v<X, float>) {
      arrange_from(static_cast<const float*>(product_.a.data) + row * product_.a.ld, row);
    }
  }

  // Elements of x from `element` on, a multiple of kElements, in row `row`.
  X* x_at(int64_t row, int64_t element) const { return x_ + element * product_.m + row * Reader::kElements; }

  template <class T>
  void arrange_from(const T* from, int64_t row) const {
    for (int64_t i = 0; i < product_.k; i += Reader::kElements) Reader::arrange(from + i, x_at(row, i));
  }

  // The same for a product of codes: rows are quantized on the way.
  void quantize(const bf16* from, int64_t row) {
    CodedRow coded = {row_absmax(from, product_.k), 0};
    for (int64_t i = 0; i < product_.k; i += Reader::kElements)
      coded.sum += Reader::arrange(from + i, coded.absmax, x_at(row, i));
    coded_[row] = coded;
  }

  void multiply_columns(int64_t first, int64_t columns, char* memory) const {
    auto* scales = reinterpret_cast<float*>(memory);
    auto* sums = reinterpret_cast<float*>(memory + plan_.scale_bytes);
    const int64_t stride = round_up(plan_.task_columns, kLanes);
    if (in_order_) {
      if constexpr (Reader::Order::kInOrderRows >= 1) {
        if (product_.m == 1) sum_in_order<1>(first, columns, scales, sums, stride);
      }
      if constexpr (Reader::Order::kInOrderRows >= 2) {
        if (product_.m == 2) sum_in_order<2>(first, columns, scales, sums, stride);
      }
    } else {
      for (int64_t j = 0; j < columns; j += kBlockColumns) {
        sum_block(first + j, std::min(kBlockColumns, columns - j), scales, sums + j, stride);
      }
    }
    finish_sums(product_.epilogue, sums, stride, 0, first, product_.m, columns);
  }

  // M rows of x. Where x does not stay in the first-level cache, four columns at a time read it half as often.
  template <int M>
  void sum_in_order(int64_t first, int64_t columns, float* scales, float* sums, int64_t stride) const {
    if (whole_) {
      sum_in_order<M, Reader::Order::columns(M), Reader::Order::sets(M)>(first, columns, scales, sums, stride);
    } else {
      sum_in_order<M, 4, 2 / M>(first, columns, scales, sums, stride);
    }
  }

  // The absmax of a few columns are decoded between their products, so that what is fetched ahead never pauses for long.
  template <int M, int kStep, int kSets>
  void sum_in_order(int64_t first, int64_t columns, float* scales, float* sums, int64_t stride) const {
    const int64_t chunks = product_.k / Reader::kElements;
    const AheadInOrder<kStep, Reader::kBytes> ahead = {(kStep - 1) * make_.row_bytes() + kAheadInOrderBytes};
    for (int64_t j = 0; j < columns; j += kStep) {
      const int64_t count = std::min<int64_t>(kStep, columns - j);
      const auto weights = make_.rows(first + j, count, scales);
      Reader readers[kStep];
      for (int64_t r = 0; r < kStep; ++r) readers[r] = weights.reader(std::min(r, count - 1));
      Vec results[M * kStep];
      for (Vec& sum : results) sum = zero();
      const Lanes lanes = {results, 1, M};
      begin(M, first + j, count, lanes);
      multiply_rows<Reader, M, kStep, kSets>(readers, 0, chunks, x_, ahead, results);
      finish(M, first + j, count, lanes, sums + j, stride);
    }
  }

  // kBlockColumns columns at most, `step_` at a time, in ranges of k where x is long.
  void sum_block(int64_t column, int64_t count, float* scales, float* sums, int64_t stride) const {
    const int64_t m = product_.m;
    // Not in the workspace, where it takes m = 3 a sixth longer.
    Vec results[kMostRows * kBlockColumns];
    const int64_t row_bytes = make_.row_bytes();
    const int64_t chunks = product_.k / Reader::kElements;
    const auto weights = make_.rows(column, count, scales);
    static_assert(kBlockColumns % kTogether == 0 && kBlockColumns % 8 == 0, "whole steps of columns fit");
    Reader readers[kBlockColumns];
    // The kernels read whole steps of columns; the last column takes the place of those that are not there.
    for (int64_t r = 0; r < round_up(count, step_); ++r) readers[r] = weights.reader(std::min(r, count - 1));
    // What is read next of a row is its next range, and after the last one the row that takes its place.
    const int64_t distance = whole_ ? (step_ < 4 ? 2 * kAheadBytes : kAheadBytes) : range_chunks_ * Reader::kBytes;
    const AheadByRows ahead = {Reader::kBytes, make_.row_stride(), std::min(distance, row_bytes), row_bytes,
                               (whole_ ? step_ : kBlockColumns) * make_.row_stride() - row_bytes};
    std::fill_n(results, m * round_up(count, step_), zero());
    const auto lanes = [&](int64_t r) { return together_ ? Lanes{results + r * m, step_, 1} : Lanes{results + r * m, 1, m}; };
    for (int64_t r = 0; r < count; r += step_) begin(m, column + r, std::min(step_, count - r), lanes(r));
    for (int64_t chunk = 0; chunk < chunks; chunk += range_chunks_) {
      const int64_t range = std::min(range_chunks_, chunks - chunk);
      const X* x = x_at(0, chunk * Reader::kElements);
      for (int64_t r = 0; r < count; r += step_) {
        if (together_) {
          multiply_together(readers + r, chunk, range, x, m, ahead, results + r * m);
        } else {
          kKernels<Reader>[static_cast<size_t>(m - 1)](readers + r, chunk, range, x, ahead, results + r * m);
        }
      }
    }
    for (int64_t r = 0; r < count; r += step_) {
      finish(m, column + r, std::min(step_, count - r), lanes(r), sums + r, stride);
    }
  }

  // What comes before the base product, zero until now: s times the branch, unless that joins sums of codes.
  void begin(int64_t rows, int64_t column, int64_t count, const Lanes& lanes) const {
    if (!kCodes && product_.branch.rank > 0) add_branch(rows, column, count, lanes);
  }

  // From lanes to sums, [row][stride].
  void finish(int64_t rows, int64_t column, int64_t count, const Lanes& lanes, float* sums, int64_t stride) const {
    if constexpr (kCodes) {
      scale(column, count, lanes, sums, stride);
    } else {
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t r = 0; r < count; ++r) sums[i * stride + r] = with_plain_nan(reduce_add(lanes.at(i, r)));
      }
    }
  }

  void add_branch(int64_t rows, int64_t column, int64_t count, const Lanes& lanes) const {
    const Branch& branch = product_.branch;
    const bool rounded = product_.bf16 && !branch.full_precision;
    const auto* p = static_cast<const float*>(branch.p.data);
    const auto* q = static_cast<const float*>(branch.q.data) + column * branch.q.ld;
    for (int64_t part = 0; part < branch.rank; part += kLanes) {
      for (int64_t r = 0; r < count; ++r) {
        Vec q_part = load_first(q + r * branch.q.ld + part, branch.rank - part);
        if (rounded) q_part = rounded_to<bf16>(q_part);
        for (int64_t i = 0; i < rows; ++i) {
          Vec& sum = lanes.at(i, r);
          sum = fma(load_first(p + i * branch.p.ld + part, branch.rank - part), q_part, sum);
        }
      }
    }
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t i = 0; i < rows; ++i) lanes.at(i, r) *= broadcast(branch.s);
    }
  }

  // Sums of codes become values, as scale_sums() has them, and join the branch.
  void scale(int64_t column, int64_t count, const Lanes& lanes, float* sums, int64_t stride) const {
    const auto* w_absmax = static_cast<const float*>(product_.b.weight->absmax) + column;
    for (int64_t i = 0; i < product_.m; ++i) {
      const CodedRow& x = coded_[i];
      for (int64_t r = 0; r < count; ++r) {
        const auto sum = static_cast<float>(sum_of_lanes(lanes.at(i, r)) - Reader::kOffset * x.sum);
        sums[i * stride + r] = with_plain_nan(sum * (x.absmax * w_absmax[r]) * (1.0f / (127.0f * 127.0f)));
        lanes.at(i, r) = zero();
      }
    }
    if (product_.branch.rank == 0) return;
    add_branch(product_.m, column, count, lanes);
    for (int64_t i = 0; i < product_.m; ++i) {
      for (int64_t r = 0; r < count; ++r) {
        float& sum = sums[i * stride + r];
        sum = with_plain_nan(reduce_add(lanes.at(i, r)) + sum);
      }
    }
  }

  ThreadPool& pool_;
  const Product& product_;
  const Plan& plan_;
  const Make& make_;
  X* x_;
  char* threads_;
  bool together_;  // more rows than the registers hold sums of
  int64_t step_;   // columns at a time
  bool whole_;     // x needs no ranges
  int64_t range_chunks_;
  bool in_order_;
  CodedRow coded_[kCodes ? kMostRows : 1];
};

/** Readers of a dense weight. */
template <class ReaderType, class T>
struct MakeDense {
  using Reader = ReaderType;
  struct Rows {
    const T* data;
    int64_t ld;
    Reader reader(int64_t row) const { return {data + row * ld}; }
  };

  Rows rows(int64_t row, int64_t, float*) const { return {static_cast<const T*>(operand.data) + row * operand.ld, operand.ld}; }
  int64_t row_bytes() const { return k * static_cast<int64_t>(sizeof(T)); }
  int64_t row_stride() const { return operand.ld * static_cast<int64_t>(sizeof(T)); }

  const Operand& operand;
  int64_t k;
};

/** Readers of a 4-bit weight. */
template <class ReaderType>
struct MakeCodes {
  using Reader = ReaderType;
  struct Rows {
    const uint8_t* data;
    int64_t row_bytes;
    const float* scales;
    int64_t scales_per_row;
    const Table4Bit* values;
    Reader reader(int64_t row) const { return {data + row * row_bytes, scales + row * scales_per_row, values}; }
  };

  Rows rows(int64_t row, int64_t count, float* buffer) const {
    return {static_cast<const uint8_t*>(weight.data) + row * row_bytes(), row_bytes(), scales.of_rows(row, count, buffer),
            scales.per_row(), &values};
  }
  int64_t row_bytes() const { return weight.cols / 2; }
  int64_t row_stride() const { return row_bytes(); }

  const q4j_weight& weight;
  Scales scales;
  Table4Bit values;
};

template <class Make>
void run(ThreadPool& pool, const Product& product, const Plan& plan, const Make& make, char* workspace) {
  SmallMultiplication<Make>(pool, product, plan, make, workspace).run();
}

template <bool Bf16, class T>
void run_dense(ThreadPool& pool, const Product& product, const Plan& plan, char* workspace) {
#if defined(__AVX512BF16__)
  if constexpr (Bf16) {
    using Reader = DenseBf16Reader<T>;
    if (product.k % TwoChunks<Reader>::kElements == 0) {
      return run(pool, product, plan, MakeDense<TwoChunks<Reader>, T>{product.b, product.k}, workspace);
    }
    return run(pool, product, plan, MakeDense<Reader, T>{product.b, product.k}, workspace);
  }
#endif
  run(pool, product, plan, MakeDense<DenseF32Reader<T, Bf16>, T>{product.b, product.k}, workspace);
}

template <bool Bf16, bool HalfBlocks>
void run_codes(ThreadPool& pool, const Product& product, const Plan& plan, char* workspace) {
  const q4j_weight& weight = *product.b.weight;
  const Table4Bit values = Table4Bit::of(values_4bit(weight.format).data());
#if defined(__AVX512BF16__)
  if constexpr (Bf16) {
    if (!HalfBlocks && product.k % CodesBf16PairReader::kElements == 0) {
      const MakeCodes<CodesBf16PairReader> make = {weight, Scales(weight), values};
      return run(pool, product, plan, make, workspace);
    }
    const MakeCodes<CodesBf16Reader<HalfBlocks>> make = {weight, Scales(weight), values};
    return run(pool, product, plan, make, workspace);
  }
#endif
  const MakeCodes<CodesF32Reader<Bf16, HalfBlocks>> make = {weight, Scales(weight), values};
  run(pool, product, plan, make, workspace);
}

void run_int8(ThreadPool& pool, const Product& product, const Plan& plan, char* workspace) {
  if (product.codes) {
    const q4j_weight& weight = *product.b.weight;
    if (product.k % FourPartsCodes8Reader::kElements == 0) {
      return run(pool, product, plan, MakeCodes8<FourPartsCodes8Reader>{weight}, workspace);
    }
    return run(pool, product, plan, MakeCodes8<Codes8Reader>{weight}, workspace);
  }
  run(pool, product, plan, MakeRowwise<Int8F32Reader<false>>{*product.b.weight}, workspace);
}

template <bool Bf16>
void run_fp8(ThreadPool& pool, const Product& product, const Plan& plan, char* workspace) {
#if defined(__AVX512BF16__)
  using Reader = std::conditional_t<Bf16, Fp8Bf16Reader, Fp8F32Reader<false>>;
  if constexpr (Bf16) {
    if (product.k % TwoChunks<Reader>::kElements == 0) {
      return run(pool, product, plan, MakeRowwise<TwoChunks<Reader>>{*product.b.weight}, workspace);
    }
  }
#else
  using Reader = Fp8F32Reader<Bf16>;
#endif
  run(pool, product, plan, MakeRowwise<Reader>{*product.b.weight}, workspace);
}

template <bool Bf16>
void run_any(ThreadPool& pool, const Product& product, const Plan& plan, char* workspace) {
  if (product.b.weight == nullptr) {
    if (product.b.dtype == Q4J_BF16) return run_dense<Bf16, bf16>(pool, product, plan, workspace);
    return run_dense<Bf16, float>(pool, product, plan, workspace);
  }
  if (product.b.weight->format == Q4J_WEIGHT_INT8) return run_int8(pool, product, plan, workspace);
  if (product.b.weight->format == Q4J_WEIGHT_FP8) return run_fp8<Bf16>(pool, product, plan, workspace);
  if (product.b.weight->block_size == QuantizedSource::kChunk) return run_codes<Bf16, true>(pool, product, plan, workspace);
  run_codes<Bf16, false>(pool, product, plan, workspace);
}

}  // namespace

bool serves_small(const Product& product) {
  if (!fits(product) || product.b.contract_rows || product.a.dropout != nullptr || product.branch.dropout != nullptr)
    return false;
  if (product.bf16 && product.a.dtype != Q4J_BF16) return false;
  if (product.b.weight == nullptr)
    return product.b.dtype != Q4J_F16 && product.m <= (product.bf16 ? kMost.dense_bf16 : kMost.dense_f32);
  switch (product.b.weight->format) {
    case Q4J_WEIGHT_INT8:
      if (product.codes) return product.m <= kMost.int8_codes && product.k <= kMostCodes;
      return product.m <= kMost.int8_f32 && !product.bf16;
    case Q4J_WEIGHT_FP8:
      return product.m <= (product.bf16 ? kMost.fp8_bf16 : kMost.fp8_f32);
    default:
      return product.m <= (product.bf16 ? kMost.four_bit_bf16 : kMost.four_bit_f32);
  }
}

int64_t multiply_small_workspace_size(const ThreadPool& pool, const Product& product) {
  if (!fits(product) || product.b.contract_rows) return 0;
  const Plan plan = make_plan(pool, product);
  return plan.x_bytes + pool.threads() * plan.thread_bytes() + 64;
}

void multiply_small(ThreadPool& pool, const Product& product, void* workspace) {
  const Plan plan = make_plan(pool, product);
  char* aligned = aligned_to_line(workspace);
  if (product.bf16) {
    run_any<true>(pool, product, plan, aligned);
  } else {
    run_any<false>(pool, product, plan, aligned);
  }
}

}  // namespace q4j::cpu
