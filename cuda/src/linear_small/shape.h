// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The sizes of rung 2, which the plan and the kernel share. */
#ifndef QLORA4J_CUDA_LINEAR_SMALL_SHAPE_H_
#define QLORA4J_CUDA_LINEAR_SMALL_SHAPE_H_

#include "linear/product.h"
#include "pack_weight/packed_layout.h"
#include "pack_weight/packed_values.h"

namespace q4j::cuda {

/** Elements of the contraction in a slot, and bytes of a row's part of it. */
constexpr int kSlot = 64;
constexpr int kSlotBytes = kSlot * 2;
/** Loads of 16 bytes that a lane keeps in flight. */
constexpr int kRing = 4;

/**
 * What a block does for up to 8 NT rows of A. Registers decide the warps: 16 of them may have 128 each, 8 may have 255, and the
 * accumulators of a warp are 4 NT kOutTiles.
 *
 * Bytes in flight: 16 warps * 4 loads * 512 bytes = 32 KB per multiprocessor, 8 warps half of it. HBM of an H200 needs 4.8 TB/s
 * * 700 ns / 132 = 25 KB at full rate. The shapes with 8 warps stay below that rate for other reasons (docs/kernels/linear.md).
 */
template <int NT, Order kB>
struct SmallShape {
  static constexpr bool kForward = kB == Order::kContraction;
  static constexpr int kWarps = NT >= (kForward ? 4 : 2) ? 8 : 16;
  static constexpr int kThreads = kWarps * kWarp;
  /** Tiles of 16 outputs that a warp makes: of neighbouring strips forward, the four of a tile's columns to the input. */
  static constexpr int kOutTiles = kForward ? (NT == 1 ? 1 : 2) : 4;
  static constexpr int kOuts = kOutTiles * 16;
  /** Tiles of the weight in a step along the contraction, steps in flight, steps in a slot. */
  static constexpr int kWide = kForward ? kOutTiles : 1;
  static constexpr int kDepth = kRing / kWide;
  static constexpr int kSlotSteps = kForward ? 1 : 4;

  // Shared memory: the table of pairs; the nested map; sums of warps; and A, between the pairs or, where there is more of it,
  // behind.
  static constexpr bool kBetween = NT <= 2;
  static constexpr int kMapAt = kPairTableBytes;
  static constexpr int kSumsAt = kMapAt + 256 * 4;
  static constexpr int kSumsBytes = kBetween ? 32 * 1024 : 16 * 1024;
  static constexpr int kSlotsAt = kBetween ? kPairBytes : kSumsAt + kSumsBytes;
  static constexpr int kSlotStride = kBetween ? kPairStride : kSlotBytes;
  static constexpr int kSlots = kBetween ? kValuePairs : 640;
  static constexpr int kSharedBytes = kSumsAt + kSumsBytes + (kBetween ? 0 : kSlots * kSlotBytes);
  static_assert(kSharedBytes <= (kBetween ? 99 : 163) * 1024, "what a block has on every device of 8.x; on 8.0 and 9.0");

  /** Floats that the warps' sums of eight rows take, how many eights go through shared memory at a time, buffers for them. */
  static constexpr int kTileSums = kWarps * 8 * kOuts;
  static constexpr int kMostPass = kSumsBytes / (kTileSums * 4);
  static constexpr int kPass = kMostPass < NT ? kMostPass : NT;
  static constexpr int kBuffers = 2 * kPass <= kMostPass ? 2 : 1;
  static_assert(kPass >= 1 && NT % kPass == 0, "the sums fit");
};

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_LINEAR_SMALL_SHAPE_H_
