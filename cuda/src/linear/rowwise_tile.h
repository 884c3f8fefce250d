// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The source of tiles (tiles.h) for weights in row-wise INT8 and FP8. */
#ifndef QLORA4J_CUDA_LINEAR_ROWWISE_TILE_H_
#define QLORA4J_CUDA_LINEAR_ROWWISE_TILE_H_

#include "linear/tiles.h"

namespace q4j::cuda {

/**
 * INT8 or FP8 rows, dequantized on their way to the tile: value * scale in f32, rounded once to bf16. A piece is 16 codes, 16
 * bytes of a row, which become two chunks of the tile. A thread converts the pieces that it copied, kItems per step, always at
 * the same places: in contraction order of the same rows, whose scales it keeps; in outer order of rows that move on by 32,
 * whose scales it loads a step ahead.
 *
 * About 5.5 instructions for an element, two thirds of them byte permutes and multiplications. In a block of 128 rows that is a
 * third of the time in which sm_80 multiplies the step, in one of 256 rows a sixth.
 *
 * Eight neighbouring threads touch different banks: raw pieces and tile chunks
 *   contraction order   both pieces of four rows; chunks i and 2 + i of four rows
 *   outer order         the eight pieces of a row; its chunks i, 2 + i ... 14 + i
 */
template <int Threads, int Outer, Order kOrder>
class RowwiseTile {
 public:
  static constexpr bool kConverts = true;
  static constexpr int kStageBytes = Outer * kStep;
  static constexpr int kTileBytes = Outer * kStep * 2;

  Q4J_DEVICE RowwiseTile(const Operand& operand, int64_t outer, int64_t step) : operand_(operand) {
    row_ = (kOrder == Order::kContraction ? outer : step * kStep) + first_row();
    col_ = (kOrder == Order::kContraction ? step * kStep : outer) + piece() * kPiece;
    copy_from_ = static_cast<const uint8_t*>(operand.data) + row_ * operand.cols + col_;
    copy_rows_left_ = distance(row_, operand.rows);
    copy_cols_left_ = distance(col_, operand.cols);
    rows_left_ = copy_rows_left_;
    cols_left_ = copy_cols_left_;
    scale_from_ = static_cast<const float*>(operand.absmax) + row_;
    fetch_scales();
  }

  Q4J_DEVICE void copy(unsigned char* stage) {
    if (operand_.wide) {
      Q4J_UNROLL
      for (int i = 0; i < kItems; ++i) {
        copy_async_if<kChunkBytes>(stage + raw_offset(i), copy_from_ + i * kRowStep * operand_.cols,
                                   copy_cols_left_ > 0 && copy_rows_left_ > i * kRowStep);
      }
    }
    if constexpr (kOrder == Order::kContraction) {
      copy_from_ += kStep;
      copy_cols_left_ -= kStep;
    } else {
      copy_from_ += kStep * operand_.cols;
      copy_rows_left_ -= kStep;
    }
  }

  /** Every thread converts in every step; so half of the warps do it before they multiply, the others after. */
  Q4J_DEVICE bool converts_next() const { return warp_index() < Threads / kWarp / 2; }

  Q4J_DEVICE void convert(const unsigned char* stage, unsigned char* tile) {
    if (operand_.wide) {
      Q4J_UNROLL
      for (int i = 0; i < kItems; ++i) {
        const Words4 codes = load(reinterpret_cast<const Words4*>(stage + raw_offset(i)));
        // 0 where the weight has no such element: its copy is 0, and 0 must not meet a scale that is no number.
        const float scale = cols_left_ > 0 ? scale_[i] : 0.0f;
        Q4J_UNROLL
        for (int half = 0; half < 2; ++half) {
          store(reinterpret_cast<Words4*>(tile + tile_offset(i, half)),
                narrow_eight(rowwise_values(operand_, {{codes.word[half * 2], codes.word[half * 2 + 1]}}, scale)));
        }
      }
    } else {
      Q4J_NO_UNROLL
      for (int i = 0; i < kItems * 2; ++i) {
        const int64_t row = row_ + i / 2 * kRowStep;
        const int64_t col = col_ + i % 2 * kEight;
        Words4 words = {{0u, 0u, 0u, 0u}};
        if (row < operand_.rows && col < operand_.cols) words = narrow_eight(read_rowwise(operand_, row, col));
        store(reinterpret_cast<Words4*>(tile + tile_offset(i / 2, i % 2)), words);
      }
    }
    if constexpr (kOrder == Order::kContraction) {
      col_ += kStep;
      cols_left_ -= kStep;
    } else {
      row_ += kStep;
      rows_left_ -= kStep;
      scale_from_ += kStep;
      fetch_scales();
    }
  }

 private:
  static constexpr int kPiece = 16;
  static constexpr int kPieces = (kOrder == Order::kContraction ? kStep : Outer) / kPiece; /* in a row of the tile */
  static constexpr int kItems = Outer * kStep / kPiece / Threads;
  static constexpr int kRowStep = Threads / kPieces;
  static_assert(kItems * Threads * kPiece == Outer * kStep && kRowStep % 8 == 0,
                "a thread's pieces are a fixed distance apart");

  static Q4J_DEVICE int first_row() { return thread_index() / kPieces; }
  static Q4J_DEVICE int piece() { return thread_index() % kPieces; }

  /** In contraction order four rows of two pieces share the banks, so that the next four exchange theirs. */
  static Q4J_DEVICE int raw_offset(int i) {
    const int row = first_row();
    const int place = kOrder == Order::kContraction ? piece() ^ (row >> 2 & 1) : piece();
    return ((row + i * kRowStep) * kPieces + place) * kChunkBytes;
  }

  static Q4J_DEVICE int tile_offset(int i, int half) {
    return chunk_offset<kPieces * 2>(first_row() + i * kRowStep, piece() * 2 + half);
  }

  Q4J_DEVICE void fetch_scales() {
    Q4J_UNROLL
    for (int i = 0; i < kItems; ++i) scale_[i] = rows_left_ > i * kRowStep ? load_read_only(scale_from_ + i * kRowStep) : 0.0f;
  }

  const Operand& operand_;
  // Of the step that is copied next.
  const uint8_t* copy_from_;
  int copy_rows_left_;
  int copy_cols_left_;
  // Of the step that is converted next.
  int64_t row_;
  int64_t col_;
  int rows_left_;
  int cols_left_;
  const float* scale_from_;
  float scale_[kItems];
};

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_LINEAR_ROWWISE_TILE_H_
