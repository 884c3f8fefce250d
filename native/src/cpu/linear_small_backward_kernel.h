// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The innermost products of a few rows of dy with a tile of a weight's rows: kUnits units of one or two rows by a chunk of
 * columns are decoded into registers, multiplied with all rows of dy, and added to their sums in memory.
 *
 * A tile makes the kChunk elements of a unit in kParts vectors, in an order of its own; the sums have that order until
 * ChunkOrder::restore() brings them back. A unit's factor of dy is one 32-bit word for all lanes:
 *
 *   one row, made by any reader of f32 (linear_small_kernel.h)    an f32, for FMA
 *   two rows, whose elements alternate (AVX512-BF16)              two bf16, for VDPBF16PS
 *
 * Tiles of rows that lie in memory at one distance keep that and not a pointer to each row: 16 rows, half of them being
 * fetched, need few registers then. A distance of zero makes a pair of one row.
 */
#ifndef QLORA4J_SRC_CPU_LINEAR_SMALL_BACKWARD_KERNEL_H_
#define QLORA4J_SRC_CPU_LINEAR_SMALL_BACKWARD_KERNEL_H_

#include <cstdint>
#include <cstring>
#include <utility>

#include "linear_small_kernel.h"
#include "linear_small_rowwise.h"
#include "linear_small_scales.h"

namespace q4j::cpu {

// Units whose parts are held at once, kHeldParts of each: as many as rows of the weight there.
constexpr int kUnits = kTogether;

constexpr int64_t kMostRangeColumns = 8192;

/** A row of f32, or of f32 to be rounded, that may end within a chunk; zeros follow. */
template <bool Rounded>
struct PartReader {
  static constexpr int kParts = kChunk / kLanes;
  static constexpr int kBytes = kChunk * sizeof(float);
  static void arrange(const float* from, float* to) { arrange_plainly(from, to); }

  struct Chunk {
    const float* p;
    int64_t left;
    Vec part(int i) const {
      const Vec value = load_first(p + i * kLanes, left - i * kLanes);
      if constexpr (Rounded) return rounded_to<bf16>(value);
      return value;
    }
  };

  Chunk chunk(int64_t i) const { return {data + i * kChunk, columns - i * kChunk}; }

  const float* data;
  int64_t columns;
};

// ------------------------------------------------------------------------------------------------------------- single rows

/** Rows that Reader makes of a pointer to T alone. */
template <class Reader, class T>
struct DenseTile {
  using Word = float;
  static constexpr int kRows = 1;
  static constexpr int kParts = Reader::kParts;
  static constexpr int kBytes = Reader::kBytes;
  static void arrange(const float* from, float* to) { Reader::arrange(from, to); }

  auto chunk(int unit, int64_t i) const { return Reader{data + unit * ld}.chunk(i); }

  const T* data;
  int64_t ld;
};

/** The same of rows that end within a chunk. */
template <bool Rounded>
struct PartTile {
  using Reader = PartReader<Rounded>;
  using Word = float;
  static constexpr int kRows = 1;
  static constexpr int kParts = Reader::kParts;
  static constexpr int kBytes = Reader::kBytes;
  static void arrange(const float* from, float* to) { Reader::arrange(from, to); }

  auto chunk(int unit, int64_t i) const { return Reader{data + unit * ld, columns}.chunk(i); }

  const float* data;
  int64_t ld;
  int64_t columns;
};

/** The absmax of the blocks of a tile's rows, rows at one distance. */
struct TileScales {
  // Rows may be written a little before their beginning and beyond their end; see Scales::copy_part().
  static constexpr int64_t kStride = kMostRangeColumns / QuantizedSource::kChunk + 2 * Scales::kDecoded;
  const float* first;
  const float* row(int i) const { return first + i * kStride; }
};

/** Rows of 4-bit codes. */
template <class Reader>
struct CodesTile {
  using Word = float;
  static constexpr int kRows = 1;
  static constexpr int kParts = Reader::kParts;
  static constexpr int kBytes = Reader::kBytes;
  static void arrange(const float* from, float* to) { Reader::arrange(from, to); }

  auto chunk(int unit, int64_t i) const { return Reader{data + unit * stride, scales.row(unit), &values}.chunk(i); }

  const uint8_t* data;
  int64_t stride;
  TileScales scales;
  Table4Bit values;
};

/** Rows of INT8 or FP8 codes. */
template <class Reader>
struct RowwiseTile {
  using Word = float;
  static constexpr int kRows = 1;
  static constexpr int kParts = Reader::kParts;
  static constexpr int kBytes = Reader::kBytes;
  static void arrange(const float* from, float* to) { Reader::arrange(from, to); }

  auto chunk(int unit, int64_t i) const { return rows[unit].chunk(i); }

  const Reader* rows;
};

static inline Vec multiply_word(Vec word, Vec part, Vec sum) { return fma(word, part, sum); }
static inline Vec broadcast_word(float word) { return broadcast(word); }

#if defined(__AVX512BF16__)

// ----------------------------------------------------------------------------------------------------------- pairs of rows

/** A word of each of two vectors of 16 in turn. */
static inline __m512i interleave(__m256i first, __m256i second) {
  alignas(64) static constexpr uint16_t kOrder[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                      8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  return _mm512_permutex2var_epi16(_mm512_castsi256_si512(first), _mm512_load_si512(kOrder), _mm512_castsi256_si512(second));
}

static inline __m512i interleave(const void* first, const void* second) {
  return interleave(_mm256_loadu_si256(static_cast<const __m256i*>(first)),
                    _mm256_loadu_si256(static_cast<const __m256i*>(second)));
}

/** The same of two vectors of f32, rounded. */
static inline __m512i interleave_rounded(Vec first, Vec second) {
  alignas(64) static constexpr uint16_t kOrder[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(_mm512_load_si512(kOrder), to_bf16(first.v, second.v));
}

/** Two rows of dense bf16. */
struct DensePairs {
  using Word = uint32_t;
  static constexpr int kRows = 2;
  static constexpr int kParts = kChunk / kLanes;
  static constexpr int kBytes = kChunk * sizeof(bf16);
  static void arrange(const float* from, float* to) { arrange_plainly(from, to); }

  struct Chunk {
    const bf16* first;
    int64_t ld;
    __m512i part(int i) const { return interleave(first + i * kLanes, first + ld + i * kLanes); }
  };

  Chunk chunk(int unit, int64_t i) const { return {data + 2 * unit * ld + i * kChunk, ld}; }

  const bf16* data;
  int64_t ld;
};

/** Two rows that a tile of single rows makes in f32, rounded. */
template <class Tile>
struct RoundedPairs {
  using Word = uint32_t;
  static constexpr int kRows = 2;
  static constexpr int kParts = Tile::kParts;
  static constexpr int kBytes = Tile::kBytes;
  static void arrange(const float* from, float* to) { Tile::arrange(from, to); }

  struct Chunk {
    decltype(std::declval<Tile>().chunk(0, 0)) first;
    decltype(std::declval<Tile>().chunk(0, 0)) second;
    __m512i part(int i) const { return interleave_rounded(first.part(i), second.part(i)); }
  };

  Chunk chunk(int unit, int64_t i) const { return {rows.chunk(2 * unit, i), rows.chunk(2 * unit + 1, i)}; }

  Tile rows;
};

/**
 * Two rows of 4-bit codes. A vector has four codes of the first row in every other word and four of the second between them;
 * one look-up takes the first from one block's values and the second from another's. HalfBlocks: blocks of 32 elements, two to
 * a chunk.
 */
template <bool HalfBlocks>
struct CodesPairs {
  using Word = uint32_t;
  static constexpr int kRows = 2;
  static constexpr int kParts = 4;
  static constexpr int kBytes = kChunk / 2;
  // A word has its codes, in the order of elements, at bits 4, 0, 12, 8. Parts take them from bits 0, 8, 4, 12.
  static void arrange(const float* from, float* to) {
    constexpr int kElement[kParts] = {1, 3, 0, 2};
    for (int part = 0; part < kParts; ++part) {
      for (int lane = 0; lane < kLanes; ++lane) to[part * kLanes + lane] = from[lane * 4 + kElement[part]];
    }
  }

  struct Chunk {
    __m512i words;
    __m512i table;   // 16 bf16 values of the first row, 16 of the second
    __m512i second;  // the same of the chunk's second half, with HalfBlocks only
    __m512i part(int i) const {
      // The second row's codes get bit 4, those of a second half bit 5: what chooses among the values.
      const __m512i row = _mm512_set1_epi32(0x10100000);
      const __m512i upper = HalfBlocks ? _mm512_mask_or_epi32(row, 0xff00, row, _mm512_set1_epi32(0x20202020)) : row;
      const __m512i codes = i < 2 ? words : _mm512_srli_epi16(words, 4);
      const __m512i indices = _mm512_ternarylogic_epi32(codes, _mm512_set1_epi16(0x0f0f), upper, 0xea);  // codes & 0f0f | upper
      const __m512i index = i % 2 == 0 ? indices : _mm512_srli_epi16(indices, 8);
      if constexpr (HalfBlocks) return _mm512_permutex2var_epi16(table, index, second);
      return _mm512_permutexvar_epi16(index, table);
    }
  };

  Chunk chunk(int unit, int64_t i) const {
    const auto table = [&](int64_t block) {
      return to_bf16(_mm512_mul_ps(values.low.v, _mm512_set1_ps(scales.row(2 * unit)[block])),
                     _mm512_mul_ps(values.low.v, _mm512_set1_ps(scales.row(2 * unit + 1)[block])));
    };
    const uint8_t* p = data + i * kBytes;
    const __m512i words = interleave(p + 2 * unit * stride, p + (2 * unit + 1) * stride);
    if constexpr (HalfBlocks) return {words, table(2 * i), table(2 * i + 1)};
    return {words, table(i), _mm512_setzero_si512()};
  }

  const uint8_t* data;
  int64_t stride;
  TileScales scales;
  Table4Bit values;
};

/** Two rows of E4M3 codes. */
struct Fp8Pairs {
  using Word = uint32_t;
  static constexpr int kRows = 2;
  static constexpr int kParts = 4;
  static constexpr int kBytes = kChunk;
  // Even elements, then odd ones. Of the eight of 16 bytes the lower halves of four lanes make one part, the upper ones the
  // next.
  static void arrange(const float* from, float* to) {
    for (int part = 0; part < kParts; ++part) {
      for (int lane = 0; lane < kLanes; ++lane) {
        const int word = lane / 4 * 8 + part % 2 * 4 + lane % 4;
        to[part * kLanes + lane] = from[2 * word + part / 2];
      }
    }
  }

  struct Chunk {
    Fp8Bf16Reader::Chunk first;
    Fp8Bf16Reader::Chunk second;
    __m512i part(int i) const {
      const __m512i a = first.part(i / 2);
      const __m512i b = second.part(i / 2);
      return i % 2 == 0 ? _mm512_unpacklo_epi16(a, b) : _mm512_unpackhi_epi16(a, b);
    }
  };

  Chunk chunk(int unit, int64_t i) const { return {rows[2 * unit].chunk(i), rows[2 * unit + 1].chunk(i)}; }

  const Fp8Bf16Reader* rows;
};

static inline __m512i first_row(__m512i part) { return _mm512_maskz_mov_epi16(0x55555555u, part); }
static inline Vec multiply_word(__m512i word, __m512i part, Vec sum) {
  return {_mm512_dpbf16_ps(sum.v, reinterpret_cast<__m512bh>(word), reinterpret_cast<__m512bh>(part))};
}
static inline __m512i broadcast_word(uint32_t word) { return _mm512_set1_epi32(static_cast<int>(word)); }

#endif

/** The order in which a tile makes the elements of a chunk. */
class ChunkOrder {
 public:
  /** bring: brings a chunk into that order. */
  explicit ChunkOrder(void (*bring)(const float*, float*)) {
    float plain[kChunk];
    float arranged[kChunk];
    for (int i = 0; i < kChunk; ++i) plain[i] = static_cast<float>(i);
    bring(plain, arranged);
    for (int i = 0; i < kChunk; ++i) {
      from_[i] = static_cast<int32_t>(arranged[i]);
      back_[from_[i]] = i;
      plain_ = plain_ && from_[i] == i;
    }
  }

  /** A chunk of sums, in place. */
  void arrange(float* chunk) const { permute(chunk, from_); }
  void restore(float* chunk) const { permute(chunk, back_); }

 private:
  void permute(float* chunk, const int32_t* from) const {
    if (plain_) return;
#if defined(__AVX512F__)
    __m512 old[4];
    for (int i = 0; i < 4; ++i) old[i] = _mm512_loadu_ps(chunk + i * kLanes);
    for (int i = 0; i < 4; ++i) {
      const __m512i index = _mm512_loadu_si512(from + i * kLanes);
      const __m512 low = _mm512_permutex2var_ps(old[0], index, old[1]);  // these look at the low five bits
      const __m512 high = _mm512_permutex2var_ps(old[2], index, old[3]);
      _mm512_storeu_ps(chunk + i * kLanes,
                       _mm512_mask_blend_ps(_mm512_test_epi32_mask(index, _mm512_set1_epi32(32)), low, high));
    }
#else
    float old[kChunk];
    std::memcpy(old, chunk, sizeof old);
    for (int i = 0; i < kChunk; ++i) chunk[i] = old[from[i]];
#endif
  }

  int32_t from_[kChunk];
  int32_t back_[kChunk];
  bool plain_ = true;
};

/**
 * What is fetched while a tile is multiplied: in each of its rows `distance` bytes ahead, and from `end` on `skip` bytes
 * further, in the rows that are read next. address: of the first row.
 */
struct FetchAhead {
  uintptr_t address;
  uintptr_t stride;  // from row to row
  uintptr_t distance;
  uintptr_t end;
  uintptr_t skip;

  uintptr_t at(uintptr_t offset) const {
    const uintptr_t next = offset + distance;
    return address + next + (skip & -static_cast<uintptr_t>(next >= end));  // no branch
  }
};

/**
 * sums[chunk][i] += words[i][unit] * (chunk of the unit), unit after unit, for m rows of dy and `count` chunks from `first` on.
 *
 * The sums of all rows lie together for each chunk: those of a row a range's length apart would meet at the same 12 bits of an
 * address, and a load waits for a store that has these in common.
 *
 * M: m, where it is known. Units: how many of the tile. Half: of a pair only the first row counts. ahead: see FetchAhead; Once:
 * the rows are read once.
 */
template <int M, int Units, bool Half, bool Once, class Tile>
static inline void multiply_tile(const Tile& tile, int64_t first, int64_t count, const typename Tile::Word* words, int64_t m,
                                 const FetchAhead& ahead, float* __restrict sums) {
  constexpr int64_t kLine = 64;
  static_assert(Tile::kParts % kHeldParts == 0, "parts are held in equal numbers");
  using Word = decltype(broadcast_word(words[0]));
  const int64_t rows = M > 0 ? M : m;
  sums += first * rows * kChunk;
  for (int64_t c = first; c < first + count; ++c) {
    if (Units == kUnits && (Tile::kBytes >= kLine || c % 2 == 0)) {
      const uintptr_t next = ahead.at(static_cast<uintptr_t>(c * Tile::kBytes));
#pragma GCC unroll 8
      for (uintptr_t r = 0; r < Units * Tile::kRows; ++r) fetch<Tile::kBytes, Once>(next + r * ahead.stride);
    }
    decltype(tile.chunk(0, 0)) chunk[Units];
#pragma GCC unroll 4
    for (int u = 0; u < Units; ++u) chunk[u] = tile.chunk(u, c);
#pragma GCC unroll 2
    for (int held = 0; held < Tile::kParts; held += kHeldParts) {
      decltype(chunk[0].part(0)) parts[Units][kHeldParts];
#pragma GCC unroll 4
      for (int u = 0; u < Units; ++u) {
#pragma GCC unroll 4
        for (int p = 0; p < kHeldParts; ++p) {
          parts[u][p] = chunk[u].part(held + p);
          if constexpr (Half) parts[u][p] = first_row(parts[u][p]);
        }
      }
      float* row_sums = sums + held * kLanes;
      const typename Tile::Word* row_words = words;
      for (int64_t i = 0; i < rows; ++i) {
        Word word[Units];
#pragma GCC unroll 4
        for (int u = 0; u < Units; ++u) word[u] = broadcast_word(row_words[u]);
#pragma GCC unroll 4
        for (int p = 0; p < kHeldParts; ++p) {
          Vec sum = load(row_sums + p * kLanes);
#pragma GCC unroll 4
          for (int u = 0; u < Units; ++u) sum = multiply_word(word[u], parts[u][p], sum);
          store(row_sums + p * kLanes, sum);
        }
        row_sums += kChunk;
        row_words += kUnits;
      }
    }
    sums += rows * kChunk;
  }
}

}  // namespace q4j::cpu

#endif  // QLORA4J_SRC_CPU_LINEAR_SMALL_BACKWARD_KERNEL_H_
