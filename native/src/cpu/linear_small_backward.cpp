// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#include "linear_small_backward.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <type_traits>

#include "amx.h"
#include "gemm_epilogue.h"
#include "gemm_source.h"
#if !defined(__AVX512F__)
#include "linear_small_avx2.h"
#endif
#include "linear_small_backward_kernel.h"
#include "linear_small_rowwise.h"
#include "linear_small_scales.h"
#include "round_up.h"

namespace q4j::cpu {

namespace {

// Most rows. Up to 64, where measuring stopped, this is the faster one in every pack without AMX; see docs/kernels/linear.md.
constexpr int64_t kMostRows = 64;
#if defined(Q4J_AMX)
// An estimate: multiply() hardly takes longer for 32 rows than for one, as its tiles have 32.
constexpr int64_t kMostRowsBf16 = 16;
#else
constexpr int64_t kMostRowsBf16 = kMostRows;
#endif

// Bytes of the sums of a range, which stay in the second-level cache while all rows of the weight pass by, and of the part of
// them that stays in the first-level cache (32 KiB and more) while a block of rows does.
constexpr int64_t kRangeBytes = 256 * 1024;
constexpr int64_t kPartBytes = 24 * 1024;
// Columns of a range: short ones cost more absmax than they need.
constexpr int64_t kLeastColumns = 256;
// Whole lines of a row of 4-bit codes.
constexpr int64_t kColumnsStep = 128;
// There is a group for every so many rows of C at most: each decodes the weight anew. Not measured with many threads.
constexpr int64_t kGroupRows = 4;
// Most rows of a tile, and of a block.
constexpr int64_t kMostTileRows = 2 * kUnits;
constexpr int64_t kMostBlockRows = 64;
// What a block needs beside the weight: the absmax of its rows, or their readers. A multiple of 64.
constexpr int64_t kScratchBytes = (kMostBlockRows * TileScales::kStride + 2 * Scales::kDecoded) * 4;
static_assert(kScratchBytes % 64 == 0);
// How far ahead a row of a tile is fetched where there is one part: 8 KiB together for pairs of rows.
constexpr uintptr_t kAheadBytes = 1024;

bool fits(const Product& p) { return p.m > 0 && p.m <= (p.bf16 ? kMostRowsBf16 : kMostRows) && p.n > 0 && p.k > 0; }

struct Plan {
  int threads;
  int64_t columns;       // of a range
  int64_t part_columns;  // of a part of it
  int64_t row_groups;    // of C, each with tasks of its own
  // Bytes, multiples of 64.
  int64_t words_bytes;
  int64_t branch_bytes;
  int64_t thread_bytes;  // scratch memory and sums of a thread
};

Plan make_plan(const ThreadPool& pool, const Product& p) {
  Plan plan;
  plan.threads = threads_for(pool, p);
  const auto columns_of = [&](int64_t bytes) { return bytes / (p.m * 4) / kColumnsStep * kColumnsStep; };
  const int64_t most = std::clamp(columns_of(kRangeBytes), kLeastColumns, kMostRangeColumns);
  const int64_t share = (p.n + plan.threads - 1) / plan.threads;
  const int64_t ranges = plan.threads * ((share + most - 1) / most);
  plan.columns = round_up((p.n + ranges - 1) / ranges, kColumnsStep);
  plan.part_columns = std::clamp(columns_of(kPartBytes), kColumnsStep, plan.columns);
  const int64_t most_groups = (p.m + kGroupRows - 1) / kGroupRows;
  plan.row_groups = std::clamp<int64_t>(plan.threads / ((p.n + plan.columns - 1) / plan.columns), 1, most_groups);
  plan.words_bytes = round_up(p.m * round_up(p.k, kMostTileRows) * 4, 64);
  plan.branch_bytes = round_up(p.m * round_up(p.branch.rank, kMostTileRows) * 4, 64);
  plan.thread_bytes = kScratchBytes + round_up(p.m * plan.columns * 4, 64) + kThreadsApart;
  return plan;
}

/**
 * Tiles of a dense matrix. open(row, rows, column, columns, scratch) prepares a block of rows, kBlockRows at most, in
 * kScratchBytes of memory; tile(row, at, pair_of_one, column, columns, scratch) is the one that begins `at` rows further on. A
 * pair of which one row is there takes it twice.
 */
template <class TileType, class T>
struct DenseTiles {
  using Tile = TileType;
  static constexpr bool kWholeChunks = true;
  static constexpr int64_t kBlockRows = 16;  // 256 KiB of 8192 columns in bf16

  void open(int64_t, int64_t, int64_t, int64_t, void*) const {}
  Tile tile(int64_t row, int64_t at, bool pair_of_one, int64_t column, int64_t, const void*) const {
    return {static_cast<const T*>(operand.data) + (row + at) * operand.ld + column, pair_of_one ? 0 : operand.ld};
  }
  int64_t bytes(int64_t elements) const { return elements * static_cast<int64_t>(sizeof(T)); }
  int64_t stride() const { return bytes(operand.ld); }
  const void* data() const { return operand.data; }

  const Operand& operand;
};

/** Of an f32 matrix with rows of any length. */
template <class TileType>
struct PartTiles : DenseTiles<TileType, float> {
  static constexpr bool kWholeChunks = false;

  TileType tile(int64_t row, int64_t at, bool pair_of_one, int64_t column, int64_t columns, const void*) const {
    const int64_t ld = this->operand.ld;
    return {static_cast<const float*>(this->operand.data) + (row + at) * ld + column, pair_of_one ? 0 : ld, columns};
  }
};

/** Of a 4-bit weight. */
template <class TileType>
struct CodesTiles {
  using Tile = TileType;
  static constexpr bool kWholeChunks = true;
  static constexpr int64_t kBlockRows = kMostBlockRows;

  void open(int64_t row, int64_t rows, int64_t column, int64_t columns, void* scratch) const {
    for (int64_t r = 0; r < round_up(rows, Tile::kRows); ++r) {
      scales.copy_part(row + std::min(r, rows - 1), column, columns, kBlockRows,
                       first_scales(scratch) + r * TileScales::kStride);
    }
  }
  Tile tile(int64_t row, int64_t at, bool pair_of_one, int64_t column, int64_t, void* scratch) const {
    return {static_cast<const uint8_t*>(weight.data) + (row + at) * stride() + bytes(column),
            pair_of_one ? 0 : stride(),
            {first_scales(scratch) + at * TileScales::kStride},
            values};
  }
  int64_t bytes(int64_t elements) const { return elements / 2; }
  int64_t stride() const { return bytes(weight.cols); }
  const void* data() const { return weight.data; }

  static float* first_scales(void* scratch) { return static_cast<float*>(scratch) + Scales::kDecoded; }

  const q4j_weight& weight;
  Scales scales;
  Table4Bit values;
};

/** Of an INT8 or FP8 weight. */
template <class TileType, class Reader>
struct RowwiseTiles {
  using Tile = TileType;
  static constexpr bool kWholeChunks = true;
  // A reader may hold the values of all codes.
  static constexpr int64_t kBlockRows = 16;
  static_assert(kBlockRows * sizeof(Reader) <= kScratchBytes && alignof(Reader) <= 64);
  static_assert(std::is_trivially_destructible_v<Reader>);

  void open(int64_t row, int64_t rows, int64_t column, int64_t, void* scratch) const {
    for (int64_t r = 0; r < round_up(rows, Tile::kRows); ++r) {
      const int64_t from = row + std::min(r, rows - 1);
      new (static_cast<Reader*>(scratch) + r) Reader(Reader::of(
          static_cast<const char*>(weight.data) + from * stride() + column, static_cast<const float*>(weight.absmax)[from]));
    }
  }
  Tile tile(int64_t, int64_t at, bool, int64_t, int64_t, const void* scratch) const {
    return {static_cast<const Reader*>(scratch) + at};
  }
  int64_t bytes(int64_t elements) const { return elements; }
  int64_t stride() const { return weight.cols; }
  const void* data() const { return weight.data; }

  const q4j_weight& weight;
};

// ------------------------------------------------------------------------------------------------------------------ words

/**
 * The factors of the units in the order in which the kernel reads them: [tile][row of C][unit], zeros for the rows that
 * the last tile lacks.
 */
template <class Tile, class T>
void arrange_rows(const T* from, int64_t ld, int64_t m, int64_t k, int64_t first_tile, int64_t last_tile,
                  typename Tile::Word* words) {
  constexpr int kTileRows = kUnits * Tile::kRows;
  for (int64_t tile = first_tile; tile < last_tile; ++tile) {
    const int64_t row = tile * kTileRows;
    const int64_t rows = std::min<int64_t>(kTileRows, k - row);
    for (int64_t i = 0; i < m; ++i) {
      const T* p = from + i * ld + row;
      typename Tile::Word* to = words + (tile * m + i) * kUnits;
      if constexpr (Tile::kRows == 2) {
        bf16 values[kTileRows] = {};
        for (int64_t r = 0; r < rows; ++r) values[r] = bf16_from_f32(to_f32(p[r]));
        std::memcpy(to, values, sizeof values);
      } else {
        for (int64_t r = 0; r < kTileRows; ++r) to[r] = r < rows ? to_f32(p[r]) : 0.0f;
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------- product

/**
 * sums += the product of words and `k` rows, for m rows of C and the columns from `first` on, `part` of them at a time; see
 * multiply_tile(). words: of the first of these rows, in an arrangement of `words_rows` rows. With more than one part a block
 * of rows stays in the second-level cache while its parts pass by, and the next one is fetched into it; else rows are fetched
 * past it, and a block is short, so that its absmax stay near.
 */
template <int M, bool OnePart, class Tiles>
void add_rows(const Tiles& tiles, const typename Tiles::Tile::Word* words, int64_t words_rows, int64_t m, int64_t k,
              int64_t first, int64_t columns, int64_t part, void* scratch, float* sums) {
  using Tile = typename Tiles::Tile;
  constexpr int64_t kTileRows = kUnits * Tile::kRows;
  constexpr int64_t kBlockRows = OnePart ? 2 * kTileRows : Tiles::kBlockRows;
  static_assert(kBlockRows % kTileRows == 0 && kBlockRows <= Tiles::kBlockRows && Tiles::kBlockRows <= kMostBlockRows);
  const int64_t chunks = (columns + kChunk - 1) / kChunk;
  const int64_t part_chunks = part / kChunk;
  const auto stride = static_cast<uintptr_t>(tiles.stride());
  const uintptr_t begin = reinterpret_cast<uintptr_t>(tiles.data()) + static_cast<uintptr_t>(tiles.bytes(first));
  const auto bytes = static_cast<uintptr_t>(tiles.bytes(columns));
  FetchAhead ahead;
  if constexpr (OnePart) {
    ahead = {0, stride, std::min<uintptr_t>(kAheadBytes, bytes), bytes, kTileRows * stride - bytes};
  } else {
    ahead = {0, stride, kBlockRows * stride, ~uintptr_t{0}, 0};
  }
  for (int64_t row = 0; row < k; row += kBlockRows) {
    const int64_t rows = std::min(kBlockRows, k - row);
    tiles.open(row, rows, first, columns, scratch);
    for (int64_t c = 0; c < chunks; c += part_chunks) {
      const int64_t count = std::min(part_chunks, chunks - c);
      const auto tile = [&](int64_t at, bool pair_of_one) { return tiles.tile(row, at, pair_of_one, first, columns, scratch); };
      const typename Tile::Word* tile_words = words;
      int64_t at = 0;
      for (; at + kTileRows <= rows; at += kTileRows) {
        ahead.address = begin + static_cast<uintptr_t>(row + at) * stride;
        multiply_tile<M, kUnits, false, OnePart>(tile(at, false), c, count, tile_words, m, ahead, sums);
        tile_words += words_rows * kUnits;
      }
      // What is left, a unit at a time.
      for (; at + Tile::kRows <= rows; at += Tile::kRows) {
        multiply_tile<M, 1, false, OnePart>(tile(at, false), c, count, tile_words++, m, ahead, sums);
      }
      if constexpr (Tile::kRows == 2) {
        if (at < rows) multiply_tile<M, 1, true, OnePart>(tile(at, true), c, count, tile_words, m, ahead, sums);
      }
    }
    words += words_rows * (kBlockRows / Tile::kRows);
  }
}

/** One product at work. */
template <class Tiles>
class BackwardMultiplication {
 public:
  using Tile = typename Tiles::Tile;
  using Word = typename Tile::Word;

  BackwardMultiplication(ThreadPool& pool, const Product& product, const Plan& plan, const Tiles& tiles, char* workspace)
      : pool_(pool),
        product_(product),
        plan_(plan),
        tiles_(tiles),
        order_(Tile::arrange),
        words_(reinterpret_cast<Word*>(workspace)),
        branch_words_(workspace + plan.words_bytes),
        threads_(workspace + plan.words_bytes + plan.branch_bytes) {}

  void run() {
    arrange();
    const int64_t ranges = (product_.n + plan_.columns - 1) / plan_.columns;
    pool_.parallel_for(
        ranges * plan_.row_groups,
        [&](int64_t task, int thread) {
          const int64_t group = task / ranges;
          const int64_t row = product_.m * group / plan_.row_groups;
          const int64_t first = task % ranges * plan_.columns;
          multiply({row, product_.m * (group + 1) / plan_.row_groups - row, first, std::min(plan_.columns, product_.n - first),
                    threads_ + thread * plan_.thread_bytes});
        },
        plan_.threads);
  }

 private:
  void arrange() {
    constexpr int64_t kTileRows = kUnits * Tile::kRows;
    const int64_t m = product_.m;
    const int64_t k = product_.k;
    const int64_t tiles = (k + kTileRows - 1) / kTileRows;
    const int64_t parts = m * k < kSharedElements ? 1 : plan_.threads;
    pool_.parallel_for(parts, [&](int64_t part, int) {
      const int64_t begin = tiles * part / parts;
      const int64_t end = tiles * (part + 1) / parts;
      if (product_.a.dtype == Q4J_BF16) {
        arrange_rows<Tile>(static_cast<const bf16*>(product_.a.data), product_.a.ld, m, k, begin, end, words_);
      } else if constexpr (Tile::kRows == 1) {
        arrange_rows<Tile>(static_cast<const float*>(product_.a.data), product_.a.ld, m, k, begin, end, words_);
      }
    });
    if (product_.branch.rank > 0 && branch_rounded()) arrange_branch<RoundedBranchTile>();
    if (product_.branch.rank > 0 && !branch_rounded()) arrange_branch<BranchTile>();
  }

  // A range of columns for some rows of C.
  struct Task {
    int64_t row;
    int64_t rows;
    int64_t first;
    int64_t columns;
    char* scratch;
  };

  void multiply(const Task& task) const {
    auto* sums = reinterpret_cast<float*>(task.scratch + kScratchBytes);
    const int64_t elements = task.rows * round_up(task.columns, kChunk);
    std::fill_n(sums, elements, 0.0f);
    if (product_.branch.rank > 0) add_branch(task, sums);
    add(tiles_, words_, product_.k, task, sums);
    for (int64_t at = 0; at < elements; at += kChunk) {
      order_.restore(sums + at);
      for (int64_t lane = 0; lane < kChunk; lane += kLanes) store(sums + at + lane, with_plain_nan(load(sums + at + lane)));
    }
    for (int64_t c = 0; c < task.columns; c += kChunk) {
      const float* chunk = sums + c * task.rows;
      const int64_t count = std::min<int64_t>(kChunk, task.columns - c);
      finish_sums(product_.epilogue, chunk, kChunk, task.row, task.first + c, task.rows, count);
    }
  }

  template <class AnyTiles>
  void add(const AnyTiles& tiles, const typename AnyTiles::Tile::Word* words, int64_t k, const Task& task, float* sums) const {
    const auto call = [&](auto kernel) {
      kernel(tiles, words + task.row * kUnits, product_.m, task.rows, k, task.first, task.columns, plan_.part_columns,
             task.scratch, sums);
    };
    if (task.columns > plan_.part_columns) {
      call(add_rows<0, false, AnyTiles>);
    } else if (task.rows == 1) {
      call(add_rows<1, true, AnyTiles>);
    } else {
      call(add_rows<0, true, AnyTiles>);
    }
  }

  template <bool Rounded>
  using BranchRows =
      std::conditional_t<Tiles::kWholeChunks, DenseTile<DenseF32Reader<float, Rounded>, float>, PartTile<Rounded>>;
  using BranchTile = BranchRows<false>;
#if defined(__AVX512BF16__)
  using RoundedBranchTile = RoundedPairs<BranchTile>;
#else
  using RoundedBranchTile = BranchRows<true>;
#endif

  bool branch_rounded() const { return product_.bf16 && !product_.branch.full_precision; }

  template <class AnyTile>
  void arrange_branch() {
    const Branch& branch = product_.branch;
    constexpr int64_t kTileRows = kUnits * AnyTile::kRows;
    arrange_rows<AnyTile>(static_cast<const float*>(branch.p.data), branch.p.ld, product_.m, branch.rank, 0,
                          (branch.rank + kTileRows - 1) / kTileRows, static_cast<typename AnyTile::Word*>(branch_words_));
  }

  template <class AnyTile>
  void add_branch_rows(const Task& task, float* sums) const {
    const Branch& branch = product_.branch;
    const DenseTiles<AnyTile, float> whole = {branch.q};
    const std::conditional_t<Tiles::kWholeChunks, DenseTiles<AnyTile, float>, PartTiles<AnyTile>> tiles = {whole};
    add(tiles, static_cast<const typename AnyTile::Word*>(branch_words_), branch.rank, task, sums);
  }

  // s times the masked branch, in the order of the base product's tiles.
  void add_branch(const Task& task, float* sums) const {
    const Branch& branch = product_.branch;
    if (branch_rounded()) {
      add_branch_rows<RoundedBranchTile>(task, sums);
    } else {
      add_branch_rows<BranchTile>(task, sums);
    }
    const int64_t elements = task.rows * round_up(task.columns, kChunk);
    for (int64_t at = 0; at < elements; at += kLanes) store(sums + at, load(sums + at) * broadcast(branch.s));
    if (branch.dropout != nullptr) mask_branch(DropoutMask(*branch.dropout, product_.n), task, sums);
    for (int64_t at = 0; at < elements; at += kChunk) order_.arrange(sums + at);
  }

  static void mask_branch(const DropoutMask& mask, const Task& task, float* sums) {
    for (int64_t c = 0; c < task.columns; c += kChunk) {
      for (int64_t i = 0; i < task.rows; ++i) {
        for (int64_t lane = 0; lane < kChunk; lane += kLanes) {
          float* at = sums + c * task.rows + i * kChunk + lane;
          store(at, select(mask.keeps(task.row + i, task.first + c + lane), load(at), zero()));
        }
      }
    }
  }

  ThreadPool& pool_;
  const Product& product_;
  const Plan& plan_;
  const Tiles& tiles_;
  ChunkOrder order_;
  Word* words_;
  void* branch_words_;
  char* threads_;
};

template <class Tiles>
void run(ThreadPool& pool, const Product& product, const Plan& plan, const Tiles& tiles, char* workspace) {
  BackwardMultiplication<Tiles>(pool, product, plan, tiles, workspace).run();
}

template <class Tile, class T>
void run_dense(ThreadPool& pool, const Product& product, const Plan& plan, char* workspace) {
  run(pool, product, plan, DenseTiles<Tile, T>{product.b}, workspace);
}

template <class Tile>
void run_part(ThreadPool& pool, const Product& product, const Plan& plan, char* workspace) {
  run(pool, product, plan, PartTiles<Tile>{{product.b}}, workspace);
}

template <class Tile>
void run_codes(ThreadPool& pool, const Product& product, const Plan& plan, char* workspace) {
  const q4j_weight& weight = *product.b.weight;
  const CodesTiles<Tile> tiles = {weight, Scales(weight), Table4Bit::of(values_4bit(weight.format).data())};
  run(pool, product, plan, tiles, workspace);
}

template <class Tile, class Reader>
void run_rowwise(ThreadPool& pool, const Product& product, const Plan& plan, char* workspace) {
  run(pool, product, plan, RowwiseTiles<Tile, Reader>{*product.b.weight}, workspace);
}

#if defined(__AVX512BF16__)

// Both factors are bf16, two rows at a time.
void run_pairs(ThreadPool& pool, const Product& product, const Plan& plan, char* workspace) {
  const q4j_weight* weight = product.b.weight;
  if (weight == nullptr) {
    if (product.b.dtype == Q4J_BF16) return run_dense<DensePairs, bf16>(pool, product, plan, workspace);
    if (product.n % kChunk != 0) return run_part<RoundedPairs<PartTile<false>>>(pool, product, plan, workspace);
    return run_dense<RoundedPairs<DenseTile<DenseF32Reader<float, false>, float>>, float>(pool, product, plan, workspace);
  }
  using Int8Reader = Int8F32Reader<false>;
  if (weight->format == Q4J_WEIGHT_INT8) {
    return run_rowwise<RoundedPairs<RowwiseTile<Int8Reader>>, Int8Reader>(pool, product, plan, workspace);
  }
  if (weight->format == Q4J_WEIGHT_FP8) return run_rowwise<Fp8Pairs, Fp8Bf16Reader>(pool, product, plan, workspace);
  if (weight->block_size == QuantizedSource::kChunk) return run_codes<CodesPairs<true>>(pool, product, plan, workspace);
  run_codes<CodesPairs<false>>(pool, product, plan, workspace);
}

#endif

// Rounded: to bf16, which is what dy has then.
template <bool Rounded>
void run_rows(ThreadPool& pool, const Product& product, const Plan& plan, char* workspace) {
  const q4j_weight* weight = product.b.weight;
  if (weight == nullptr) {
    using Bf16Tile = DenseTile<DenseF32Reader<bf16, Rounded>, bf16>;
    if (product.b.dtype == Q4J_BF16) return run_dense<Bf16Tile, bf16>(pool, product, plan, workspace);
    if (product.n % kChunk != 0) return run_part<PartTile<Rounded>>(pool, product, plan, workspace);
    return run_dense<DenseTile<DenseF32Reader<float, Rounded>, float>, float>(pool, product, plan, workspace);
  }
  using Int8Reader = Int8F32Reader<Rounded>;
  using Fp8Reader = Fp8F32Reader<Rounded>;
  if (weight->format == Q4J_WEIGHT_INT8)
    return run_rowwise<RowwiseTile<Int8Reader>, Int8Reader>(pool, product, plan, workspace);
  if (weight->format == Q4J_WEIGHT_FP8) return run_rowwise<RowwiseTile<Fp8Reader>, Fp8Reader>(pool, product, plan, workspace);
  if (weight->block_size == QuantizedSource::kChunk) {
    return run_codes<CodesTile<CodesF32Reader<Rounded, true>>>(pool, product, plan, workspace);
  }
  run_codes<CodesTile<CodesF32Reader<Rounded, false>>>(pool, product, plan, workspace);
}

}  // namespace

bool serves_small_backward(const Product& product) {
  if (!fits(product) || !product.b.contract_rows || product.a.dropout != nullptr) return false;
  if (product.bf16 && product.a.dtype != Q4J_BF16) return false;
  if (product.b.weight == nullptr) {
    return product.b.dtype == Q4J_F32 || (product.b.dtype == Q4J_BF16 && product.n % kChunk == 0);
  }
  return product.n % kChunk == 0;
}

int64_t multiply_small_backward_workspace_size(const ThreadPool& pool, const Product& product) {
  if (!fits(product) || !product.b.contract_rows) return 0;
  const Plan plan = make_plan(pool, product);
  return plan.words_bytes + plan.branch_bytes + pool.threads() * plan.thread_bytes + 64;
}

void multiply_small_backward(ThreadPool& pool, const Product& product, void* workspace) {
  const Plan plan = make_plan(pool, product);
  char* aligned = aligned_to_line(workspace);
  if (!product.bf16) return run_rows<false>(pool, product, plan, aligned);
#if defined(__AVX512BF16__)
  run_pairs(pool, product, plan, aligned);
#else
  run_rows<true>(pool, product, plan, aligned);
#endif
}

}  // namespace q4j::cpu
