// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#include "linear_small.h"

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>

#include "gemm_epilogue.h"
#include "gemm_source.h"
#include "linear_small_kernel.h"
#include "round_up.h"

namespace q4j::cpu {

namespace {

// Most rows: beyond, multiply() is faster, because it decodes once for all rows and this once per group. Measured; see
// docs/kernels/linear.md.
#if defined(__AVX512BF16__)
constexpr int64_t kMostRows = 36;
constexpr int64_t kMostRowsRounded = kMostRows;
#elif defined(__AVX512F__)
constexpr int64_t kMostRows = 48;
constexpr int64_t kMostRowsRounded = 24;
#else
constexpr int64_t kMostRows = 24;
constexpr int64_t kMostRowsRounded = kMostRows;
#endif
// kMostRowsRounded: of a bf16 product with codes, where every group rounds the values of a block anew.
static_assert(kMostRowsRounded <= kMostRows, "kMostRows is the bound of the workspace");

// Rows of x that are multiplied together, and columns with them: their sums fit into the registers beside what decoding takes.
// With AVX-512, 12 rows with two columns are slower than 6 with four: they read twice as much of x. With AVX2 the tables of two
// columns do not fit beside the sums. One or two rows with four columns of a dense weight wait for the multipliers' latency;
// with codes two columns and more sums are faster, because memory is read in fewer places.
#if defined(__AVX512F__)
constexpr int kGroupRows = 6;
#else
constexpr int kGroupRows = 8;
#endif

template <class Reader>
constexpr int columns_with(int64_t rows) {
#if defined(__AVX512F__)
  if (Reader::kDense) return rows <= 2 ? 8 : 4;
  return rows <= (std::is_same_v<typename Reader::X, float> ? 1 : 2) ? 2 : 4;
#else
  if (!Reader::kDense || rows > 4) return 1;
  return rows <= 2 ? 4 : 2;
#endif
}

// Sets of sums, so that eight products or more are under way.
template <class Reader>
constexpr int sets_with([[maybe_unused]] int64_t rows) {
#if defined(__AVX512F__)
  if (!Reader::kDense && columns_with<Reader>(rows) == 2) return rows == 1 ? 4 : 2;
#endif
  return 1;
}

// Bytes of x that stay in the first-level cache (32 KiB and more) while kBlockColumns columns pass by: a longer contraction is
// taken in ranges, with the sums kept in between.
constexpr int64_t kBlockBytes = 24 * 1024;
constexpr int64_t kBlockColumns = 16;
// Most columns that a kernel takes; divides kBlockColumns.
constexpr int64_t kMostColumns = 8;
// Columns of a task: enough that fetching ahead does not end all the time, few enough that the threads end together.
constexpr int64_t kTaskColumns = 256;
constexpr int64_t kLeastTaskColumns = 4;
constexpr int64_t kTasksPerThread = 8;
// Bytes of a row that are fetched ahead, and of rows that are fetched in the order of memory.
constexpr int64_t kAheadBytes = 1024;
constexpr int64_t kAheadInOrderBytes = 6 * 1024;
// Elements of x from which several threads rearrange it.
constexpr int64_t kSharedElements = 1 << 16;

bool fits(const Product& p) { return p.m > 0 && p.m <= kMostRows && p.n > 0 && p.k > 0 && p.k % kChunk == 0; }

struct Plan {
  bool serial;
  int64_t groups;
  int64_t task_columns;
  // Bytes, multiples of 64.
  int64_t x_bytes;
  int64_t scale_bytes;  // per thread
  int64_t sum_bytes;    // per thread
};

Plan make_plan(const ThreadPool& pool, const Product& p) {
  Plan plan;
  plan.serial = 2.0 * static_cast<double>(p.m) * static_cast<double>(p.n) * static_cast<double>(p.k) < kSerialOperations;
  plan.groups = (p.m + kGroupRows - 1) / kGroupRows;
  const int64_t tasks = pool.threads() * kTasksPerThread;
  plan.task_columns = std::clamp(round_up(p.n / tasks, kLeastTaskColumns), kLeastTaskColumns, kTaskColumns);
  plan.x_bytes = round_up(p.m * p.k * 4, 64);
  plan.scale_bytes = round_up(kBlockColumns * p.k / QuantizedSource::kChunk * 4, 64);
  plan.sum_bytes = round_up(p.m * round_up(plan.task_columns, kLanes) * 4, 64);
  return plan;
}

#if defined(__AVX512F__)

/** The signed dynamic map as two planes of 16 bits, for VPERMT2W, which picks from 64 words. */
struct MapPlanes {
  MapPlanes() {
    for (size_t i = 0; i < 256; ++i) {
      low[i] = static_cast<uint16_t>(bits_of(dynamic_signed_map[i]));
      high[i] = static_cast<uint16_t>(bits_of(dynamic_signed_map[i]) >> 16);
    }
  }
  alignas(64) uint16_t low[256];
  alignas(64) uint16_t high[256];
};

/** Values of the signed dynamic map, 32 codes at a time: an instruction a code, where a gather takes more. */
class DynamicMap {
 public:
  void look_up(const uint8_t* codes, Vec& first, Vec& second) const {
    const __m512i even = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
    const __m512i odd = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + kLanes)));
    const __m512i words = _mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
    const __m512i low = pick(planes().low, words);
    const __m512i high = pick(planes().high, words);
    first = {
        _mm512_castsi512_ps(_mm512_or_si512(_mm512_and_si512(low, _mm512_set1_epi32(0xffff)), _mm512_slli_epi32(high, 16)))};
    second = {
        _mm512_castsi512_ps(_mm512_or_si512(_mm512_srli_epi32(low, 16), _mm512_andnot_si512(_mm512_set1_epi32(0xffff), high)))};
  }

 private:
  static const MapPlanes& planes() {
    static const MapPlanes kPlanes;
    return kPlanes;
  }

  // The words of a plane that the low bytes of `index` name.
  static __m512i pick(const uint16_t* plane, __m512i index) {
    __m512i quarters[4];
    for (int i = 0; i < 4; ++i) {
      quarters[i] = _mm512_permutex2var_epi16(_mm512_load_si512(plane + 64 * i), index, _mm512_load_si512(plane + 64 * i + 32));
    }
    const __mmask32 bit_6 = _mm512_test_epi16_mask(index, _mm512_set1_epi16(0x40));
    const __mmask32 bit_7 = _mm512_test_epi16_mask(index, _mm512_set1_epi16(0x80));
    return _mm512_mask_blend_epi16(bit_7, _mm512_mask_blend_epi16(bit_6, quarters[0], quarters[1]),
                                   _mm512_mask_blend_epi16(bit_6, quarters[2], quarters[3]));
  }
};

#endif

/** The absmax of a weight's blocks, many at a time. */
class Scales {
 public:
  explicit Scales(const q4j_weight& weight)
      : weight_(weight),
        source_(weight),
        unit_(weight.block_size == QuantizedSource::kChunk ? QuantizedSource::kChunk : kChunk),
        per_row_(weight.cols / unit_) {}

  /** One per chunk, or two with blocks of half a chunk. */
  int64_t per_row() const { return per_row_; }

  /** Those of `rows` rows; in `buffer` where the weight does not have them in this form. */
  const float* of_rows(int64_t row, int64_t rows, float* buffer) const {
    const int64_t first = row * per_row_;
    const int64_t count = rows * per_row_;
    if (weight_.block_size != unit_) {
      for (int64_t i = 0; i < count; ++i) buffer[i] = source_.absmax_at((first + i) * unit_);
      return buffer;
    }
    if (weight_.nested_block_size == 0) return static_cast<const float*>(weight_.absmax) + first;
    const auto* codes = static_cast<const uint8_t*>(weight_.absmax);
    const auto* nested_absmax = static_cast<const float*>(weight_.nested_absmax);
    for (int64_t i = 0; i < count;) {
      const int64_t nested = (first + i) / weight_.nested_block_size;
      const int64_t end = std::min(count, (nested + 1) * weight_.nested_block_size - first);
      const float factor = nested_absmax[nested];
#if defined(__AVX512F__)
      for (; i + 2 * kLanes <= end; i += 2 * kLanes) {
        Vec low, high;
        DynamicMap().look_up(codes + first + i, low, high);
        store(buffer + i, low * broadcast(factor) + broadcast(weight_.nested_offset));
        store(buffer + i + kLanes, high * broadcast(factor) + broadcast(weight_.nested_offset));
      }
#endif
      for (; i < end; ++i) {
        const float product = dynamic_signed_map[codes[first + i]] * factor;
        buffer[i] = product + weight_.nested_offset;
      }
    }
    return buffer;
  }

 private:
  const q4j_weight& weight_;
  QuantizedSource source_;
  int64_t unit_;
  int64_t per_row_;
};

template <class Reader>
using Kernel = void (*)(const Reader*, int64_t, int64_t, const typename Reader::X*, const Ahead&, Vec*);

template <class Reader, int... M>
constexpr std::array<Kernel<Reader>, sizeof...(M)> kernels_for(std::integer_sequence<int, M...>) {
  return {multiply_rows<Reader, M + 1, columns_with<Reader>(M + 1), sets_with<Reader>(M + 1)>...};
}

// By rows of x, from one on.
template <class Reader>
constexpr std::array<Kernel<Reader>, kGroupRows> kKernels = kernels_for<Reader>(std::make_integer_sequence<int, kGroupRows>());

/** One product at work. Make::reader(row, scales) gives the reader of a row of the weight. */
template <class Make>
class SmallMultiplication {
 public:
  using Reader = typename Make::Reader;
  using X = typename Reader::X;

  SmallMultiplication(ThreadPool& pool, const Product& product, const Plan& plan, const Make& make, char* workspace)
      : pool_(pool),
        product_(product),
        plan_(plan),
        make_(make),
        x_(reinterpret_cast<X*>(workspace)),
        threads_(workspace + plan.x_bytes) {}

  void run() {
    const bool alone = plan_.serial || product_.m * product_.k < kSharedElements;
    parallel_for(alone, plan_.groups, [&](int64_t group, int) { arrange(group); });
    const int64_t tasks = (product_.n + plan_.task_columns - 1) / plan_.task_columns;
    parallel_for(plan_.serial, tasks, [&](int64_t task, int thread) {
      const int64_t first = task * plan_.task_columns;
      run_task(first, std::min(plan_.task_columns, product_.n - first),
               threads_ + thread * (plan_.scale_bytes + plan_.sum_bytes));
    });
  }

 private:
  template <class F>
  void parallel_for(bool alone, int64_t tasks, F&& f) {
    if (alone) {
      for (int64_t task = 0; task < tasks; ++task) f(task, 0);
    } else {
      pool_.parallel_for(tasks, f);
    }
  }

  // Groups of equal size, but for one row.
  int64_t first_row(int64_t group) const { return product_.m * group / plan_.groups; }

  void arrange(int64_t group) {
    if (product_.a.dtype == Q4J_BF16) {
      arrange_from(group, static_cast<const bf16*>(product_.a.data));
    } else if constexpr (std::is_same_v<X, float>) {
      arrange_from(group, static_cast<const float*>(product_.a.data));
    }
  }

  template <class T>
  void arrange_from(int64_t group, const T* data) {
    const int64_t first = first_row(group);
    const int64_t rows = first_row(group + 1) - first;
    X* group_to = x_ + first * product_.k;
    for (int64_t row = 0; row < rows; ++row) {
      const T* from = data + (first + row) * product_.a.ld;
      X* to = group_to + row * Reader::kElements;
      for (int64_t i = 0; i < product_.k; i += Reader::kElements) {
        Reader::arrange(from + i, to);
        to += rows * Reader::kElements;
      }
    }
  }

  void run_task(int64_t first, int64_t columns, char* memory) {
    auto* scales = reinterpret_cast<float*>(memory);
    auto* sums = reinterpret_cast<float*>(memory + plan_.scale_bytes);
    const int64_t stride = round_up(plan_.task_columns, kLanes);
    const int64_t row_bytes = make_.row_bytes();
    const int64_t chunks = product_.k / Reader::kElements;
    const int64_t group_rows = (product_.m + plan_.groups - 1) / plan_.groups;
    const int64_t x_bytes = group_rows * Reader::kElements * static_cast<int64_t>(sizeof(X));
    const bool whole = chunks * x_bytes <= kBlockBytes;
    const bool in_order = !Reader::kDense && whole && plan_.groups == 1;
    const int64_t block = whole ? chunks : std::max<int64_t>(1, kBlockBytes / x_bytes);
    // What is read next of a row is its next range, and after the last one the row that takes its place.
    const int64_t distance = std::min(whole ? kAheadBytes : block * Reader::kBytes, row_bytes);
    for (int64_t j = 0; j < columns; j += kBlockColumns) {
      const int64_t count = std::min(kBlockColumns, columns - j);
      const auto weights = make_.rows(first + j, count, scales);
      Reader readers[kBlockColumns];
      // The kernels read whole steps of columns; the last column takes the place of those that are not there.
      for (int64_t r = 0; r < round_up(count, kMostColumns); ++r) readers[r] = weights.reader(std::min(r, count - 1));
      for (int64_t group = 0; group < plan_.groups; ++group) {
        const int64_t row = first_row(group);
        const int64_t rows = first_row(group + 1) - row;
        const Kernel<Reader> kernel = kKernels<Reader>[static_cast<size_t>(rows - 1)];
        const int64_t step = columns_with<Reader>(rows);
        const Ahead ahead = in_order ? Ahead::in_order(Reader::kBytes, step, kAheadInOrderBytes)
                                     : Ahead::by_rows(Reader::kBytes, make_.row_stride(), row_bytes, distance,
                                                      (whole ? step : kBlockColumns) * make_.row_stride() - row_bytes);
        const X* x = x_ + row * product_.k;
        Vec results[kGroupRows * kBlockColumns];
        start(row, rows, first + j, count, results);
        for (int64_t chunk = 0; chunk < chunks; chunk += block) {
          for (int64_t r = 0; r < count; r += step) {
            kernel(readers + r, chunk, std::min(block, chunks - chunk), x + chunk * rows * Reader::kElements, ahead,
                   results + r * rows);
          }
        }
        for (int64_t i = 0; i < rows; ++i) {
          for (int64_t r = 0; r < count; ++r) sums[(row + i) * stride + j + r] = reduce_add(results[r * rows + i]);
        }
      }
    }
    if (product_.epilogue.dtype == Q4J_BF16) {
      finish_sums<bf16>(product_.epilogue, sums, stride, 0, first, product_.m, columns);
    } else {
      finish_sums<float>(product_.epilogue, sums, stride, 0, first, product_.m, columns);
    }
  }

  // The sums before the base product: s times the branch.
  void start(int64_t row, int64_t rows, int64_t column, int64_t columns, Vec* results) const {
    const Branch& branch = product_.branch;
    for (int64_t i = 0; i < rows * round_up(columns, kMostColumns); ++i) results[i] = zero();
    if (branch.rank == 0) return;
    const bool rounded = product_.bf16 && !branch.full_precision;
    const auto* p = static_cast<const float*>(branch.p.data) + row * branch.p.ld;
    const auto* q = static_cast<const float*>(branch.q.data) + column * branch.q.ld;
    for (int64_t part = 0; part < branch.rank; part += kLanes) {
      for (int64_t r = 0; r < columns; ++r) {
        Vec q_part = load_first(q + r * branch.q.ld + part, branch.rank - part);
        if (rounded) q_part = rounded_to<bf16>(q_part);
        for (int64_t i = 0; i < rows; ++i) {
          Vec& sum = results[r * rows + i];
          sum = fma(load_first(p + i * branch.p.ld + part, branch.rank - part), q_part, sum);
        }
      }
    }
    for (int64_t i = 0; i < rows * columns; ++i) results[i] = results[i] * broadcast(branch.s);
  }

  ThreadPool& pool_;
  const Product& product_;
  const Plan& plan_;
  const Make& make_;
  X* x_;
  char* threads_;
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
    Table4Bit values;
    Reader reader(int64_t row) const { return {data + row * row_bytes, scales + row * scales_per_row, values}; }
  };

  Rows rows(int64_t row, int64_t count, float* buffer) const {
    return {static_cast<const uint8_t*>(weight.data) + row * row_bytes(), row_bytes(), scales.of_rows(row, count, buffer),
            scales.per_row(), values};
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
    return run(pool, product, plan, MakeDense<DenseBf16Reader<T>, T>{product.b, product.k}, workspace);
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

template <bool Bf16>
void run_any(ThreadPool& pool, const Product& product, const Plan& plan, char* workspace) {
  if (product.b.weight == nullptr) {
    if (product.b.dtype == Q4J_BF16) return run_dense<Bf16, bf16>(pool, product, plan, workspace);
    return run_dense<Bf16, float>(pool, product, plan, workspace);
  }
  if (product.b.weight->block_size == QuantizedSource::kChunk) return run_codes<Bf16, true>(pool, product, plan, workspace);
  run_codes<Bf16, false>(pool, product, plan, workspace);
}

}  // namespace

bool serves_small(const Product& product) {
  if (!fits(product) || product.b.contract_rows || product.a.dropout != nullptr || product.branch.dropout != nullptr)
    return false;
  if (product.b.weight == nullptr && product.b.dtype == Q4J_F16) return false;
  if (product.b.weight != nullptr && product.b.weight->format > Q4J_WEIGHT_FP4) return false;
  if (product.b.weight != nullptr && product.bf16 && product.m > kMostRowsRounded) return false;
  return product.a.dtype == Q4J_BF16 || !product.bf16;
}

int64_t multiply_small_workspace_size(const ThreadPool& pool, const Product& product) {
  if (!fits(product)) return 0;
  const Plan plan = make_plan(pool, product);
  return plan.x_bytes + pool.threads() * (plan.scale_bytes + plan.sum_bytes) + 64;
}

void multiply_small(ThreadPool& pool, const Product& product, void* workspace) {
  const Plan plan = make_plan(pool, product);
  char* aligned = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(workspace) + 63) & ~uintptr_t{63});
  if (product.bf16) {
    run_any<true>(pool, product, plan, aligned);
  } else {
    run_any<false>(pool, product, plan, aligned);
  }
}

}  // namespace q4j::cpu
