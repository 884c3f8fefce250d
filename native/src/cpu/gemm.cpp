// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#include "gemm.h"

#include <algorithm>
#include <utility>

#include "gemm_codes.h"
#include "gemm_epilogue.h"
#include "gemm_fetch.h"
#include "gemm_kernel.h"
#include "gemm_pack.h"
#include "gemm_source.h"
#include "round_up.h"

namespace q4j::cpu {

namespace {

// ---------------------------------------------------------------------------------------------------------------- panels

/** What panels hold. */
enum class Element {
  kF32,         // f32
  kF32Rounded,  // f32 with values of bf16: a bf16 product on a CPU without bf16 instructions
  kBf16,
  kCodes,  // INT8
};

#if defined(__AVX512BF16__)
constexpr Element kElementOfBf16 = Element::kBf16;
#else
constexpr Element kElementOfBf16 = Element::kF32Rounded;
#endif

Element element_of(bool bf16) { return bf16 ? kElementOfBf16 : Element::kF32; }

int64_t bytes_of(Element element) { return element == Element::kCodes ? kBytesPerCode : element == Element::kBf16 ? 2 : 4; }

// Steps of the contraction come in multiples of this.
int64_t step_granule(Element element) {
  if (element == Element::kCodes) return kCodeGranule;
#if defined(Q4J_AMX)
  return element == Element::kBf16 ? 32 : 1;
#else
  return element == Element::kBf16 ? 2 : 1;
#endif
}

enum class Side { kA, kB };

template <Side PanelSide, class Source>
void pack_from(const Source& source, Element element, bool contract_rows, const PanelRange& range, void* panel) {
  constexpr int kWidth = PanelSide == Side::kA ? kTileRows : kTileColumns;
  switch (element) {
    case Element::kCodes:
      break;  // packed by gemm_codes.h
    case Element::kF32:
      pack_f32<kWidth, false>(source, contract_rows, range, static_cast<float*>(panel));
      break;
#if defined(__AVX512BF16__)
    case Element::kF32Rounded:
      break;  // this pack has bf16 panels
    case Element::kBf16: {
      const int64_t padded = round_up(range.k_count, step_granule(element));
#if defined(Q4J_AMX)
      if (PanelSide == Side::kA) {
        pack_bf16_tiles<kWidth>(source, contract_rows, range, padded, static_cast<uint32_t*>(panel));
        break;
      }
#endif
      pack_bf16_pairs<kWidth>(source, contract_rows, range, padded, static_cast<uint32_t*>(panel));
      break;
    }
#else
    case Element::kF32Rounded:
      pack_f32<kWidth, true>(source, contract_rows, range, static_cast<float*>(panel));
      break;
    case Element::kBf16:
      break;  // this pack has no bf16 panels
#endif
  }
}

template <Side PanelSide, class T>
void pack_dense(const Operand& operand, Element element, const PanelRange& range, void* panel) {
  const DenseSource<T> source{static_cast<const T*>(operand.data), operand.ld};
  if (operand.dropout != nullptr) {
    const DropoutMask mask(*operand.dropout, operand.dropout_columns);
    pack_from<PanelSide>(MaskedSource<DenseSource<T>>{source, mask}, element, operand.contract_rows, range, panel);
  } else {
    pack_from<PanelSide>(source, element, operand.contract_rows, range, panel);
  }
}

template <Side PanelSide>
void pack(const Operand& operand, Element element, const PanelRange& range, void* panel) {
  if (operand.weight != nullptr) {
    if (operand.weight->format == Q4J_WEIGHT_INT8) {
      pack_from<PanelSide>(RowwiseSource<int8_t>(*operand.weight), element, operand.contract_rows, range, panel);
    } else if (operand.weight->format == Q4J_WEIGHT_FP8) {
      pack_from<PanelSide>(RowwiseSource<e4m3>(*operand.weight), element, operand.contract_rows, range, panel);
    } else {
      pack_from<PanelSide>(QuantizedSource(*operand.weight), element, operand.contract_rows, range, panel);
    }
  } else if (operand.dtype == Q4J_BF16) {
    pack_dense<PanelSide, bf16>(operand, element, range, panel);
  } else if (operand.dtype == Q4J_F16) {
    pack_dense<PanelSide, f16>(operand, element, range, panel);
  } else {
    pack_dense<PanelSide, float>(operand, element, range, panel);
  }
}

/** Where an operand's elements lie that begin at (outer, k); within a byte where rows of 4-bit codes have an odd length. */
Stretch stored(const Operand& operand, int64_t outer, int64_t outer_count, int64_t k, int64_t k_count) {
  int64_t row = outer, rows = outer_count, column = k, columns = k_count;
  if (operand.contract_rows) {
    std::swap(row, column);
    std::swap(rows, columns);
  }
  const q4j_weight* weight = operand.weight;
  const auto* data = static_cast<const char*>(weight != nullptr ? weight->data : operand.data);
  const int64_t ld = weight != nullptr ? weight->cols : operand.ld;
  int64_t bits = operand.dtype == Q4J_F32 ? 32 : 16;
  if (weight != nullptr) bits = weight->format <= Q4J_WEIGHT_FP4 ? 4 : 8;
  return {data + (row * ld + column) * bits / 8, rows, columns * bits / 8, ld * bits / 8};
}

void multiply_tile(Element element, int rows, int64_t k, const void* a, const void* b, float* c, Accumulate accumulate,
                   float alpha) {
#if defined(__AVX512BF16__)
  if (element == Element::kBf16) {
    multiply_tile_bf16(rows, round_up(k, step_granule(element)), a, b, c, accumulate, alpha);
    return;
  }
#else
  (void)element;
#endif
  multiply_tile_f32(rows, k, static_cast<const float*>(a), static_cast<const float*>(b), c, accumulate, alpha);
}

// -------------------------------------------------------------------------------------------------------------- epilogue

void mask_tile(const DropoutMask& mask, float* tile, int64_t row, int64_t column, int rows, int64_t columns) {
  for (int part = 0; part < kTileColumns && part < columns; part += kLanes) {
    for (int i = 0; i < rows; ++i) {
      float* p = tile + i * kTileColumns + part;
      store(p, select(mask.keeps(row + i, column + part), load(p), zero()));
    }
  }
}

// ------------------------------------------------------------------------------------------------------------------ plan

// Bytes of one panel of B for a range of steps. It stays in the first-level cache (32 KiB and more) while panels of A pass by.
// With tiles, whose sums are loaded and stored once per range, longer ranges were faster, and such CPUs have 48 KiB.
#if defined(Q4J_AMX)
constexpr int64_t kPanelBytes = 48 * 1024;
#else
constexpr int64_t kPanelBytes = 24 * 1024;
#endif
// Rows of A that one pass over the panels of B takes, so that they stay in the second-level cache: 240 rows of 384 bf16 are 180
// KiB.
constexpr int64_t kBlockRows = 240;
// Bytes of a packed chunk of A, and rows it has at least: rows beyond are a second chunk, which dequantizes the weight again,
// at 1/30 of the chunk's time for 960 rows.
constexpr int64_t kChunkBytes = int64_t{8} << 20;
constexpr int64_t kChunkLeastRows = 960;
// A packed B of at most this size is packed once, before the tasks, and not once per task.
constexpr int64_t kSharedBytes = int64_t{2} << 20;
// Panels of columns of a task: A is read from the third-level cache once per task. Products that are not wider, such as xa,
// have each task pack its own rows of A instead, which then never leave the second-level cache.
constexpr int64_t kTaskPanels = 4;
// The same where a packed chunk of A is larger than this: it may then lie beyond a share of the third-level cache, and half as
// many tasks read it half as often. The gradient of an output head has such a chunk, one row of it as long as the vocabulary.
constexpr int64_t kFarTaskPanels = 8;
constexpr int64_t kFarBytes = int64_t{4} << 20;
// Whether what is next of A is fetched while tiles are multiplied. Tile loads wait for most of the latency of lines beyond the
// second-level cache; other instructions wait less for A than fetching costs (1 to 2 %).
#if defined(Q4J_AMX)
constexpr bool kFetchesA = true;
#else
constexpr bool kFetchesA = false;
#endif
// Tasks per thread, so that a thread that is interrupted does not hold up the others for long.
constexpr int64_t kTasksPerThread = 4;
// Panels of A that one task packs together: 96 columns of a transposed bf16 operand are three cache lines of each row.
constexpr int64_t kPackPanels = 96 / kTileRows;
constexpr int64_t kLeastPackPanels = 48 / kTileRows;

struct Plan {
  Element element;
  Element branch_element;
  int threads;
  int64_t k_block;   // steps per range, a multiple of 32
  int64_t k_blocks;  // at least 1
  int64_t k_padded;  // steps of all ranges with padding
  int64_t rank_padded;
  int64_t chunk_rows;  // multiple of kTileRows
  int64_t column_panels;
  bool shared_b;
  bool own_a;           // each task packs its rows of A
  int64_t task_panels;  // columns of a task
  int64_t task_rows;    // multiple of kTileRows
  // Offsets into the workspace, all multiples of 64.
  int64_t a_bytes;  // shared or per thread
  int64_t p_bytes;
  int64_t b_bytes;  // shared or per thread
  int64_t q_bytes;
  int64_t tile_bytes;  // per thread
  // Of a product of codes.
  bool wide;            // sums of 64 bits
  int64_t rows_bytes;   // shared: a CodedRow for each row of a chunk
  int64_t codes_bytes;  // per thread: the codes of one panel's rows, k_padded apart, and two tiles

  int64_t shared_bytes() const { return (own_a ? 0 : a_bytes + p_bytes) + (shared_b ? b_bytes + q_bytes : 0) + rows_bytes; }
  int64_t thread_bytes() const {
    return tile_bytes + (own_a ? a_bytes + p_bytes : 0) + (shared_b ? 0 : b_bytes + q_bytes) + codes_bytes;
  }
  int64_t total_bytes() const { return shared_bytes() + threads * thread_bytes() + 64; }
};

Plan make_plan(const ThreadPool& pool, const Product& p) {
  Plan plan;
  plan.element = p.codes ? Element::kCodes : element_of(p.bf16);
  plan.branch_element = element_of(p.bf16 && !p.branch.full_precision);
  plan.threads = threads_for(pool, p);

  const int64_t bytes = bytes_of(plan.element);
  const int64_t longest = kPanelBytes / (kTileColumns * bytes);
  plan.k_blocks = std::max<int64_t>(1, (p.k + longest - 1) / longest);
  plan.k_block = round_up((p.k + plan.k_blocks - 1) / plan.k_blocks, std::max<int64_t>(32, step_granule(plan.element)));
  plan.k_blocks = plan.k_block == 0 ? 1 : (p.k + plan.k_block - 1) / plan.k_block;
  plan.k_padded = round_up(p.k, step_granule(plan.element));
  plan.rank_padded = round_up(p.branch.rank, step_granule(plan.branch_element));

  const int64_t rows = round_up(p.m, kTileRows);
  plan.column_panels = (p.n + kTileColumns - 1) / kTileColumns;
  const int64_t panel_elements = plan.k_padded * kTileColumns;
  plan.shared_b = plan.column_panels * panel_elements * bytes <= kSharedBytes;
  plan.own_a = !p.codes && plan.shared_b && plan.column_panels <= kTaskPanels;

  plan.chunk_rows = rows;
  if (!plan.own_a) {
    const int64_t fitting = kChunkBytes / std::max<int64_t>(1, plan.k_padded * bytes) / kTileRows * kTileRows;
    plan.chunk_rows = std::min(rows, std::max(fitting, round_up(kChunkLeastRows, kTileRows)));
    // Chunks of equal size.
    const int64_t chunks = (rows + plan.chunk_rows - 1) / plan.chunk_rows;
    plan.chunk_rows = round_up((rows + chunks - 1) / chunks, kTileRows);
  }

  const int64_t tasks = plan.threads == 1 ? 1 : plan.threads * kTasksPerThread;
  const int64_t row_panels = plan.chunk_rows / kTileRows;
  if (plan.own_a) {
    plan.task_panels = plan.column_panels;
    plan.task_rows = std::min(rows, std::clamp(row_panels / tasks, kLeastPackPanels, kPackPanels) * kTileRows);
  } else {
    const int64_t most = plan.chunk_rows * plan.k_padded * bytes > kFarBytes ? kFarTaskPanels : kTaskPanels;
    plan.task_panels = std::max<int64_t>(1, std::min(most, plan.column_panels / tasks));
    const int64_t column_tasks = (plan.column_panels + plan.task_panels - 1) / plan.task_panels;
    int64_t row_tasks = 1;
    if (plan.shared_b) {
      row_tasks = (tasks + column_tasks - 1) / column_tasks;
    } else if (column_tasks < plan.threads) {
      row_tasks = (plan.threads + column_tasks - 1) / column_tasks;
    }
    // At least some tiles below each other: each reads the panel of B from the first-level cache.
    row_tasks = std::max<int64_t>(1, std::min(row_tasks, row_panels / kLeastPackPanels));
    plan.task_rows = (row_panels + row_tasks - 1) / row_tasks * kTileRows;
  }

  const int64_t q_elements = plan.rank_padded * kTileColumns;
  const int64_t branch_bytes = bytes_of(plan.branch_element);
  plan.a_bytes = round_up(
      (plan.own_a ? plan.task_rows * round_up(plan.k_block, step_granule(plan.element)) : plan.chunk_rows * plan.k_padded) *
          bytes,
      64);
  plan.p_bytes = round_up((plan.own_a ? plan.task_rows : plan.chunk_rows) * plan.rank_padded * branch_bytes, 64);
  plan.b_bytes = round_up(
      (plan.shared_b ? plan.column_panels * panel_elements : plan.task_panels * kTileColumns * plan.k_block) * bytes, 64);
  plan.q_bytes = round_up((plan.shared_b ? plan.column_panels : plan.task_panels) * q_elements * branch_bytes, 64);
  const int64_t tiles = plan.k_blocks == 1 ? 1 : plan.task_rows / kTileRows * plan.task_panels;
  constexpr int64_t kTileBytes = kTileElements * 4;
  plan.wide = p.codes && p.k > kMostTerms;
  plan.tile_bytes = tiles * kTileBytes * (plan.wide ? 2 : 1);
  plan.rows_bytes = p.codes ? round_up(plan.chunk_rows * static_cast<int64_t>(sizeof(CodedRow)), 64) : 0;
  plan.codes_bytes = p.codes ? 2 * kTileBytes + round_up(kTileRows * plan.k_padded, 64) : 0;
  return plan;
}

// --------------------------------------------------------------------------------------------------------------- product

class Multiplication {
  // Panels of A in a block.
  static constexpr int64_t kPanels = kBlockRows / kTileRows;

 public:
  Multiplication(ThreadPool& pool, const Product& product, const Plan& plan, char* workspace)
      : pool_(pool), product_(product), plan_(plan) {
    a_ = workspace;
    p_ = a_ + plan.a_bytes;
    b_ = plan.own_a ? workspace : p_ + plan.p_bytes;
    q_ = b_ + plan.b_bytes;
    threads_ = workspace + plan.shared_bytes();
    rows_ = reinterpret_cast<CodedRow*>(threads_ - plan.rows_bytes);
  }

  void run() {
    if (plan_.shared_b) {
      parallel_for(plan_.column_panels, [&](int64_t panel, int) {
        for (int64_t block = 0; block < plan_.k_blocks; ++block) pack_b(block, panel, 1, shared_b(block, panel));
        pack_q(panel, 1, q_ + panel * plan_.rank_padded * kTileColumns * bytes_of(plan_.branch_element));
      });
    }
    for (chunk_ = 0; chunk_ < product_.m; chunk_ += plan_.chunk_rows) run_chunk();
  }

 private:
  template <class F>
  void parallel_for(int64_t tasks, F&& f) {
    pool_.parallel_for(tasks, f, plan_.threads);
  }

  int64_t steps(int64_t block) const { return std::min(plan_.k_block, product_.k - block * plan_.k_block); }
  int64_t padded_steps(int64_t block) const { return round_up(steps(block), step_granule(plan_.element)); }

  // Bytes of one panel.
  int64_t a_panel_bytes(int64_t block) const { return padded_steps(block) * kTileRows * bytes_of(plan_.element); }
  int64_t b_panel_bytes(int64_t block) const { return padded_steps(block) * kTileColumns * bytes_of(plan_.element); }
  int64_t p_panel_bytes() const { return plan_.rank_padded * kTileRows * bytes_of(plan_.branch_element); }
  int64_t q_panel_bytes() const { return plan_.rank_padded * kTileColumns * bytes_of(plan_.branch_element); }

  // Ranges of steps follow each other in the shared packed operands; within one, panels do.
  char* shared_a(int64_t block, int64_t panel) const {
    return a_ + (block * plan_.k_block * plan_.chunk_rows + panel * kTileRows * padded_steps(block)) * bytes_of(plan_.element);
  }
  char* shared_p(int64_t panel) const { return p_ + panel * p_panel_bytes(); }
  char* shared_b(int64_t block, int64_t panel) const {
    return b_ +
           (block * plan_.k_block * plan_.column_panels + panel * padded_steps(block)) * kTileColumns * bytes_of(plan_.element);
  }

  // Packed panels follow each other; their stride is counted in 32 bits.
  void pack_b(int64_t block, int64_t panel, int64_t panels, char* to) const {
    const int64_t column = panel * kTileColumns;
    if (product_.codes) {
      const auto* codes = static_cast<const int8_t*>(product_.b.weight->data);
      pack_codes_b(codes + column * product_.k + block * plan_.k_block, product_.k,
                   std::min(panels * kTileColumns, product_.n - column), steps(block), padded_steps(block),
                   b_panel_bytes(block), to);
      return;
    }
    pack<Side::kB>(product_.b, plan_.element,
                   {column, std::min(panels * kTileColumns, product_.n - column), block * plan_.k_block, steps(block),
                    b_panel_bytes(block) / 4},
                   to);
  }

  void pack_q(int64_t panel, int64_t panels, char* to) const {
    if (product_.branch.rank == 0) return;
    const int64_t column = panel * kTileColumns;
    pack<Side::kB>(product_.branch.q, plan_.branch_element,
                   {column, std::min(panels * kTileColumns, product_.n - column), 0, product_.branch.rank, q_panel_bytes() / 4},
                   to);
  }

  void pack_a(int64_t block, int64_t panel, int64_t panels, char* to) const {
    const int64_t row = chunk_ + panel * kTileRows;
    pack<Side::kA>(
        product_.a, plan_.element,
        {row, std::min(panels * kTileRows, product_.m - row), block * plan_.k_block, steps(block), a_panel_bytes(block) / 4},
        to);
  }

  // Quantizes the rows of a panel and packs all of their steps. memory: codes_bytes, of this thread.
  void pack_coded_rows(int64_t panel, char* memory) const {
    auto* codes = reinterpret_cast<int8_t*>(memory);
    const int64_t first = panel * kTileRows;
    const int64_t count = std::min<int64_t>(kTileRows, product_.m - chunk_ - first);
    for (int64_t i = 0; i < count; ++i) {
      const bf16* x = static_cast<const bf16*>(product_.a.data) + (chunk_ + first + i) * product_.a.ld;
      rows_[first + i] = quantize_row(x, product_.k, plan_.k_padded, codes + i * plan_.k_padded);
    }
    for (int64_t block = 0; block < plan_.k_blocks; ++block) {
      pack_codes_a(codes + block * plan_.k_block, plan_.k_padded, count, padded_steps(block), shared_a(block, panel));
    }
  }

  void pack_p(int64_t panel, int64_t panels, char* to) const {
    if (product_.branch.rank == 0) return;
    const int64_t row = chunk_ + panel * kTileRows;
    pack<Side::kA>(product_.branch.p, plan_.branch_element,
                   {row, std::min(panels * kTileRows, product_.m - row), 0, product_.branch.rank, p_panel_bytes() / 4}, to);
  }

  void run_chunk() {
    const int64_t rows = std::min(plan_.chunk_rows, product_.m - chunk_);
    const int64_t row_panels = (rows + kTileRows - 1) / kTileRows;
    if (product_.codes) {
      parallel_for(row_panels, [&](int64_t panel, int thread) {
        pack_coded_rows(panel, coded_memory(thread));
        pack_p(panel, 1, shared_p(panel));
      });
    } else if (!plan_.own_a) {
      // A task packs several panels of one range of steps.
      const int64_t groups = (row_panels + kPackPanels - 1) / kPackPanels;
      parallel_for(groups * plan_.k_blocks, [&](int64_t task, int) {
        const int64_t block = task / groups;
        const int64_t first = task % groups * kPackPanels;
        const int64_t panels = std::min(kPackPanels, row_panels - first);
        pack_a(block, first, panels, shared_a(block, first));
        if (block == 0) pack_p(first, panels, shared_p(first));
      });
    }
    const int64_t column_tasks = (plan_.column_panels + plan_.task_panels - 1) / plan_.task_panels;
    const int64_t row_tasks = (rows + plan_.task_rows - 1) / plan_.task_rows;
    parallel_for(column_tasks * row_tasks, [&](int64_t task, int thread) {
      const int64_t first_column_panel = task / row_tasks * plan_.task_panels;
      const int64_t first_row = task % row_tasks * plan_.task_rows;
      run_task(first_column_panel, std::min(plan_.task_panels, plan_.column_panels - first_column_panel), first_row / kTileRows,
               (std::min(plan_.task_rows, rows - first_row) + kTileRows - 1) / kTileRows, thread);
    });
  }

  // first_row_panel counts within the chunk.
  void run_task(int64_t first_column_panel, int64_t column_panels, int64_t first_row_panel, int64_t row_panels, int thread) {
#if defined(Q4J_AMX)
    const amx::Session session;
#endif
    char* memory = threads_ + thread * plan_.thread_bytes();
    auto* tiles = reinterpret_cast<float*>(memory);
    char* own = memory + plan_.tile_bytes;
    char* own_a = own;
    char* own_p = own + plan_.a_bytes;
    if (plan_.own_a) own = own_p + plan_.p_bytes;
    char* own_b = own;
    char* own_q = own + plan_.b_bytes;
    if (!plan_.shared_b) pack_q(first_column_panel, column_panels, own_q);
    if (plan_.own_a) pack_p(first_row_panel, row_panels, own_p);
    const char* p = plan_.own_a ? own_p : shared_p(first_row_panel);
    const char* q = plan_.shared_b ? q_ + first_column_panel * q_panel_bytes() : own_q;
    Fetcher fetch_b;
    for (int64_t block = 0; block < plan_.k_blocks; ++block) {
      if (!plan_.shared_b) {
        pack_b(block, first_column_panel, column_panels, own_b);
        if (block + 1 < plan_.k_blocks) {
          const int64_t column = first_column_panel * kTileColumns;
          const int64_t columns = std::min(column_panels * kTileColumns, product_.n - column);
          fetch_b.start(stored(product_.b, column, columns, (block + 1) * plan_.k_block, steps(block + 1)),
                        row_panels * column_panels);
        }
      }
      if (plan_.own_a) pack_a(block, first_row_panel, row_panels, own_a);
      const char* a = plan_.own_a ? own_a : shared_a(block, first_row_panel);
      const char* b = plan_.shared_b ? shared_b(block, first_column_panel) : own_b;
      for (int64_t first = 0; first < row_panels; first += kPanels) {
        const int64_t count = std::min(kPanels, row_panels - first);
        Fetcher fetch_a;
        if (kFetchesA && !plan_.own_a)
          fetch_a.start(next_a(block, first_row_panel, row_panels, first + count), count * column_panels);
        for (int64_t j = 0; j < column_panels; ++j) {
          for (int64_t i = first; i < first + count; ++i) {
            fetch_a.step();
            fetch_b.step();
            if (product_.codes) {
              char* tile = memory + (plan_.k_blocks == 1 ? 0 : j * row_panels + i) * kTileElements * (plan_.wide ? 8 : 4);
              run_coded_tile(block, first_row_panel + i, first_column_panel + j, a + i * a_panel_bytes(block),
                             b + j * b_panel_bytes(block), p + i * p_panel_bytes(), q + j * q_panel_bytes(), tile,
                             coded_memory(thread));
              continue;
            }
            float* tile = plan_.k_blocks == 1 ? tiles : tiles + (j * row_panels + i) * kTileElements;
            run_tile(block, first_row_panel + i, first_column_panel + j, a + i * a_panel_bytes(block),
                     b + j * b_panel_bytes(block), p + i * p_panel_bytes(), q + j * q_panel_bytes(), tile);
          }
        }
      }
    }
  }

  // The panels of A that a task takes after those before `done`: of the same range of steps, or the first of the next one.
  Stretch next_a(int64_t block, int64_t first_row_panel, int64_t row_panels, int64_t done) const {
    if (done == row_panels) {
      ++block;
      done = 0;
    }
    if (block == plan_.k_blocks) return {};
    const int64_t bytes = std::min(kPanels, row_panels - done) * a_panel_bytes(block);
    return {shared_a(block, first_row_panel + done), 1, bytes, bytes};
  }

  void run_tile(int64_t block, int64_t row_panel, int64_t column_panel, const char* a, const char* b, const char* p,
                const char* q, float* tile) {
    const int64_t row = chunk_ + row_panel * kTileRows;
    const int64_t column = column_panel * kTileColumns;
    const int rows = static_cast<int>(std::min<int64_t>(kTileRows, product_.m - row));
    const int64_t columns = std::min<int64_t>(kTileColumns, product_.n - column);
    const Branch& branch = product_.branch;
    Accumulate accumulate = block == 0 ? Accumulate::kNo : Accumulate::kYes;
    if (block == 0 && branch.rank > 0) {
      multiply_tile(plan_.branch_element, rows, branch.rank, p, q, tile, Accumulate::kNo, branch.s);
      if (branch.dropout != nullptr) mask_tile(DropoutMask(*branch.dropout, product_.n), tile, row, column, rows, columns);
      accumulate = Accumulate::kYes;
    }
    multiply_tile(plan_.element, rows, steps(block), a, b, tile, accumulate, 1.0f);
    if (block + 1 == plan_.k_blocks) finish(tile, row, column, rows, columns);
  }

  // The sums stay integers until the last range of steps; the branch, in a tile of its own, is computed then.
  void run_coded_tile(int64_t block, int64_t row_panel, int64_t column_panel, const char* a, const char* b, const char* p,
                      const char* q, char* tile, char* memory) {
    const int64_t row = chunk_ + row_panel * kTileRows;
    const int64_t column = column_panel * kTileColumns;
    const int rows = static_cast<int>(std::min<int64_t>(kTileRows, product_.m - row));
    const int64_t columns = std::min<int64_t>(kTileColumns, product_.n - column);
    const Accumulate accumulate = block == 0 ? Accumulate::kNo : Accumulate::kYes;
    auto* values = reinterpret_cast<float*>(memory);
    auto* sums = reinterpret_cast<int32_t*>(tile);
    auto* wide = reinterpret_cast<int64_t*>(tile);
    if (plan_.wide) {
      sums = reinterpret_cast<int32_t*>(values + kTileElements);
      multiply_tile_codes(rows, padded_steps(block), a, b, sums, Accumulate::kNo);
      widen_sums(sums, rows, wide, accumulate);
    } else {
      multiply_tile_codes(rows, padded_steps(block), a, b, sums, accumulate);
    }
    if (block + 1 < plan_.k_blocks) return;
    const Branch& branch = product_.branch;
    const Accumulate joins = branch.rank > 0 ? Accumulate::kYes : Accumulate::kNo;
    if (branch.rank > 0) {
      multiply_tile(plan_.branch_element, rows, branch.rank, p, q, values, Accumulate::kNo, branch.s);
      if (branch.dropout != nullptr) mask_tile(DropoutMask(*branch.dropout, product_.n), values, row, column, rows, columns);
    }
    const float* w_absmax = static_cast<const float*>(product_.b.weight->absmax) + column;
    const CodedRow* coded = rows_ + row_panel * kTileRows;
    if (plan_.wide) {
      scale_sums(wide, coded, w_absmax, rows, columns, values, joins);
    } else {
      scale_sums(sums, coded, w_absmax, rows, columns, values, joins);
    }
    finish(values, row, column, rows, columns);
  }

  // A thread's memory for codes: two tiles, then a panel's rows; it ends the thread's part.
  char* coded_memory(int thread) const { return threads_ + (thread + 1) * plan_.thread_bytes() - plan_.codes_bytes; }

  void finish(const float* tile, int64_t row, int64_t column, int rows, int64_t columns) const {
    finish_sums(product_.epilogue, tile, kTileColumns, row, column, rows, columns);
  }

  ThreadPool& pool_;
  const Product& product_;
  const Plan& plan_;
  int64_t chunk_ = 0;
  char* a_;
  char* p_;
  char* b_;
  char* q_;
  char* threads_;
  CodedRow* rows_;
};

}  // namespace

Operand weight_operand(const q4j_weight& weight, bool contract_rows) {
  Operand operand;
  operand.contract_rows = contract_rows;
  if (weight.format == Q4J_WEIGHT_DENSE) {
    operand.data = weight.data;
    operand.dtype = weight.dtype;
    operand.ld = weight.ld;
  } else {
    operand.weight = &weight;
  }
  return operand;
}

int64_t multiply_workspace_size(const ThreadPool& pool, const Product& product) {
  if (product.m == 0 || product.n == 0) return 0;
  return make_plan(pool, product).total_bytes();
}

void multiply(ThreadPool& pool, const Product& product, void* workspace) {
  if (product.m == 0 || product.n == 0) return;
  const Plan plan = make_plan(pool, product);
  char* aligned = aligned_to_line(workspace);
  Multiplication(pool, product, plan, aligned).run();
}

}  // namespace q4j::cpu
