// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Tiles in shared memory: how they lie there, and the sources that fill them while earlier ones are multiplied.
 *
 * Layout. A step is 32 values of k. A tile is a piece of a factor as it lies in memory, in bf16: rows of 16-byte chunks,
 *     Order::kContraction   [outer][32]: 4 chunks per row      Order::kOuter   [32][outer]: outer / 8 chunks per row
 * ldmatrix reads eight chunks at a time, of the same place in eight neighbouring rows, and wants them in eight different groups
 * of four banks. chunk_offset exchanges the chunks of a row so that they are; the writes of all sources below find different
 * banks then too (worked out beside each).
 *
 * Sources. What the tile kernel asks of one:
 *     kConverts           false: copies land in the tile, one per stage. true: copies land in a raw stage, from which convert()
 *                         makes the tile, one step ahead of its use, so that there are two tiles
 *     kStageBytes         of one stage's copies;  kTileBytes of the tile that convert() makes
 *     copy(stage)         starts the copies of the next step. One call per step, in order
 *     convert(stage, tile)   likewise; the copies of the step are complete and visible to the block
 *     converts_next()     whether the next convert() is work for this thread
 * A source that is not wide (operand.h) reads element by element, at the same time and to the same place.
 */
#ifndef QLORA4J_CUDA_LINEAR_TILES_H_
#define QLORA4J_CUDA_LINEAR_TILES_H_

#include "linear/operand.h"
#include "linear/product.h"

namespace q4j::cuda {

constexpr int kStep = 32;
constexpr int kChunkBytes = 16;

/** Where a chunk lies in a tile whose rows have `Chunks` of them. */
template <int Chunks>
Q4J_DEVICE int chunk_offset(int row, int chunk) {
  if constexpr (Chunks == 4) {
    // Two rows share the eight groups of banks, so every second row exchanges.
    return (row * Chunks + (chunk ^ (row >> 1 & 3))) * kChunkBytes;
  } else {
    // Rows longer than 128 bytes exchange their pieces of 128 bytes differently, for writes of chunks that are far apart.
    return (row * Chunks + (chunk ^ ((row ^ 3 * (chunk >> 3)) & 7))) * kChunkBytes;
  }
}

/** An int that says how far it is from `at` to `end`: 0 or less when it is beyond. */
Q4J_DEVICE int distance(int64_t at, int64_t end) {
  const int64_t left = end - at;
  constexpr int64_t kMost = 1 << 30;
  return static_cast<int>(left < -kMost ? -kMost : left > kMost ? kMost : left);
}

/** bf16 in memory: copied to the tile without passing through registers. */
template <int Threads, int Outer, Order kOrder>
class CopiedTile {
 public:
  static constexpr bool kConverts = false;
  static constexpr int kStageBytes = Outer * kStep * 2;
  static constexpr int kTileBytes = 0;

  Q4J_DEVICE CopiedTile(const Operand& operand, int64_t outer, int64_t step) : operand_(operand) {
    const int row = thread_index() / kChunks;
    const int chunk = thread_index() % kChunks;
    row_ = (kOrder == Order::kContraction ? outer : step * kStep) + row;
    col_ = (kOrder == Order::kContraction ? step * kStep : outer) + chunk * kEight;
    offset_ = chunk_offset<kChunks>(row, chunk);
    rows_left_ = distance(row_, operand.rows);
    cols_left_ = distance(col_, operand.cols);
    from_ = static_cast<const unsigned char*>(operand.data) + (row_ * operand.ld + col_) * 2;
    row_step_bytes_ = operand.ld * (2 * kRowStep);
  }

  Q4J_DEVICE void copy(unsigned char* stage) {
    if (operand_.wide) {
      const unsigned char* from = from_;
      Q4J_UNROLL
      for (int i = 0; i < kItems; ++i) {
        copy_async_if<kChunkBytes>(stage + offset_ + i * kItemBytes, from, cols_left_ > 0 && rows_left_ > i * kRowStep);
        from += row_step_bytes_;
      }
    } else {
      Q4J_NO_UNROLL
      for (int i = 0; i < kItems; ++i) {
        Words4 words = {{0u, 0u, 0u, 0u}};
        if (rows_left_ > i * kRowStep) {
          const auto* from = reinterpret_cast<const bf16*>(from_ + i * row_step_bytes_);
          Q4J_UNROLL
          for (int e = 0; e < kEight; ++e) {
            if (cols_left_ > e) words.word[e / 2] |= static_cast<uint32_t>(from[e].bits) << (16 * (e % 2));
          }
        }
        store(reinterpret_cast<Words4*>(stage + offset_ + i * kItemBytes), words);
      }
    }
    if constexpr (kOrder == Order::kContraction) {
      from_ += kStep * 2;
      cols_left_ -= kStep;
    } else {
      from_ += operand_.ld * (kStep * 2);
      rows_left_ -= kStep;
    }
  }

  Q4J_DEVICE void convert(const unsigned char*, unsigned char*) {}
  Q4J_DEVICE bool converts_next() const { return false; }

 private:
  static constexpr int kRows = kOrder == Order::kContraction ? Outer : kStep;
  static constexpr int kChunks = (kOrder == Order::kContraction ? kStep : Outer) / kEight;
  static constexpr int kItems = kRows * kChunks / Threads;
  static constexpr int kRowStep = Threads / kChunks;
  static constexpr int kItemBytes = kRowStep * kChunks * kChunkBytes;
  static_assert(kItems * Threads == kRows * kChunks && kRowStep % 8 == 0, "a thread's chunks are a fixed distance apart");

  const Operand& operand_;
  int64_t row_;
  int64_t col_;
  int64_t row_step_bytes_;
  const unsigned char* from_;
  int offset_;
  int rows_left_;
  int cols_left_;
};

/**
 * A canonical 4-bit weight, dequantized on its way to the tile. A group is 32 codes, 16 bytes: with cols % 32 == 0 it lies in
 * one row and one block, and groups are numbered through. A thread dequantizes a group. Where there are twice as many threads
 * as groups in a tile, the halves take turns by steps: smaller pieces would be cheaper for no thread, because of what follows.
 *
 * Values. 32 elements share an absmax, so a thread first makes the 16 values that they can have: f32 table * f32 absmax,
 * rounded once to bf16, in 8 words. Byte permutes look the codes up there: the low bytes of four codes at a time, then their
 * high bytes, 2 5/8 instructions per code and 32 for the 16 values. A look-up in shared memory, a multiplication and half a
 * conversion per code would be as many instructions, but the look-ups would go where ldmatrix is the bottleneck.
 *
 * Writes to the tile, of eight neighbouring threads, 16 bytes each: in contraction order chunk i of eight rows, in outer order
 * chunks 4 j + i of two rows. All land in different banks.
 */
template <int Threads, int Outer, Order kOrder>
class FourBitTile {
 public:
  static constexpr bool kConverts = true;
  static constexpr int kStageBytes = Outer * kStep / 2;
  static constexpr int kTileBytes = Outer * kStep * 2;
  static constexpr int kTurns = Threads / Outer; /* of threads that convert */
  static_assert(Threads == Outer || Threads == 2 * Outer, "a group for each thread");

  Q4J_DEVICE FourBitTile(const Operand& operand, int64_t outer, int64_t step) : operand_(operand), map_(shared_map().at) {
    if (operand.nested_absmax != nullptr) {
      for (int i = thread_index(); i < 256; i += Threads) shared_map().at[i] = signed_map.at[i];
      // Read for the first time behind the first barrier.
    }
    const int64_t groups = operand.cols / kStep;
    const auto place = [&](int64_t at_step, int item, int64_t* row, int64_t* group) {
      *row = kOrder == Order::kContraction ? outer + item : at_step * kStep + item / kGroups;
      *group = kOrder == Order::kContraction ? at_step : outer / kStep + item % kGroups;
    };
    int64_t row;
    int64_t group;
    place(step, thread_index() % Outer, &row, &group);
    copies_.start(row, group, operand, groups);
    turn_ = thread_index() / Outer;
    place(step + turn_, thread_index() % Outer, &row, &group);
    row_ = row;
    col_ = group * kStep;
    converts_.start(row, group, operand, groups);
    if (operand.wide) fetch_absmax();
  }

  Q4J_DEVICE void copy(unsigned char* stage) {
    if (!operand_.wide) return;
    if (thread_index() < Outer) {
      copy_async_if<kChunkBytes>(
          stage + thread_index() * kChunkBytes,
          static_cast<const unsigned char*>(operand_.data) + static_cast<int64_t>(copies_.group) * kChunkBytes,
          copies_.exists());
    }
    copies_.advance(1, operand_);
  }

  /** Whether this thread converts in the next call. */
  Q4J_DEVICE bool converts_next() const { return turn_ == 0; }

  Q4J_DEVICE void convert(const unsigned char* stage, unsigned char* tile) {
    if (kTurns > 1 && turn_ > 0) {
      --turn_;
      return;
    }
    turn_ = kTurns - 1;
    const int item = thread_index() % Outer;
    const int tile_row = kOrder == Order::kContraction ? item : item / kGroups;
    const int tile_chunk = kOrder == Order::kContraction ? 0 : item % kGroups * 4;
    if (operand_.wide) {
      const Words4 codes = load(reinterpret_cast<const Words4*>(stage + item * kChunkBytes));
      const ValuePlanes values = value_planes(operand_.values, fetched_absmax());
      converts_.advance(kTurns, operand_);
      fetch_absmax();
      Q4J_UNROLL
      for (int i = 0; i < 4; ++i) {
        store(reinterpret_cast<Words4*>(tile + chunk_offset<kChunks>(tile_row, tile_chunk + i)),
              look_up_canonical(values, codes.word[i]));
      }
    } else {
      Q4J_NO_UNROLL
      for (int i = 0; i < 4; ++i) {
        Words4 words = {{0u, 0u, 0u, 0u}};
        const int64_t col = col_ + i * kEight;
        if (row_ < operand_.rows && col < operand_.cols) words = narrow_eight(read_four_bit(operand_, row_, col));
        store(reinterpret_cast<Words4*>(tile + chunk_offset<kChunks>(tile_row, tile_chunk + i)), words);
      }
      (kOrder == Order::kContraction ? col_ : row_) += kTurns * kStep;
    }
  }

 private:
  static constexpr int kGroups = Outer / kStep; /* of a row of the tile, in outer order */
  static constexpr int kChunks = (kOrder == Order::kContraction ? kStep : Outer) / kEight;

  /** A group of a wide weight, one step after the other. */
  struct Cursor {
    uint32_t group;
    int rows_left;
    int groups_left;

    Q4J_DEVICE void start(int64_t row, int64_t group_in_row, const Operand& operand, int64_t groups) {
      group = static_cast<uint32_t>(row * groups + group_in_row);
      rows_left = distance(row, operand.rows);
      groups_left = distance(group_in_row, groups);
    }
    Q4J_DEVICE bool exists() const { return rows_left > 0 && groups_left > 0; }
    Q4J_DEVICE void advance(int steps, const Operand& operand) {
      if constexpr (kOrder == Order::kContraction) {
        group += static_cast<uint32_t>(steps);
        groups_left -= steps;
      } else {
        group += static_cast<uint32_t>(operand.cols) * static_cast<uint32_t>(steps);  // 32 rows of cols / 32 groups
        rows_left -= steps * kStep;
      }
    }
  };

  static Q4J_DEVICE Table<float, 256>& shared_map() { return block_shared<Table<float, 256>>(); }

  /** Starts to load the absmax of the group that is converted next: its latency passes while this step is multiplied. */
  Q4J_DEVICE void fetch_absmax() {
    if (!converts_.exists()) return;
    const uint32_t block = converts_.group >> (operand_.block_shift - 5);
    if (operand_.nested_absmax == nullptr) {
      absmax_ = load_read_only(static_cast<const uint32_t*>(operand_.absmax) + block);
    } else {
      absmax_ = load_read_only(static_cast<const uint8_t*>(operand_.absmax) + block);
      nested_ = load_read_only(operand_.nested_absmax + (block >> operand_.nested_shift));
    }
  }

  /** 0 where the weight has no such group: it must not be NaN, for it meets a zero of the other factor. */
  Q4J_DEVICE float fetched_absmax() const {
    if (!converts_.exists()) return 0.0f;
    if (operand_.nested_absmax == nullptr) return bits_float(absmax_);
    return add(multiply(map_[absmax_], nested_), operand_.nested_offset);
  }

  const Operand& operand_;
  const float* map_;
  Cursor copies_;
  Cursor converts_;
  int turn_; /* calls of convert until it is this thread's turn */
  uint32_t absmax_ = 0;
  float nested_ = 0.0f;
  // Of what is converted next where the weight is not wide.
  int64_t row_;
  int64_t col_;
};

/**
 * The part of an f32 that bf16 number `part` of three holds: their sum is the f32, exactly, for 24 bits are three times eight.
 * Rounded parts are 2^-8 and 2^-17 of the f32 at most. A value that is no number is all in part 0.
 */
Q4J_DEVICE float part_of(float value, int part) {
  const auto is_number = [](float x) { return (float_bits(x) & 0x7f800000u) != 0x7f800000u; };
  float high = widen(narrow<bf16>(value));
  if (is_number(value) && !is_number(high)) high = bits_float(float_bits(value) & 0xffff0000u);  // rounded to infinity
  if (part == 0) return high;
  const float rest = is_number(value) ? subtract(value, high) : 0.0f;
  const float middle = widen(narrow<bf16>(rest));
  return part == 1 ? middle : subtract(rest, middle);
}

/**
 * A dense f32 or f16 factor, rounded to bf16 on its way to the tile; or, with Parts == 3, f32 as three
 * tiles of bf16 whose sum it is. The raw stage has rows like the tile's, of chunks exchanged by the same rule.
 */
template <int Threads, int Outer, Order kOrder, int Parts, bool F32>
class ConvertedTile {
 public:
  static constexpr bool kConverts = true;
  static constexpr int kStageBytes = Outer * kStep * 4;
  static constexpr int kPartBytes = Outer * kStep * 2;
  static constexpr int kTileBytes = kPartBytes * Parts;

  Q4J_DEVICE ConvertedTile(const Operand& operand, int64_t outer, int64_t step) : operand_(operand), outer_(outer) {
    copy_step_ = step;
    step_ = step;
    shift_ = operand.elements == Elements::kF32 ? 2 : 1;
  }

  Q4J_DEVICE void copy(unsigned char* stage) {
    if (!operand_.wide) return;
    const int row_shift = chunks_shift();
    Q4J_NO_UNROLL
    for (int item = thread_index(); item < kRows << row_shift; item += Threads) {
      const int row = item >> row_shift;
      const int chunk = item & ((1 << row_shift) - 1);
      const int64_t at_row = (kOrder == Order::kContraction ? outer_ : copy_step_ * kStep) + row;
      const int64_t at_col = (kOrder == Order::kContraction ? copy_step_ * kStep : outer_) + (chunk << (4 - element_shift()));
      copy_async_if<kChunkBytes>(
          stage + raw_offset(row, chunk),
          static_cast<const unsigned char*>(operand_.data) + ((at_row * operand_.ld + at_col) << element_shift()),
          at_row < operand_.rows && at_col < operand_.cols);
    }
    ++copy_step_;
  }

  Q4J_DEVICE void convert(const unsigned char* stage, unsigned char* tile) {
    Q4J_NO_UNROLL
    for (int item = thread_index(); item < kRows * kTileChunks; item += Threads) {
      const int row = item / kTileChunks;
      const int chunk = item % kTileChunks;
      const int64_t at_row = (kOrder == Order::kContraction ? outer_ : step_ * kStep) + row;
      const int64_t at_col = (kOrder == Order::kContraction ? step_ * kStep : outer_) + chunk * kEight;
      EightValues values;
      if (operand_.wide) {
        values = raw_eight(stage, row, chunk);
      } else if constexpr (F32) {
        values = {};
        if (at_row < operand_.rows && at_col < operand_.cols) values = read_dense<float>(operand_, at_row, at_col);
      } else {
        values = read_eight(operand_, at_row, at_col);
      }
      const int offset = chunk_offset<kTileChunks>(row, chunk);
      if constexpr (Parts == 1) {
        store(reinterpret_cast<Words4*>(tile + offset), narrow_eight(values));
      } else {
        Q4J_UNROLL
        for (int part = 0; part < Parts; ++part) {
          EightValues parts;
          Q4J_UNROLL
          for (int i = 0; i < kEight; ++i) parts.at[i] = part_of(values.at[i], part);
          store(reinterpret_cast<Words4*>(tile + part * kPartBytes + offset), narrow_eight(parts));
        }
      }
    }
    ++step_;
  }

  Q4J_DEVICE bool converts_next() const { return true; }

 private:
  static constexpr int kRows = kOrder == Order::kContraction ? Outer : kStep;
  static constexpr int kCols = kOrder == Order::kContraction ? kStep : Outer;
  static constexpr int kTileChunks = kCols / kEight;
  static_assert(kCols == 32 || kCols == 64 || kCols == 128, "see chunks_shift");

  Q4J_DEVICE int element_shift() const { return F32 ? 2 : shift_; }

  /** log2 of the chunks in a row of the raw stage. */
  Q4J_DEVICE int chunks_shift() const { return (kCols == 32 ? 1 : kCols == 64 ? 2 : 3) + element_shift(); }

  Q4J_DEVICE int raw_offset(int row, int chunk) const {
    const int shift = chunks_shift();
    const int exchange = shift >= 3 ? (row ^ 3 * (chunk >> 3)) & 7 : shift == 2 ? row >> 1 & 3 : 0;
    return ((row << shift) + (chunk ^ exchange)) * kChunkBytes;
  }

  /** Chunk `chunk` of the tile from the raw stage. */
  Q4J_DEVICE EightValues raw_eight(const unsigned char* stage, int row, int chunk) const {
    EightValues result;
    if (element_shift() == 2) {
      Q4J_UNROLL
      for (int half = 0; half < 2; ++half) {
        const Words4 words = load(reinterpret_cast<const Words4*>(stage + raw_offset(row, chunk * 2 + half)));
        Q4J_UNROLL
        for (int i = 0; i < 4; ++i) result.at[half * 4 + i] = bits_float(words.word[i]);
      }
    } else {
      const Eight<f16> eight = {{load(reinterpret_cast<const Words4*>(stage + raw_offset(row, chunk)))}};
      Q4J_UNROLL
      for (int i = 0; i < kEight; ++i) result.at[i] = element(eight, i);
    }
    return result;
  }

  const Operand& operand_;
  int64_t outer_;
  int64_t copy_step_;
  int64_t step_;
  int shift_; /* log2 of an element's bytes */
};

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_LINEAR_TILES_H_
