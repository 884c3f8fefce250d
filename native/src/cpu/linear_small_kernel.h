// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The innermost products of a few rows of x with rows of a weight, which are columns of the product. Columns of them are
 * decoded into registers, a chunk at a time, and every vector is multiplied with M rows of x before the next one is decoded
 * (multiply_rows()); or, with more rows of x, several vectors of each column with all of them (multiply_together()).
 *
 * A reader decodes one row of the weight. It makes the kElements elements of a chunk in kParts vectors, in the order that
 * decoding gives for free, and arrange() brings as many elements of x into that order. x is then [chunk][M][part][lane].
 *
 *   Bf16 readers (AVX512-BF16)  2 or 4 parts of 32 bf16 for VDPBF16PS
 *   F32 readers                 kChunk / kLanes parts of f32 for FMA; rounded to bf16 where the product is a bf16 one
 *
 * A reader's Order says up to how many rows of x keep their sums in registers (kRegisterRows) and, for so many, how many
 * columns are best taken together (columns), in how many sets of sums (sets), and up to how many rows of x its rows are best
 * fetched in the order of memory (kInOrderRows; see AheadInOrder).
 *
 * A 4-bit code is decoded by looking it up in its block's 16 values: table times absmax, rounded once, made once per block.
 */
#ifndef QLORA4J_SRC_CPU_LINEAR_SMALL_KERNEL_H_
#define QLORA4J_SRC_CPU_LINEAR_SMALL_KERNEL_H_

#include <cstdint>
#include <cstring>

#include "gemm_source.h"
#include "intrinsics.h"
#include "vec.h"

namespace q4j::cpu {

// Rows of x whose sums stay in registers; with more, what is decoded does, and the sums lie in memory.
constexpr int kRegisterRows = 3;
// Then so many rows of the weight are taken at a time, and so many of their parts: these and a sum fit the registers.
#if defined(__AVX512F__)
constexpr int kTogether = 4;
#else
constexpr int kTogether = 2;
#endif
constexpr int kHeldParts = 4;

// Elements of x or dy from which several threads rearrange it.
constexpr int64_t kSharedElements = 1 << 16;

// Bytes between the memory of two threads: prefetchers run on into what follows (m = 1 and 8 took 4 and 2 % longer).
constexpr int64_t kThreadsApart = 4096;

/**
 * Rows fetched each in its own place, with one set of sums. One or two rows of x with fewer columns would wait for the
 * multipliers' latency. With AVX2 the sums of more rows leave no registers for more.
 */
struct ByRows {
  static constexpr int kRegisterRows = q4j::cpu::kRegisterRows;
  static constexpr int columns(int64_t rows) {
#if defined(__AVX512F__)
    return rows <= 2 ? 8 : 4;
#else
    return rows <= 2 ? 4 : 2;
#endif
  }
  static constexpr int sets(int64_t) { return 1; }
  static constexpr int kInOrderRows = 0;
};

/**
 * Up to Few rows of x take two columns with more sums (one row: Sets of them), which is faster than four with one sum each:
 * memory is read in fewer places, and in its order (m = 1 46 against 39 to 43 GB/s).
 */
template <int Few, int Sets>
struct InOrder {
  static constexpr int kRegisterRows = q4j::cpu::kRegisterRows;
  static constexpr int columns(int64_t rows) { return rows <= Few ? 2 : 4; }
  static constexpr int sets(int64_t rows) { return rows > Few ? 1 : rows == 1 ? Sets : 2; }
  static constexpr int kInOrderRows = Few;
};

/** Elements of a chunk; some readers take more at a time. A block has 32 elements or a multiple of this. */
constexpr int kChunk = 64;

/** The 16 values of a 4-bit format as vectors. No array: GCC 12 copies that through memory. */
struct Table4Bit {
  Vec low;
  Vec high;  // the last eight where `low` has eight lanes

  static Table4Bit of(const float* values) { return {load(values), kLanes == 8 ? load(values + 8) : zero()}; }

#if defined(__AVX512F__)
  template <bool Rounded>
  Table4Bit scaled(float factor) const {
    const Vec values = low * broadcast(factor);
    return {Rounded ? rounded_to<bf16>(values) : values, zero()};
  }
#endif
};

#if defined(__AVX512BF16__)

/** Every other word of two vectors. */
struct Alternate {
  __m512i even;
  __m512i odd;
};

static inline Alternate alternate(__m512i first, __m512i second) {
  alignas(64) static constexpr uint16_t kEven[32] = {0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                                     32, 34, 36, 38, 40, 42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62};
  const __m512i even = _mm512_load_si512(kEven);
  const __m512i odd = _mm512_or_si512(even, _mm512_set1_epi16(1));
  return {_mm512_permutex2var_epi16(first, even, second), _mm512_permutex2var_epi16(first, odd, second)};
}

/** The even elements of a chunk of x, then the odd ones. */
static inline void arrange_alternately(const bf16* from, bf16* to) {
  const Alternate x = alternate(_mm512_loadu_si512(from), _mm512_loadu_si512(from + 32));
  _mm512_storeu_si512(to, x.even);
  _mm512_storeu_si512(to + 32, x.odd);
}

/** Rows of bf16, or of f32 to be rounded. */
template <class T>
struct DenseBf16Reader {
  using X = bf16;
  using Order = ByRows;
  static constexpr int kParts = 2;
  static constexpr int kElements = kChunk;
  static constexpr int kBytes = kChunk * sizeof(T);
  static void arrange(const bf16* from, bf16* to) { std::memcpy(to, from, kElements * sizeof(bf16)); }

  struct Chunk {
    const T* p;
    __m512i part(int i) const {
      if constexpr (std::is_same_v<T, bf16>) {
        return _mm512_loadu_si512(p + i * 32);
      } else {
        return to_bf16(load(p + i * 32).v, load(p + i * 32 + kLanes).v);
      }
    }
  };

  Chunk chunk(int64_t i) const { return {data + i * kChunk}; }
  const char* bytes() const { return reinterpret_cast<const char*>(data); }

  const T* data;
};

/**
 * Rows of 4-bit codes. HalfBlocks: blocks of 32 elements, two to a chunk.
 *
 * Readers of codes point to the format's values. One that held them would be copied in vectors right after its pointers were
 * written, and such a read waits until everything before it has retired.
 */
template <bool HalfBlocks>
struct CodesBf16Reader {
  using X = bf16;
  using Order = InOrder<2, 2>;
  static constexpr int kParts = 2;
  static constexpr int kElements = kChunk;
  static constexpr int kBytes = kChunk / 2;
  // A byte has an even element in its high half and the odd one after it in its low half.
  static void arrange(const bf16* from, bf16* to) { arrange_alternately(from, to); }

  struct Chunk {
    __m512i words;  // a code byte each
    __m512i table;  // 16 bf16 values twice, or of two blocks
    // VPERMW looks at the low five bits of a word. Where both halves of the table are equal the fifth does not matter.
    __m512i part(int i) const {
      __m512i index = i == 0 ? _mm512_srli_epi16(words, 4) : words;
      if constexpr (HalfBlocks) {
        const __m512i upper = _mm512_mask_set1_epi16(_mm512_setzero_si512(), 0xffff0000u, 16);
        index = _mm512_ternarylogic_epi32(index, _mm512_set1_epi16(15), upper, 0xea);  // index & 15 | upper
      }
      return _mm512_permutexvar_epi16(index, table);
    }
  };

  Chunk chunk(int64_t i) const {
    const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data + i * kBytes));
    __m512 low;
    __m512 high;
    if constexpr (HalfBlocks) {
      low = _mm512_mul_ps(values->low.v, _mm512_set1_ps(scales[2 * i]));
      high = _mm512_mul_ps(values->low.v, _mm512_set1_ps(scales[2 * i + 1]));
    } else {
      low = high = _mm512_mul_ps(values->low.v, _mm512_set1_ps(scales[i]));
    }
    return {_mm512_cvtepu8_epi16(codes), to_bf16(low, high)};
  }
  const char* bytes() const { return reinterpret_cast<const char*>(data); }

  const uint8_t* data;
  const float* scales;
  const Table4Bit* values;
};

/** Rows of 4-bit codes in blocks of kChunk or more, two chunks at a time: no byte is widened, one conversion makes two tables,
 * and codes become indices two to a word. */
struct CodesBf16PairReader {
  using X = bf16;
  using Order = InOrder<2, 4>;
  static constexpr int kElements = 2 * kChunk;
  static constexpr int kParts = 4;
  static constexpr int kBytes = kElements / 2;
  // A word has four codes, in the order of elements at bits 4, 0, 12, 8; the first 16 words are the first chunk. Parts take
  // them from bits 0, 8, 4, 12.
  static void arrange(const bf16* from, bf16* to) {
    const Alternate first = alternate(_mm512_loadu_si512(from), _mm512_loadu_si512(from + 32));
    const Alternate second = alternate(_mm512_loadu_si512(from + 64), _mm512_loadu_si512(from + 96));
    const Alternate even = alternate(first.even, second.even);
    const Alternate odd = alternate(first.odd, second.odd);
    _mm512_storeu_si512(to, odd.even);
    _mm512_storeu_si512(to + 32, odd.odd);
    _mm512_storeu_si512(to + 64, even.even);
    _mm512_storeu_si512(to + 96, even.odd);
  }

  struct Chunk {
    __m512i words;
    __m512i table;
    __m512i part(int i) const {
      // Both codes at once get the bit that chooses the second chunk's half of the table.
      const __m512i upper = _mm512_mask_set1_epi16(_mm512_setzero_si512(), 0xffff0000u, 0x1010);
      const __m512i codes = i < 2 ? words : _mm512_srli_epi16(words, 4);
      const __m512i indices = _mm512_ternarylogic_epi32(codes, _mm512_set1_epi16(0x0f0f), upper, 0xea);  // codes & 0f0f | upper
      return _mm512_permutexvar_epi16(i % 2 == 0 ? indices : _mm512_srli_epi16(indices, 8), table);
    }
  };

  Chunk chunk(int64_t i) const {
    const __m512 low = _mm512_mul_ps(values->low.v, _mm512_set1_ps(scales[2 * i]));
    const __m512 high = _mm512_mul_ps(values->low.v, _mm512_set1_ps(scales[2 * i + 1]));
    __m512i words = _mm512_loadu_si512(data + i * kBytes);
    // In a register from here on: GCC would read the codes from memory again for each of the shifts.
    __asm__("" : "+v"(words));
    return {words, to_bf16(low, high)};
  }
  const char* bytes() const { return reinterpret_cast<const char*>(data); }

  const uint8_t* data;
  const float* scales;
  const Table4Bit* values;
};

static inline Vec multiply_add(const bf16* x, __m512i part, Vec sum) {
  return {_mm512_dpbf16_ps(sum.v, reinterpret_cast<__m512bh>(_mm512_loadu_si512(x)), reinterpret_cast<__m512bh>(part))};
}

#endif

#if defined(__AVX512F__)

/** Every other lane of two vectors. */
struct AlternateF32 {
  Vec even;
  Vec odd;
};

static inline AlternateF32 alternate(Vec first, Vec second) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
  return {{_mm512_permutex2var_ps(first.v, even, second.v)}, {_mm512_permutex2var_ps(first.v, odd, second.v)}};
}

#endif

/** The elements of a chunk of x as they come. */
template <class T>
static inline void arrange_plainly(const T* from, float* to) {
  for (int i = 0; i < kChunk; i += kLanes) store(to + i, load(from + i));
}

/** Rows of any dense type, widened to f32, or rounded to bf16 first. */
template <class T, bool Rounded>
struct DenseF32Reader {
  using X = float;
  using Order = ByRows;
  static constexpr int kParts = kChunk / kLanes;
  static constexpr int kElements = kChunk;
  static constexpr int kBytes = kChunk * sizeof(T);
  template <class U>
  static void arrange(const U* from, float* to) {
    arrange_plainly(from, to);
  }

  struct Chunk {
    const T* p;
    Vec part(int i) const {
      const Vec v = load(p + i * kLanes);
      if constexpr (Rounded && !std::is_same_v<T, bf16>) return rounded_to<bf16>(v);
      return v;
    }
  };

  Chunk chunk(int64_t i) const { return {data + i * kChunk}; }
  const char* bytes() const { return reinterpret_cast<const char*>(data); }

  const T* data;
};

#if defined(__AVX512F__)

/** Rows of 4-bit codes; linear_small_avx2.h has those of 256 bits. */
template <bool Rounded, bool HalfBlocks>
struct CodesF32Reader {
  using X = float;
  using Order = InOrder<1, 4>;
  static constexpr int kParts = kChunk / kLanes;
  static constexpr int kElements = kChunk;
  static constexpr int kBytes = kChunk / 2;
  // kLanes words of two bytes, four codes each, make four parts. In the order of elements a word's codes lie at bits 4, 0,
  // 12, 8.
  template <class U>
  static void arrange(const U* from, float* to) {
    for (int i = 0; i < kElements; i += 4 * kLanes) {
      const AlternateF32 first = alternate(load(from + i), load(from + i + kLanes));
      const AlternateF32 second = alternate(load(from + i + 2 * kLanes), load(from + i + 3 * kLanes));
      const AlternateF32 even = alternate(first.even, second.even);
      const AlternateF32 odd = alternate(first.odd, second.odd);
      store(to + i, even.even);
      store(to + i + kLanes, odd.even);
      store(to + i + 2 * kLanes, even.odd);
      store(to + i + 3 * kLanes, odd.odd);
    }
  }

  struct Chunk {
    const uint8_t* p;
    Table4Bit low;
    Table4Bit high;  // of the second half; used with HalfBlocks only

    Vec part(int i) const {
      constexpr int kShifts[4] = {4, 0, 12, 8};
      const int shift = kShifts[i % 4];
      const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
      const __m512i index = _mm512_srli_epi32(words, static_cast<unsigned>(shift));
      // VPERMPS looks at the low four bits of an index, VPERMT2PS at the low five.
      if constexpr (HalfBlocks) {
        const __m512i upper = _mm512_mask_set1_epi32(_mm512_setzero_si512(), 0xff00, 16);
        const __m512i both = _mm512_ternarylogic_epi32(index, _mm512_set1_epi32(15), upper, 0xea);  // index & 15 | upper
        return {_mm512_permutex2var_ps(low.low.v, both, high.low.v)};
      }
      return {_mm512_permutexvar_ps(index, low.low.v)};
    }
  };

  Chunk chunk(int64_t i) const {
    const uint8_t* p = data + i * kBytes;
    if constexpr (HalfBlocks) {
      return {p, values->template scaled<Rounded>(scales[2 * i]), values->template scaled<Rounded>(scales[2 * i + 1])};
    } else {
      const Table4Bit table = values->template scaled<Rounded>(scales[i]);
      return {p, table, table};
    }
  }
  const char* bytes() const { return reinterpret_cast<const char*>(data); }

  const uint8_t* data;
  const float* scales;
  const Table4Bit* values;
};

#endif

/** Another reader of rows with an even number of chunks, two at a time: more to multiply for each time that sums pass by. */
template <class Reader>
struct TwoChunks {
  using X = typename Reader::X;
  using Order = typename Reader::Order;
  static constexpr int kElements = 2 * Reader::kElements;
  static constexpr int kParts = 2 * Reader::kParts;
  static constexpr int kBytes = 2 * Reader::kBytes;
  static constexpr int kOffset = Reader::kOffset;  // of readers that have it; elsewhere nothing asks
  static void arrange(const bf16* from, X* to) {
    Reader::arrange(from, to);
    Reader::arrange(from + Reader::kElements, to + Reader::kElements);
  }

  static int arrange(const bf16* from, float absmax, X* to) {
    return Reader::arrange(from, absmax, to) + Reader::arrange(from + Reader::kElements, absmax, to + Reader::kElements);
  }

  static TwoChunks of(const void* row, float factor) { return {Reader::of(row, factor)}; }

  struct Chunk {
    typename Reader::Chunk first;
    typename Reader::Chunk second;
    auto part(int i) const { return i < Reader::kParts ? first.part(i) : second.part(i - Reader::kParts); }
  };

  Chunk chunk(int64_t i) const { return {reader.chunk(2 * i), reader.chunk(2 * i + 1)}; }
  const char* bytes() const { return reader.bytes(); }

  Reader reader;
};

static inline Vec multiply_add(const float* x, Vec part, Vec sum) { return fma(load(x), part, sum); }

/**
 * What the kernel fetches ahead while it reads a chunk of a column, as bytes from the beginning of the first column's row. This
 * one is for rows of which ranges are read in turn: each is fetched in its own place, at
 *
 *   next = chunk * chunk_step + distance, and `skip` further from `end` on,
 *
 * and column * row_step. skip: from the end of a row to the start of the one that takes its place.
 */
struct AheadByRows {
  static constexpr bool kOnce = false;
  int64_t chunk_step;
  int64_t row_step;
  int64_t distance;
  int64_t end;
  int64_t skip;

  int64_t at(int64_t chunk, int column) const {
    const int64_t next = chunk * chunk_step + distance;
    return next + (skip & -static_cast<int64_t>(next >= end)) + column * row_step;  // no branch
  }
};

/**
 * The same for Columns rows, of chunks of Bytes, that follow each other in memory and are read once: they are fetched in the
 * order of memory, whatever the order of reading.
 */
template <int Columns, int Bytes>
struct AheadInOrder {
  static constexpr bool kOnce = true;
  int64_t distance;

  int64_t at(int64_t chunk, int column) const { return (chunk * Columns + column) * Bytes + distance; }
};

/** Once: the lines will be read once and should not displace others. */
template <int Bytes, bool Once>
static inline void fetch(uintptr_t address) {
#pragma GCC unroll 4
  for (int line = 0; line < Bytes; line += 64) {
    const char* p = reinterpret_cast<const char*>(address + static_cast<uintptr_t>(line));
    _mm_prefetch(p, Once ? _MM_HINT_NTA : _MM_HINT_T0);
  }
}

/**
 * results[r][i] += x[i] * (row r of the weight) from chunk `first` on, kLanes partial sums each. x: from that chunk on.
 *
 * Part p of a chunk goes to set p % Sets of the sums; the sets are added, in pairs, after the last of these chunks. Few sums
 * alone would wait for each other.
 */
template <class Reader, int M, int Columns, int Sets, class Ahead>
static inline void multiply_rows(const Reader* readers, int64_t first, int64_t count, const typename Reader::X* __restrict x,
                                 const Ahead& ahead, Vec* __restrict results) {
  constexpr int kParts = Reader::kParts;
  constexpr int kPartElements = Reader::kElements / kParts;
  static_assert(Sets == 1 || Sets == 2 || Sets == 4, "sets are added in pairs");
  static_assert(Sets <= kParts, "a set without a part");
  Vec sums[Sets][M][Columns];
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
    for (int r = 0; r < Columns; ++r) {
      sums[0][i][r] = results[r * M + i];
#pragma GCC unroll 4
      for (int set = 1; set < Sets; ++set) sums[set][i][r] = zero();
    }
  }
  for (int64_t c = first; c < first + count; ++c) {
    const auto begin = reinterpret_cast<uintptr_t>(readers[0].bytes());
    typename Reader::Chunk chunk[Columns];
#pragma GCC unroll 8
    for (int r = 0; r < Columns; ++r) {
      fetch<Reader::kBytes, Ahead::kOnce>(begin + static_cast<uintptr_t>(ahead.at(c, r)));
      chunk[r] = readers[r].chunk(c);
    }
#pragma GCC unroll 8
    for (int p = 0; p < kParts; ++p) {
      decltype(chunk[0].part(0)) parts[Columns];
#pragma GCC unroll 8
      for (int r = 0; r < Columns; ++r) parts[r] = chunk[r].part(p);
#pragma GCC unroll 16
      for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
        for (int r = 0; r < Columns; ++r) {
          Vec& sum = sums[p % Sets][i][r];
          sum = multiply_add(x + (i * kParts + p) * kPartElements, parts[r], sum);
        }
      }
    }
    x += M * Reader::kElements;
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
    for (int r = 0; r < Columns; ++r) {
      Vec sum = sums[0][i][r];
      if constexpr (Sets >= 2) sum = sum + sums[1][i][r];
      if constexpr (Sets == 4) sum = sum + (sums[2][i][r] + sums[3][i][r]);
      results[r * M + i] = sum;
    }
  }
}

/**
 * sums[i][r] += x[i] * (row r of the weight) for m rows of x and kTogether rows of the weight, `count` chunks from `first` on:
 * what is decoded stays in registers while all rows of x pass by, and their sums lie in memory. The order is multiply_rows()'s
 * with one set.
 */
template <class Reader>
static inline void multiply_together(const Reader* readers, int64_t first, int64_t count,
                                     const typename Reader::X* __restrict x, int64_t m, const AheadByRows& ahead,
                                     Vec* __restrict sums) {
  constexpr int kParts = Reader::kParts;
  constexpr int kPartElements = Reader::kElements / kParts;
  constexpr int kHeld = kParts < kHeldParts ? kParts : kHeldParts;
  static_assert(kParts % kHeld == 0, "parts are held in equal numbers");
  for (int64_t c = first; c < first + count; ++c) {
    const auto begin = reinterpret_cast<uintptr_t>(readers[0].bytes());
    typename Reader::Chunk chunk[kTogether];
#pragma GCC unroll 4
    for (int r = 0; r < kTogether; ++r) {
      fetch<Reader::kBytes, false>(begin + static_cast<uintptr_t>(ahead.at(c, r)));
      chunk[r] = readers[r].chunk(c);
    }
#pragma GCC unroll 4
    for (int held = 0; held < kParts; held += kHeld) {
      decltype(chunk[0].part(0)) parts[kTogether][kHeld];
#pragma GCC unroll 4
      for (int r = 0; r < kTogether; ++r) {
#pragma GCC unroll 4
        for (int p = 0; p < kHeld; ++p) parts[r][p] = chunk[r].part(held + p);
      }
      const typename Reader::X* row = x + held * kPartElements;
      Vec* row_sums = sums;
      for (int64_t i = 0; i < m; ++i) {
#pragma GCC unroll 4
        for (int r = 0; r < kTogether; ++r) {
          Vec sum = row_sums[r];
#pragma GCC unroll 4
          for (int p = 0; p < kHeld; ++p) sum = multiply_add(row + p * kPartElements, parts[r][p], sum);
          row_sums[r] = sum;
        }
        row += Reader::kElements;
        row_sums += kTogether;
      }
    }
    x += m * Reader::kElements;
  }
}

}  // namespace q4j::cpu

#endif  // QLORA4J_SRC_CPU_LINEAR_SMALL_KERNEL_H_
