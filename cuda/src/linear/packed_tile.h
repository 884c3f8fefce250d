// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The source of rung 2's tiles (tiles.h) for a weight that is packed as tiles itself (pack_weight/packed_layout.h).
 *
 * A thread dequantizes a group: the 32 codes of a row in half a packed tile, eight from each of the four lanes that own the
 * row. It makes the 16 values of the group's block first, as FourBitTile does, and looks the codes up there: 25 permutes and
 * other instructions for eight codes, 4 more than from canonical codes, because the neighbours of a row come from both halves
 * of a word.
 *
 * Stage. In contraction order a step of 32 k is half of every packed tile: the first or the last 8 of each lane's 16 bytes. In
 * outer order it is whole tiles. Pieces are stored by lane modulo 4 first, so that the threads of a warp, which read the words
 * of different rows and the same lane modulo 4, find them in different banks: in contraction order 16 rows by two strips (of
 * which the second exchanges its halves), in outer order eight rows by two tiles, whose words share the banks in pairs.
 */
#ifndef QLORA4J_CUDA_LINEAR_PACKED_TILE_H_
#define QLORA4J_CUDA_LINEAR_PACKED_TILE_H_

#include "linear/tiles.h"
#include "pack_weight/packed_values.h"

namespace q4j::cuda {

template <int Threads, int Outer, Order kOrder>
class PackedTile {
 public:
  static constexpr bool kConverts = true;
  static constexpr int kStageBytes = Outer * kStep / 2;
  static constexpr int kTileBytes = Outer * kStep * 2;
  static constexpr int kTurns = Threads / Outer; /* of threads that convert */
  static_assert(Threads == Outer || Threads == 2 * Outer, "a group for each thread");

  Q4J_DEVICE PackedTile(const Operand& operand, int64_t outer, int64_t step) : operand_(operand), map_(shared_map().at) {
    if (operand.nested_absmax != nullptr) {
      for (int i = thread_index(); i < 256; i += Threads) shared_map().at[i] = signed_map.at[i];
      // Read for the first time behind the first barrier.
    }
    outer_ = static_cast<int>(outer);
    copy_step_ = static_cast<int>(step);
    turn_ = thread_index() / Outer;
    step_ = copy_step_ + turn_;
    fetch_absmax();
  }

  Q4J_DEVICE void copy(unsigned char* stage) {
    constexpr int kPieces = kStageBytes / kPieceBytes;
    constexpr int kLanes = kWarp;
    Q4J_UNROLL
    for (int first = 0; first < kPieces; first += Threads) {
      const int piece = first + thread_index();
      if (kPieces % Threads != 0 && piece >= kPieces) break;
      const int lane = piece % kLanes;
      int strip = piece / kLanes;
      int tile = copy_step_ / 2;
      int within = copy_step_ % 2 * kPieceBytes;
      if constexpr (kOrder == Order::kContraction) {
        strip += outer_ / kTileRows;
      } else {
        tile = outer_ / kTileCols + strip % kTiles;
        strip = copy_step_ * 2 + strip / kTiles;
        within = 0;
      }
      const bool exists = strip * kTileRows < operand_.rows && tile * kTileCols < operand_.cols;
      const int64_t at = static_cast<int64_t>(strip) * (operand_.cols / kTileCols) + tile;
      const auto* from =
          static_cast<const unsigned char*>(operand_.data) + at * q4j::cuda::kTileBytes + lane * kChunkBytes + within;
      unsigned char* to = stage + place(piece / kLanes, lane / 4, lane % 4);
      if constexpr (kPieceBytes == 16) {
        copy_async_if<16>(to, from, exists);
      } else {
        copy_async<8>(to, from, exists ? 8 : 0);
      }
    }
    ++copy_step_;
  }

  /** Whether this thread converts in the next call. */
  Q4J_DEVICE bool converts_next() const { return turn_ == 0; }

  Q4J_DEVICE void convert(const unsigned char* stage, unsigned char* tile) {
    if (kTurns > 1 && turn_ > 0) {
      --turn_;
      return;
    }
    turn_ = kTurns - 1;
    const int row = kOrder == Order::kContraction ? item() : item() / kGroups;
    const int group = item() % kGroups;
    const unsigned char* from = stage;
    if constexpr (kOrder == Order::kContraction) {
      from += row / 8 % 2 * 4;
    } else {
      from += (group % 2 * 2 + row / 8 % 2) * 4;
    }
    const int packed_tile = kOrder == Order::kContraction ? row / kTileRows : row / kTileRows * kTiles + group / 2;
    const ValuePlanes planes = value_planes(operand_.values, fetched_absmax());
    step_ += kTurns;
    fetch_absmax();
    Words4 chunk[4];
    Q4J_UNROLL
    for (int t = 0; t < 4; ++t) {
      const uint32_t codes = *reinterpret_cast<const uint32_t*>(from + place(packed_tile, row % 8, t));
      const Words4 pairs = look_up(planes, codes);  // of eights 0 and 1, 2 and 3: column 2t of each, then column 2t + 1
      Q4J_UNROLL
      for (int f = 0; f < 4; f += 2) {
        chunk[f].word[t] = byte_permute(pairs.word[f / 2], pairs.word[f / 2 + 2], 0x5410u);
        chunk[f + 1].word[t] = byte_permute(pairs.word[f / 2], pairs.word[f / 2 + 2], 0x7632u);
      }
    }
    Q4J_UNROLL
    for (int f = 0; f < 4; ++f) {
      const int at = kOrder == Order::kContraction ? f : group * 4 + f;
      store(reinterpret_cast<Words4*>(tile + chunk_offset<kChunks>(row, at)), chunk[f]);
    }
  }

 private:
  static constexpr int kGroups = kOrder == Order::kContraction ? 1 : Outer / kStep; /* of a row of the tile */
  static constexpr int kTiles = Outer / kTileCols; /* packed ones beside each other, in outer order */
  static constexpr int kChunks = (kOrder == Order::kContraction ? kStep : Outer) / kEight;
  static constexpr int kPieceBytes = kOrder == Order::kContraction ? 8 : 16;

  static Q4J_DEVICE Table<float, 256>& shared_map() { return block_shared<Table<float, 256>>(); }

  /** Where a lane's piece of a packed tile lies in a stage. */
  static Q4J_DEVICE int place(int packed_tile, int g, int t) {
    const int piece = t * 8 + g;
    return (packed_tile * kWarp + (kOrder == Order::kContraction ? piece ^ (packed_tile & 1) * 8 : piece)) * kPieceBytes;
  }

  Q4J_DEVICE static int item() { return thread_index() % Outer; }

  // The group that is converted next.
  Q4J_DEVICE int row() const { return kOrder == Order::kContraction ? outer_ + item() : step_ * kStep + item() / kGroups; }
  Q4J_DEVICE int col() const { return kOrder == Order::kContraction ? step_ * kStep : outer_ + item() % kGroups * kStep; }
  Q4J_DEVICE bool exists() const { return row() < operand_.rows && col() < operand_.cols; }

  /** Starts to load the absmax of the group that is converted next: its latency passes while this step is multiplied. */
  Q4J_DEVICE void fetch_absmax() {
    if (!exists()) return;
    const int64_t row_blocks = operand_.cols >> operand_.block_shift;
    const int64_t block = col() >> operand_.block_shift;
    const int64_t at = absmax_in_tiles(row_blocks, row(), block);
    if (operand_.nested_absmax == nullptr) {
      absmax_ = load_read_only(static_cast<const uint32_t*>(operand_.absmax) + at);
    } else {
      absmax_ = load_read_only(static_cast<const uint8_t*>(operand_.absmax) + at);
      nested_ = load_read_only(operand_.nested_absmax + ((row() * row_blocks + block) >> operand_.nested_shift));
    }
  }

  /** 0 where the weight has no such group: it must not be NaN, for it meets a zero of the other factor. */
  Q4J_DEVICE float fetched_absmax() const {
    if (!exists()) return 0.0f;
    if (operand_.nested_absmax == nullptr) return bits_float(absmax_);
    return add(multiply(map_[absmax_], nested_), operand_.nested_offset);
  }

  const Operand& operand_;
  const float* map_;
  int outer_;
  int copy_step_;
  int step_;
  int turn_;
  uint32_t absmax_ = 0;
  float nested_ = 0.0f;
};

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_LINEAR_PACKED_TILE_H_
