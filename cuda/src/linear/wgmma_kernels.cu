// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#include "linear/wgmma_kernels.h"

#include "linear/bf16_part.h"
#include "linear/tile_codes.h"
#include "support/dispatch.h"
#include "support/dropout.h"
#include "support/hopper.h"
#include "support/launch.h"
#include "support/tensor_core.h"

namespace q4j::cuda {

namespace {

constexpr int kConsumers = 2; /* warpgroups */
constexpr int kThreads = (kConsumers + 1) * kWarpgroup;
constexpr int kStages = 4;
constexpr int kStageBytes = kWgmmaRows * kSwizzleRow;
/** A row of the staged output: 64 columns and 16 bytes, so that neighbouring rows start four banks apart. */
constexpr int kStagedRow = 72;

/** What lies in dynamic shared memory. The stages come first, because a swizzled tile is aligned to 1024 bytes. */
struct Memory {
  unsigned char stage[kStages][kStageBytes];
  Mbarrier full[kStages];
  Mbarrier empty[kStages];
  Mbarrier finished;           /* both warpgroups have done with the stages */
  Mbarrier staged[kConsumers]; /* a warpgroup's output lies in shared memory */
};
static_assert(kConsumers * kWgmmaRows * kStagedRow * 2 <= kStages * kStageBytes, "the output is staged where the tiles were");

#if Q4J_HOPPER

/** Where a block works, in the order in which blocks start: all columns of one set of rows after the other. */
struct Place {
  int64_t row;    /* of x */
  int64_t column; /* of y */
};

Q4J_DEVICE Place place_of(const WgmmaLinear& w) {
  const int64_t across = (w.columns + kWgmmaColumns - 1) / kWgmmaColumns;
  return {block_index() / across * kWgmmaRows, block_index() % across * kWgmmaColumns};
}

/** Walks the ring of stages. */
struct Ring {
  int stage = 0;
  uint32_t parity = 0;

  Q4J_DEVICE void next() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1u;
    }
  }
};

/** The fetching warpgroup: one thread does all of it. */
Q4J_DEVICE void fetch(const WgmmaLinear& w, Memory& memory, const Place& place) {
  give_registers<24>();
  if (thread_index() != kConsumers * kWarpgroup) return;
  Ring ring;
  const int tiles = w.branch_tiles + w.base_tiles;
  Q4J_NO_UNROLL
  for (int tile = 0; tile < tiles; ++tile) {
    mbarrier_wait(memory.empty[ring.stage], ring.parity ^ 1u);
    mbarrier_expect(memory.full[ring.stage], kStageBytes);
    const bool branch = tile < w.branch_tiles;
    const int column = (branch ? tile : tile - w.branch_tiles) * 64;
    copy_box(memory.stage[ring.stage], branch ? w.branch : w.activations, column, static_cast<int32_t>(place.row),
             memory.full[ring.stage]);
    ring.next();
  }
}

/** Element `column` of the branch's contraction for column `output` of y: a part of a factor of b (forward) or a (backward). */
template <bool Backward>
Q4J_DEVICE float branch_element(const WgmmaLinear& w, int64_t output, int column) {
  const int group = column / w.factor.rank;
  if (group >= w.parts.groups || output >= w.columns) return 0.0f;
  const int64_t r = column - group * w.factor.rank;
  const float value = w.factor.values[Backward ? r * w.columns + output : output * w.factor.rank + r];
  const float used = w.factor.rounds ? widen(narrow<bf16>(value)) : value;
  return bf16_part(used, static_cast<int>(w.parts.of_weight >> (4 * group) & 15u));
}

/** Operand A of one k-step of the branch. `output` is the column of y of the lane's first row. */
template <bool Backward>
Q4J_DEVICE OperandA branch_fragment(const WgmmaLinear& w, int64_t output, int column) {
  OperandA a;
  const int first = column + lane_index() % 4 * 2;
  Q4J_UNROLL
  for (int p = 0; p < 4; ++p) {
    const int64_t row = output + p % 2 * 8;
    const int at = first + p / 2 * 8;
    a.pair[p] = narrow_pair<bf16>(branch_element<Backward>(w, row, at), branch_element<Backward>(w, row, at + 1));
  }
  return a;
}

/** Multiplies the branch's sums by s, or in the backward masks them, each by its own element of the mask. */
template <bool Backward>
Q4J_DEVICE void scale_branch(const WgmmaLinear& w, const Place& place, int64_t output, WarpgroupTile<kWgmmaRows>& sum) {
  Q4J_UNROLL
  for (int i = 0; i < kWgmmaRows / 2; ++i) {
    sum.at[i] = multiply(sum.at[i], w.factor.s);
    if constexpr (Backward) {
      if (w.mask.on) {
        const int64_t row = place.row + i / 4 * 8 + lane_index() % 4 * 2 + i % 2;
        const int64_t column = output + i % 4 / 2 * 8;
        if (!dropout_keeps(w.mask, static_cast<uint32_t>(row), static_cast<uint32_t>(column))) sum.at[i] = 0.0f;
      }
    }
  }
}

/** A lane's part of one stage of W, loaded a stage before it is used. */
template <bool Backward>
struct Loaded {
  LoadedTile tile[Backward ? 4 : 1]; /* a stage is 64 columns of one strip, or 64 rows: four strips */
};

/** Forward: columns 64 * stage on of the warp's strip. Backward: strips 4 * stage on of the warpgroup's tile of columns. */
template <bool Backward>
Q4J_DEVICE Loaded<Backward> load_weight(const WgmmaLinear& w, const Tables& tables, int64_t output, int stage) {
  Loaded<Backward> loaded;
  if constexpr (Backward) {
    // Warp w of the warpgroup multiplies columns 16 w ... 16 w + 16: half of the codes in two words.
    Q4J_UNROLL
    for (int i = 0; i < 4; ++i) {
      loaded.tile[i] =
          load_tile<1>(w.weight, tables, stage * 4 + i, static_cast<int>(output / kTileCols), warp_index() % 4 / 2 * 2);
    }
  } else {
    loaded.tile[0] = load_tile<2>(w.weight, tables, static_cast<int>(output / kTileRows), stage, 0);
  }
  return loaded;
}

/** Operand A of the four k-steps of a loaded stage. */
template <bool Backward>
Q4J_DEVICE void decode_stage(const WgmmaLinear& w, const Tables& tables, const Loaded<Backward>& loaded, OperandA (&a)[4]) {
  if constexpr (Backward) {
    const int f = warp_index() % 2 * 2;
    const int t = lane_index() % 4;
    Q4J_UNROLL
    for (int step = 0; step < 4; ++step) {
      // Lane and nibble pass from columns of W to its rows: the low half of a word then belongs to row 2t, the high to 2t + 1.
      const uint32_t upper = transpose_matrix(loaded.tile[step].word[0]);
      const uint32_t lower = transpose_matrix(loaded.tile[step].word[1]);
      const float absmax = absmax_of(w.weight, loaded.tile[step]);
      const float row_0 = shuffle(absmax, 4 * t);
      const float row_8 = shuffle(absmax, 4 * t + 1);
      const float row_1 = shuffle(absmax, 4 * t + 2);
      const float row_9 = shuffle(absmax, 4 * t + 3);
      a[step].pair[0] = decode_pair(tables, upper, f, row_0, row_1);
      a[step].pair[1] = decode_pair(tables, upper, f + 1, row_0, row_1);
      a[step].pair[2] = decode_pair(tables, lower, f, row_8, row_9);
      a[step].pair[3] = decode_pair(tables, lower, f + 1, row_8, row_9);
    }
  } else {
    const int g = lane_index() / 4;
    const float absmax = absmax_of(w.weight, loaded.tile[0]);
    const float upper = shuffle(absmax, 2 * g);
    const float lower = shuffle(absmax, 2 * g + 1);
    Q4J_UNROLL
    for (int step = 0; step < 4; ++step) {
      const uint32_t* word = loaded.tile[0].word + step / 2 * 2;
      const int f = step % 2 * 2;
      a[step].pair[0] = decode_pair(tables, word[0], f, upper, upper);
      a[step].pair[1] = decode_pair(tables, word[1], f, lower, lower);
      a[step].pair[2] = decode_pair(tables, word[0], f + 1, upper, upper);
      a[step].pair[3] = decode_pair(tables, word[1], f + 1, lower, lower);
    }
  }
}

/** The four k-steps of one stage; `a` holds their operands and may be written again once the products are done. */
Q4J_DEVICE void multiply_stage(WarpgroupTile<kWgmmaRows>& sum, const OperandA (&a)[4], const unsigned char* stage) {
  wgmma_pin(sum);
  wgmma_fence();
  Q4J_UNROLL
  for (int step = 0; step < 4; ++step) wgmma(sum, a[step], stage, step);
  wgmma_commit();
}

/** Adds bias and residual and writes [256 rows, 64 columns] by way of shared memory, where the lanes' fragments become rows. */
Q4J_DEVICE void write_output(const WgmmaLinear& w, const Place& place, int64_t output, const WarpgroupTile<kWgmmaRows>& sum,
                             unsigned char* shared) {
  auto* staged = reinterpret_cast<bf16*>(shared);
  const int local = warp_index() % 4 * 16 + lane_index() / 4;
  float bias[2] = {0.0f, 0.0f};
  Q4J_UNROLL
  for (int h = 0; h < 2; ++h) {
    const int64_t column = output + h * 8;
    if (w.bias == nullptr || column >= w.columns) continue;
    bias[h] =
        w.bias_dtype == Q4J_BF16 ? widen(static_cast<const bf16*>(w.bias)[column]) : static_cast<const float*>(w.bias)[column];
  }
  const auto* residual = static_cast<const bf16*>(w.residual);
  Q4J_UNROLL
  for (int i = 0; i < kWgmmaRows / 2; ++i) {
    const int row = i / 4 * 8 + lane_index() % 4 * 2 + i % 2;
    const int h = i % 4 / 2;
    float value = add(sum.at[i], bias[h]);
    if (residual != nullptr && place.row + row < w.m && output + h * 8 < w.columns) {
      value = add(value, widen(residual[(place.row + row) * w.ldr + output + h * 8]));
    }
    staged[row * kStagedRow + local + h * 8] = narrow<bf16>(value);
  }
}

/** The rows that the warpgroup has staged, 16 bytes a thread: 64 columns from `column` on. */
Q4J_DEVICE void copy_output(const WgmmaLinear& w, const Place& place, int64_t column, const unsigned char* shared) {
  const auto* staged = reinterpret_cast<const bf16*>(shared);
  const int thread = thread_index() % kWarpgroup;
  Q4J_NO_UNROLL
  for (int i = thread; i < kWgmmaRows * 8; i += kWarpgroup) {
    const int64_t row = place.row + i / 8;
    const int64_t at = column + i % 8 * kEight;
    if (row < w.m && at < w.columns) {  // columns are a multiple of 8
      store(reinterpret_cast<Words4*>(static_cast<bf16*>(w.out) + row * w.ldo + at),
            *reinterpret_cast<const Words4*>(staged + i / 8 * kStagedRow + i % 8 * kEight));
    }
  }
}

/** A multiplying warpgroup. */
template <bool Backward>
Q4J_DEVICE void consume(const WgmmaLinear& w, Memory& memory, const Tables& tables, const Place& place) {
  take_registers<240>();
  const int group = warp_index() / 4;
  const int64_t first = place.column + group * 64;                          // the warpgroup's columns of y
  const int64_t output = first + warp_index() % 4 * 16 + lane_index() / 4;  // the lane's first
  WarpgroupTile<kWgmmaRows> sum = {};
  OperandA a[4];
  Ring ring;

  if (w.branch_tiles > 0) {
    Q4J_NO_UNROLL
    for (int tile = 0; tile < w.branch_tiles; ++tile) {
      Q4J_UNROLL
      for (int step = 0; step < 4; ++step) a[step] = branch_fragment<Backward>(w, output, tile * 64 + step * 16);
      mbarrier_wait(memory.full[ring.stage], ring.parity);
      multiply_stage(sum, a, memory.stage[ring.stage]);
      wgmma_wait<0>();
      mbarrier_arrive(memory.empty[ring.stage]);
      ring.next();
    }
    wgmma_pin(sum);
    scale_branch<Backward>(w, place, output, sum);
  }

  const int64_t origin = Backward ? first : output - lane_index() / 4;
  Loaded<Backward> ahead = load_weight<Backward>(w, tables, origin, 0);
  Q4J_NO_UNROLL
  for (int tile = 0; tile < w.base_tiles; ++tile) {
    const Loaded<Backward> now = ahead;
    if (tile + 1 < w.base_tiles) ahead = load_weight<Backward>(w, tables, origin, tile + 1);
    OperandA next[4];
    decode_stage<Backward>(w, tables, now, next);
    // The last stage's products ran while this one was decoded; its operands and its tile are free once they are done.
    wgmma_wait<0>();
    if (tile > 0) mbarrier_arrive(memory.empty[(ring.stage + kStages - 1) % kStages]);
    Q4J_UNROLL
    for (int step = 0; step < 4; ++step) a[step] = next[step];
    mbarrier_wait(memory.full[ring.stage], ring.parity);
    multiply_stage(sum, a, memory.stage[ring.stage]);
    ring.next();
  }
  wgmma_wait<0>();
  wgmma_pin(sum);

  mbarrier_arrive(memory.finished);
  mbarrier_wait(memory.finished, 0);
  unsigned char* staged = memory.stage[0] + group * (kWgmmaRows * kStagedRow * 2);
  write_output(w, place, output, sum, staged);
  mbarrier_arrive(memory.staged[group]);
  mbarrier_wait(memory.staged[group], 0);
  copy_output(w, place, first, staged);
}

template <int Format, bool Backward>
Q4J_DEVICE void linear_wgmma(const WgmmaLinear& w) {
  Memory& memory = *reinterpret_cast<Memory*>(dynamic_shared());
  const Tables tables = load_values<Format>(w.weight);
  if (thread_index() == 0) {
    for (int s = 0; s < kStages; ++s) {
      mbarrier_init(memory.full[s], 1);
      mbarrier_init(memory.empty[s], kConsumers * kWarpgroup);
    }
    mbarrier_init(memory.finished, kConsumers * kWarpgroup);
    for (int g = 0; g < kConsumers; ++g) mbarrier_init(memory.staged[g], kWarpgroup);
    mbarriers_visible();
  }
  block_barrier();
  const Place place = place_of(w);
  if (warp_index() / 4 == kConsumers) {
    fetch(w, memory, place);
  } else {
    consume<Backward>(w, memory, tables, place);
  }
}

#else

/** Other architectures: wgmma_takes turns every call away. */
template <int Format, bool Backward>
Q4J_DEVICE void linear_wgmma(const WgmmaLinear&) {}

#endif

template <int Format>
Q4J_KERNEL(kThreads, 1)
linear_wgmma_forward(const WgmmaLinear Q4J_GRID_CONSTANT w) {
  linear_wgmma<Format, false>(w);
}

template <int Format>
Q4J_KERNEL(kThreads, 1)
linear_wgmma_backward(const WgmmaLinear Q4J_GRID_CONSTANT w) {
  linear_wgmma<Format, true>(w);
}

Grid grid_of(const WgmmaLinear& w) {
  return {static_cast<int>((w.m + kWgmmaRows - 1) / kWgmmaRows * ((w.columns + kWgmmaColumns - 1) / kWgmmaColumns)), kThreads,
          static_cast<int>(sizeof(Memory))};
}

}  // namespace

q4j_status launch_wgmma_forward(const q4j_pack_context& context, int32_t format, const WgmmaLinear& arguments) {
  return with_format(format, [&](auto f) {
    return launch(context, grid_of(arguments), "linear_wgmma_forward", linear_wgmma_forward<decltype(f)::value>, arguments);
  });
}

q4j_status launch_wgmma_backward(const q4j_pack_context& context, int32_t format, const WgmmaLinear& arguments) {
  return with_format(format, [&](auto f) {
    return launch(context, grid_of(arguments), "linear_wgmma_backward", linear_wgmma_backward<decltype(f)::value>, arguments);
  });
}

}  // namespace q4j::cuda
