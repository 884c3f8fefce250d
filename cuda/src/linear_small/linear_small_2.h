// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Rung 2. A block keeps the table of value pairs and its part of A in shared memory; its warps stream tiles of the weight, 16
 * bytes per lane and load, four loads ahead, and accumulate 16 to 64 outputs each. At the end of a unit of outputs the warps
 * that share them add up through shared memory, while the loads of the next unit are under way.
 *
 * Forward, Y^T = W X^T. A warp steps along its strips (one, or two that use the same x); a word of codes is a row's, so eight
 * values share a factor. The pairs of a byte are eight columns apart (2t, 2t + 8): they are neighbours of k for the instruction
 * because A lies in shared memory in that order. A step of 64 columns is four m16n8k16 per strip and eight rows of A.
 *
 * To the input, dX^T = W^T dY^T. A warp steps down a column of tiles; movmatrix transposes a word's four 8 x 8 blocks of codes,
 * so that a lane has rows 2t and 2t + 1 of a column, which are neighbours of k. A step of 16 rows is four m16n8k16, one per 16
 * columns.
 */
#ifndef QLORA4J_CUDA_LINEAR_SMALL_LINEAR_SMALL_2_H_
#define QLORA4J_CUDA_LINEAR_SMALL_LINEAR_SMALL_2_H_

#include "linear_small/linear_small.h"
#include "linear_small/shape.h"
#include "support/launch.h"
#include "support/tensor_core.h"

namespace q4j::cuda {

/** A warp's part of a chunk: `steps` steps of the contraction from `first` on, for the outputs from tile `out` on. */
struct SmallSegment {
  int out;
  int first;
  int steps;
  int tile; /* the first one */
};

/** absmax of the rows g and g + 8 before decoding. */
struct RawAbsmax {
  uint32_t codes;
  float low;
  float high;
};

template <int NT, Order kB, bool kMixed>
class SmallBlock {
 public:
  Q4J_DEVICE explicit SmallBlock(const SmallProduct& p)
      : p_(p),
        shared_(dynamic_shared()),
        lane_(lane_index()),
        g_(lane_ / 4),
        t_(lane_ % 4),
        place_(pair_place()),
        codes_(p.codes + lane_ * static_cast<int>(sizeof(Words4))) {}

  Q4J_DEVICE void run() {
    const int warp = uniform(warp_index());
    share_ = warp & ((1 << p_.plan.share_shift) - 1);
    group_ = warp >> p_.plan.share_shift;
    slice_ = block_index() % p_.plan.splits;
    slice_begin_ = slice_ * p_.plan.slice_slots;
    slice_end_ = least(slice_begin_ + p_.plan.slice_slots, (steps_of_all() + S::kSlotSteps - 1) / S::kSlotSteps);

    int unit = block_index() / p_.plan.splits;
    int slot = slice_begin_;
    SmallSegment now = segment(unit, slot);
    Q4J_UNROLL
    for (int i = 0; i < kRing; ++i) ring_[i] = Words4{{0u, 0u, 0u, 0u}};
    Q4J_UNROLL
    for (int d = 0; d < S::kDepth; ++d) {
      if (d < now.steps) load(d, now.out, now.tile, d);
    }
    RawAbsmax raw = load_absmax(now, 0);
    fill_tables();

    bool staged = false;
    int buffer = 0;
    while (unit < p_.plan.units) {
      if (!staged) {
        block_barrier();  // the last chunk has been read
        stage(slot);
        block_barrier();
        staged = p_.plan.chunk_slots >= p_.plan.slice_slots;  // one chunk is all that this block ever needs
      }
      if (slot == slice_begin_) begin(unit);
      const int step_in_chunk = now.first - slot * S::kSlotSteps;
      if constexpr (S::kForward) {
        x_ = S::kSlotsAt + (step_in_chunk * slot_rows() + g_) * S::kSlotStride + t_ * 32 + g_ % 2 * 16;
      } else {
        x_ = step_in_chunk;
      }
      const bool last = slot + p_.plan.chunk_slots >= slice_end_;
      const int next_unit = last ? unit + grid_blocks() / p_.plan.splits : unit;
      const int next_slot = last ? slice_begin_ : slot + p_.plan.chunk_slots;
      const SmallSegment next = segment(next_unit, next_slot);
      int step = 0;
      do {
        decode(raw);
        raw = step + S::kDepth < now.steps ? load_absmax(now, step + S::kDepth) : load_absmax(next, 0);
        Q4J_UNROLL
        for (int d = 0; d < S::kDepth; ++d) {
          // Place d of the ring holds step d of a segment, d + kDepth after it, and so on; then step d of the next segment.
          const bool own = step + d + S::kDepth < now.steps;
          if (step + d < now.steps) {
            multiply(d);
          } else if (step > 0) {
            continue;
          }
          const int ahead = own ? step + d + S::kDepth : d;
          if (ahead < (own ? now.steps : next.steps)) load(d, own ? now.out : next.out, own ? now.tile : next.tile, ahead);
        }
        step += S::kDepth;
      } while (step < now.steps);
      if (last) finish(unit, &buffer);
      unit = next_unit;
      slot = next_slot;
      now = next;
    }
  }

 private:
  using S = SmallShape<NT, kB>;

  Q4J_DEVICE static int least(int a, int b) { return a < b ? a : b; }

  /** Rows of A in a slot: those there are, or, from nine on, whole eights. */
  Q4J_DEVICE int slot_rows() const { return NT == 1 ? p_.m : NT * 8; }
  Q4J_DEVICE int groups() const { return S::kWarps >> p_.plan.share_shift; }
  Q4J_DEVICE int steps_of_all() const { return S::kForward ? p_.row_tiles : p_.strips; }
  Q4J_DEVICE int out_tiles() const { return S::kForward ? p_.strips : p_.row_tiles; }
  Q4J_DEVICE int64_t outs() const {
    return S::kForward ? static_cast<int64_t>(p_.strips) * kTileRows : static_cast<int64_t>(p_.row_tiles) * kTileCols;
  }

  /** The warp's share of the chunk that begins at `slot`; no steps for a unit that is none. */
  Q4J_DEVICE SmallSegment segment(int unit, int slot) const {
    const int begin = slot * S::kSlotSteps;
    const int end = least(least(slot + p_.plan.chunk_slots, slice_end_) * S::kSlotSteps, steps_of_all());
    const int share = (end - begin + (1 << p_.plan.share_shift) - 1) >> p_.plan.share_shift;
    const int first = least(begin + share_ * share, end);
    const int out = (unit * groups() + group_) * S::kWide;
    const int steps = unit < p_.plan.units && out < out_tiles() ? least(share, end - first) : 0;
    return {out, first, steps, S::kForward ? out * p_.row_tiles + first : first * p_.row_tiles + out};
  }

  /** Starts to load step `step` of a segment of which this is the first tile into place `place` of the ring. */
  Q4J_DEVICE void load(int place, int out, int first, int step) {
    Q4J_UNROLL
    for (int w = 0; w < S::kWide; ++w) {
      if (w == 0 || out + w < out_tiles()) {
        const int tile = first + (S::kForward ? step + w * p_.row_tiles : step * p_.row_tiles);
        ring_[place * S::kWide + w] =
            streamed_.load(reinterpret_cast<const Words4*>(codes_ + static_cast<int64_t>(tile) * kTileBytes));
      }
    }
  }

  /** Lane 8 e + g starts to load what the rows g and g + 8 of entry e of the ring's next round are multiplied by. */
  Q4J_DEVICE RawAbsmax load_absmax(const SmallSegment& segment, int step) const {
    const int wide = lane_ / 8 % S::kWide;
    const int own = step + lane_ / 8 / S::kWide;
    if (own >= segment.steps || segment.out + wide >= out_tiles()) return {0u, 0.0f, 0.0f};
    const int strip = S::kForward ? segment.out + wide : segment.first + own;
    const int block = (S::kForward ? segment.first + own : segment.out) >> p_.block_shift;
    const int at = (strip * p_.row_blocks + block) * kTileRows + lane_ % 8 * 2;
    if (p_.nested_absmax == nullptr) {
      const Words2 pair = load_read_only(reinterpret_cast<const Words2*>(static_cast<const float*>(p_.absmax) + at));
      return {0u, bits_float(pair.word[0]), bits_float(pair.word[1])};
    }
    const int canonical = (strip * kTileRows + lane_ % 8) * p_.row_blocks + block;
    return {load_read_only(reinterpret_cast<const uint16_t*>(static_cast<const uint8_t*>(p_.absmax) + at)),
            load_read_only(p_.nested_absmax + (canonical >> p_.nested_shift)),
            load_read_only(p_.nested_absmax + ((canonical + 8 * p_.row_blocks) >> p_.nested_shift))};
  }

  Q4J_DEVICE void decode(const RawAbsmax& raw) {
    absmax_low_ = raw.low;
    absmax_high_ = raw.high;
    if (p_.nested_absmax != nullptr) {
      const auto* map = reinterpret_cast<const float*>(shared_ + S::kMapAt);
      absmax_low_ = add(q4j::cuda::multiply(map[raw.codes & 255u], raw.low), p_.nested_offset);
      absmax_high_ = add(q4j::cuda::multiply(map[raw.codes >> 8], raw.high), p_.nested_offset);
    }
  }

  /** The barrier before the first look-up is the one behind stage(). */
  Q4J_DEVICE void fill_tables() const {
    fill_value_pairs(shared_, p_.values);
    if (p_.nested_absmax != nullptr) {
      auto* map = reinterpret_cast<float*>(shared_ + S::kMapAt);
      Q4J_NO_UNROLL
      for (int i = thread_index(); i < 256; i += S::kThreads) map[i] = signed_map.at[i];
    }
  }

  /**
   * Copies A over the chunk's slots into shared memory. A slot has 128 bytes per row of A, 32 for each lane t of a quad:
   * forward two pieces of 16 bytes, one per 32 columns, exchanged in odd rows; to the input four pieces of 8 bytes, one per 16
   * rows of the weight, 32 bytes apart and exchanged by the row modulo 4. So the loads of multiply() meet no bank twice.
   */
  Q4J_DEVICE void stage(int first_slot) const {
    const int64_t length = static_cast<int64_t>(steps_of_all()) * (S::kForward ? kTileCols : kTileRows);
    const bool vectors = is_aligned(p_.x, sizeof(Words4)) && p_.ldx % kEight == 0;
    const int rows = slot_rows();
    const int quarters = least(p_.plan.chunk_slots, slice_end_ - first_slot) * rows * 4;
    Q4J_NO_UNROLL
    for (int i = thread_index(); i < quarters; i += S::kThreads) {
      const int quarter = i % 4;
      const int row = i / 4 % rows;
      const int slot = i / 4 / rows;
      const int64_t from = static_cast<int64_t>(first_slot + slot) * kSlot + quarter * 16;
      Eight<bf16> loaded[2];
      Q4J_UNROLL
      for (int f = 0; f < 2; ++f) {
        const bool present = row < p_.m;  // zeros make whole eights
        loaded[f] = load_eight(p_.x + (present ? row : 0) * p_.ldx, from + f * kEight, present ? length : 0, vectors);
      }
      unsigned char* to = shared_ + S::kSlotsAt + (slot * rows + row) * S::kSlotStride;
      to += S::kForward ? (quarter / 2 ^ (row & 1)) * 16 + quarter % 2 * 8 : (quarter ^ (row & 3)) * 32;
      Q4J_UNROLL
      for (int t = 0; t < 4; ++t) {
        const uint32_t first = loaded[0].vector[0].word[t];
        const uint32_t second = loaded[1].vector[0].word[t];
        if constexpr (S::kForward) {
          // Columns 2t of both eights, then columns 2t + 1.
          store(reinterpret_cast<Words2*>(to + t * 32),
                Words2{{byte_permute(first, second, 0x5410u), byte_permute(first, second, 0x7632u)}});
        } else {
          store(reinterpret_cast<Words2*>(to + t * 8), Words2{{first, second}});
        }
      }
    }
  }

  /** The sums of a unit begin with the branch, of whose steps of 16 ranks every warp takes its share. */
  Q4J_DEVICE void begin(int unit) {
    Q4J_UNROLL
    for (int i = 0; i < S::kOutTiles; ++i) {
      Q4J_UNROLL
      for (int n = 0; n < NT; ++n) {
        Q4J_UNROLL
        for (int c = 0; c < 4; ++c) sum_[i][n][c] = 0.0f;
      }
    }
    if (p_.branch.exact) return;  // write() adds it
    const int first = (slice_ << p_.plan.share_shift) + share_;
    if (first * 16 >= p_.branch.rank) return;
    const int64_t out = static_cast<int64_t>(unit * groups() + group_) * S::kOuts + g_;
    Q4J_NO_UNROLL
    for (int step = first; step * 16 < p_.branch.rank; step += p_.plan.splits << p_.plan.share_shift) {
      branch_step(out, step * 16 + t_ * 2);
    }
    scale_branch(out);
  }

  /** A pair of neighbouring ranks, rounded to bf16; 0 beyond the ranks there are. `apart`: elements between ranks. */
  Q4J_DEVICE uint32_t branch_pair(const float* from, int rank, int64_t apart, bool present) const {
    const float first = present && rank < p_.branch.rank ? load_read_only(from) : 0.0f;
    const float second = present && rank + 1 < p_.branch.rank ? load_read_only(from + apart) : 0.0f;
    return narrow_pair<bf16>(first, second);
  }

  Q4J_DEVICE void branch_step(int64_t out, int rank) {
    const auto* inner = static_cast<const float*>(p_.branch.inner.data);
    const auto* factor = static_cast<const float*>(p_.branch.factor.data);
    const int64_t factor_row = S::kForward ? p_.branch.rank : outs();
    uint32_t a[S::kOutTiles][4];
    Q4J_UNROLL
    for (int i = 0; i < S::kOutTiles; ++i) {
      Q4J_UNROLL
      for (int w = 0; w < 4; ++w) {
        const int64_t own = out + i * 16 + w % 2 * 8;
        const int own_rank = rank + w / 2 * 8;
        const float* from = S::kForward ? factor + own * factor_row + own_rank : factor + own_rank * factor_row + own;
        a[i][w] = branch_pair(from, own_rank, S::kForward ? 1 : factor_row, own < outs());
      }
    }
    Q4J_UNROLL
    for (int n = 0; n < NT; ++n) {
      const int row = n * 8 + g_;
      const float* from = inner + static_cast<int64_t>(row) * p_.branch.rank + rank;
      const uint32_t b0 = branch_pair(from, rank, 1, row < p_.m);
      const uint32_t b1 = branch_pair(from + 8, rank + 8, 1, row < p_.m);
      Q4J_UNROLL
      for (int i = 0; i < S::kOutTiles; ++i) multiply_add_bf16(sum_[i][n], a[i], b0, b1);
    }
  }

  Q4J_DEVICE void scale_branch(int64_t out) {
    Q4J_NO_UNROLL
    for (int n = 0; n < NT; ++n) {
      // Bits first, so that the code that draws them is there once.
      uint32_t kept = 0xffffu;
      if (!S::kForward && p_.branch.mask.on) {
        kept = 0u;
        Q4J_NO_UNROLL
        for (int e = 0; e < S::kOutTiles * 4; ++e) {
          const auto row = static_cast<uint32_t>(n * 8 + t_ * 2 + e % 2);
          const auto column = static_cast<uint32_t>(out + e / 4 * 16 + e / 2 % 2 * 8);
          kept |= (dropout_keeps(p_.branch.mask, row, column) ? 1u : 0u) << e;
        }
      }
      Q4J_UNROLL
      for (int p = 0; p < NT; ++p) {
        if (p != n) continue;
        Q4J_UNROLL
        for (int e = 0; e < S::kOutTiles * 4; ++e) {
          float& sum = sum_[e / 4][p][e % 4];
          sum = (kept >> e & 1u) != 0 ? q4j::cuda::multiply(sum, p_.branch.scale) : 0.0f;
        }
      }
    }
  }

  /** Multiplies what lies in a place of the ring, and goes on to the next step's part of A. */
  Q4J_DEVICE void multiply(int place) {
    if constexpr (S::kForward) {
      multiply_forward(place);
    } else {
      multiply_backward(place);
    }
  }

  Q4J_DEVICE uint32_t pair(uint32_t word, int byte, float absmax) const {
    const ValuePair values = value_pair(shared_, word, byte, place_);
    return narrow_pair<bf16>(q4j::cuda::multiply(values.low, absmax), q4j::cuda::multiply(values.high, absmax));
  }

  Q4J_DEVICE void multiply_forward(int place) {
    float low[S::kWide];
    float high[S::kWide];
    Q4J_UNROLL
    for (int w = 0; w < S::kWide; ++w) {
      low[w] = shuffle(absmax_low_, (place * S::kWide + w) * 8 + g_);
      high[w] = shuffle(absmax_high_, (place * S::kWide + w) * 8 + g_);
    }
    Q4J_UNROLL
    for (int half = 0; half < 2; ++half) {
      uint32_t a[S::kWide][2][4];
      Q4J_UNROLL
      for (int w = 0; w < S::kWide; ++w) {
        const Words4& codes = ring_[place * S::kWide + w];
        // A quarter of the codes: the rows g + 8 of every second place.
        const bool mixed = kMixed && (place * S::kWide + w) % 2 == 1;
        Words4 pairs = {};
        if (mixed) {
          if (half == 0) planes_ = value_planes(p_.values, high[w]);
          pairs = look_up(planes_, codes.word[half * 2 + 1]);
        }
        Q4J_UNROLL
        for (int s = 0; s < 2; ++s) {
          a[w][s][0] = pair(codes.word[half * 2], s, low[w]);
          a[w][s][1] = mixed ? pairs.word[s] : pair(codes.word[half * 2 + 1], s, high[w]);
          a[w][s][2] = pair(codes.word[half * 2], s + 2, low[w]);
          a[w][s][3] = mixed ? pairs.word[s + 2] : pair(codes.word[half * 2 + 1], s + 2, high[w]);
        }
      }
      Q4J_UNROLL
      for (int n = 0; n < NT; ++n) {
        // Lanes of rows that do not exist keep what they have: such a column of B makes a column of C that nobody reads.
        if (NT > 1 || g_ < p_.m) {
          words_ = *reinterpret_cast<const Words4*>(shared_ + (x_ ^ (half * 16)) + n * 8 * S::kSlotStride);
        }
        Q4J_UNROLL
        for (int w = 0; w < S::kWide; ++w) {
          multiply_add_bf16(sum_[w][n], a[w][0], words_.word[0], words_.word[1]);
          multiply_add_bf16(sum_[w][n], a[w][1], words_.word[2], words_.word[3]);
        }
      }
    }
    x_ += slot_rows() * S::kSlotStride;
  }

  Q4J_DEVICE void multiply_backward(int place) {
    const int even = place * 8 + 2 * t_;
    const float row_0 = shuffle(absmax_low_, even);
    const float row_1 = shuffle(absmax_low_, even + 1);
    const float row_8 = shuffle(absmax_high_, even);
    const float row_9 = shuffle(absmax_high_, even + 1);
    uint32_t codes[4];
    Q4J_UNROLL
    for (int j = 0; j < 4; ++j) codes[j] = transpose_matrix(ring_[place].word[j]);
    const unsigned char* from =
        shared_ + S::kSlotsAt + (x_ / 4 * slot_rows() + g_) * S::kSlotStride + ((x_ % 4) ^ (g_ & 3)) * 32 + t_ * 8;
    Words2 words[NT];
    Q4J_UNROLL
    for (int n = 0; n < NT; ++n) {
      words[n] = Words2{{0u, 0u}};
      if (NT > 1 || g_ < p_.m) words[n] = *reinterpret_cast<const Words2*>(from + n * 8 * S::kSlotStride);
    }
    Q4J_UNROLL
    for (int i = 0; i < 4; ++i) {
      const uint32_t top = codes[i / 2 * 2];
      const uint32_t bottom = codes[i / 2 * 2 + 1];
      const ValuePair v0 = value_pair(shared_, top, i % 2, place_);
      const ValuePair v1 = value_pair(shared_, top, i % 2 + 2, place_);
      const ValuePair v8 = value_pair(shared_, bottom, i % 2, place_);
      const ValuePair v9 = value_pair(shared_, bottom, i % 2 + 2, place_);
      const uint32_t a[4] = {narrow_pair<bf16>(q4j::cuda::multiply(v0.low, row_0), q4j::cuda::multiply(v1.low, row_1)),
                             narrow_pair<bf16>(q4j::cuda::multiply(v0.high, row_0), q4j::cuda::multiply(v1.high, row_1)),
                             narrow_pair<bf16>(q4j::cuda::multiply(v8.low, row_8), q4j::cuda::multiply(v9.low, row_9)),
                             narrow_pair<bf16>(q4j::cuda::multiply(v8.high, row_8), q4j::cuda::multiply(v9.high, row_9))};
      Q4J_UNROLL
      for (int n = 0; n < NT; ++n) multiply_add_bf16(sum_[i][n], a, words[n].word[0], words[n].word[1]);
    }
    ++x_;
  }

  /** Where a warp's sum of a row and an output lies: outputs are rotated by the row, so that its stores meet no bank twice. */
  Q4J_DEVICE static int sum_at(int row, int out) { return row * S::kOuts + (out + row / 2 * 8) % S::kOuts; }

  /** Adds up what the warps of a group have, in the order of their shares, and writes it. */
  Q4J_DEVICE void finish(int unit, int* buffer) {
    constexpr int kWarpSums = S::kPass * 8 * S::kOuts;
    auto* sums = reinterpret_cast<float*>(shared_ + S::kSumsAt);
    Q4J_NO_UNROLL
    for (int n = 0; n < NT; n += S::kPass) {
      float* pass = sums + *buffer * S::kWarps * kWarpSums;
      if constexpr (S::kBuffers == 1) block_barrier();  // the last pass has been read
      float* own = pass + warp_index() * kWarpSums;
      Q4J_UNROLL
      for (int p = 0; p < NT; ++p) {
        if (p / S::kPass * S::kPass != n) continue;  // the sums are registers: their numbers must be constants
        Q4J_UNROLL
        for (int i = 0; i < S::kOutTiles; ++i) {
          Q4J_UNROLL
          for (int c = 0; c < 4; ++c) {
            own[p % S::kPass * 8 * S::kOuts + sum_at(t_ * 2 + c % 2, i * 16 + g_ + c / 2 * 8)] = sum_[i][p][c];
          }
        }
      }
      block_barrier();
      Q4J_NO_UNROLL
      for (int e = thread_index(); e < groups() * kWarpSums; e += S::kThreads) {
        const int out_in_group = e % S::kOuts;
        const int row = e / S::kOuts % (S::kPass * 8);
        const int group = e / kWarpSums;
        const int64_t out = static_cast<int64_t>(unit * groups() + group) * S::kOuts + out_in_group;
        if (out >= outs() || n * 8 + row >= p_.m) continue;
        const float* from =
            pass + (group << p_.plan.share_shift) * kWarpSums + row / 8 * 8 * S::kOuts + sum_at(row % 8, out_in_group);
        float sum = from[0];
        Q4J_NO_UNROLL
        for (int k = 1; k < 1 << p_.plan.share_shift; ++k) sum = add(sum, from[k * kWarpSums]);
        write(n * 8 + row, out, sum);
      }
      if constexpr (S::kBuffers == 2) *buffer ^= 1;
    }
  }

  Q4J_DEVICE void write(int row, int64_t out, float sum) const {
    if (p_.branch.rank > 0 && p_.branch.exact && slice_ == 0) sum = add(sum, exact_branch(row, out));
    if (p_.plan.splits > 1) {
      p_.partial[(static_cast<int64_t>(slice_) * p_.m + row) * outs() + out] = sum;
    } else {
      write_one(p_.output, row, out, sum);
    }
  }

  /** An element of the branch in f32: too rare a mode for more. */
  Q4J_DEVICE float exact_branch(int row, int64_t out) const {
    if (!S::kForward && p_.branch.mask.on &&
        !dropout_keeps(p_.branch.mask, static_cast<uint32_t>(row), static_cast<uint32_t>(out))) {
      return 0.0f;
    }
    const float* inner = static_cast<const float*>(p_.branch.inner.data) + static_cast<int64_t>(row) * p_.branch.rank;
    const float* factor = static_cast<const float*>(p_.branch.factor.data) + (S::kForward ? out * p_.branch.rank : out);
    const int64_t apart = S::kForward ? 1 : outs();
    float sum = 0.0f;
    Q4J_NO_UNROLL
    for (int r = 0; r < p_.branch.rank; ++r)
      sum = multiply_add(load_read_only(inner + r), load_read_only(factor + r * apart), sum);
    return q4j::cuda::multiply(sum, p_.branch.scale);
  }

  const SmallProduct& p_;
  unsigned char* const shared_;
  const int lane_;
  const int g_;
  const int t_;
  const uint32_t place_;
  const uint8_t* const codes_; /* this lane's part of the first tile */
  const Streamed streamed_ = {};
  int share_;
  int group_;
  int slice_;
  int slice_begin_;
  int slice_end_;
  int x_; /* forward: where the next step's part of A lies; to the input: its step in the chunk */
  Words4 ring_[kRing];
  Words4 words_ = {{0u, 0u, 0u, 0u}};
  ValuePlanes planes_;
  float absmax_low_ = 0.0f;
  float absmax_high_ = 0.0f;
  float sum_[S::kOutTiles][NT][4];
};

template <int NT, Order kB>
Q4J_KERNEL((SmallShape<NT, kB>::kThreads), 1)
linear_small_2(const SmallProduct p) {
  SmallBlock<NT, kB, false>(p).run();
}

template <int NT, Order kB>
Q4J_KERNEL((SmallShape<NT, kB>::kThreads), 1)
linear_small_3(const SmallProduct p) {
  SmallBlock<NT, kB, true>(p).run();
}

/** One block per multiprocessor and slice walks over the units; how many there are changes no result. */
template <int NT, Order kB>
q4j_status start_small(const q4j_pack_context& context, const SmallProduct& product, const char* name,
                       void (*kernel)(SmallProduct)) {
  const int per_slice = std::max(1, std::min(product.plan.units, context.multiprocessors / product.plan.splits));
  const Grid grid = {per_slice * product.plan.splits, SmallShape<NT, kB>::kThreads, SmallShape<NT, kB>::kSharedBytes};
  return launch(context, grid, name, kernel, product);
}

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_LINEAR_SMALL_LINEAR_SMALL_2_H_
