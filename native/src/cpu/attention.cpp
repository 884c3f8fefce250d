// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Causal attention, forward and backward, block by block with a running softmax (FlashAttention-2, Dao 2023), so that no matrix
 * of scores is ever stored.
 *
 * Blocks of 64 queries meet blocks of 64 keys. Scores are held transposed, keys down and queries along the vector lanes: the
 * softmax's maximum and sum then run down the columns without any reduction across lanes, and the transposed probabilities are
 * at once what the gradient of v multiplies. With the queries along the lanes the products are forward   s^T = k q^T,      o^T
 * += v^T p^T backward  s^T = k q^T,      dp^T = v dout^T,   ds = p (dp - delta),  delta = rowsum(dout * out) dv += p^T dout, dk
 * += ds^T q,      dq^T += k^T ds^T Decoding has few queries, so the query heads that share a key/value head are laid side by
 * side along the lanes; where that makes no more than four columns, the lanes run along the head instead.
 *
 * bf16 activations are multiplied as pairs where the CPU can (attention_block.h): probabilities and ds are rounded to bf16 for
 * that, sums are f32. Elsewhere everything is f32.
 *
 * Every sum is made by one task in a fixed order, and tasks are cut by the shapes alone, so results do not depend on the number
 * of threads.
 */
#include <algorithm>
#include <cmath>
#include <limits>

#include "attention_block.h"
#include "cpu_operators.h"
#include "error.h"
#include "pack_context.h"
#include "vec.h"

namespace q4j::cpu {

namespace {

constexpr int64_t kQueries = 64;
constexpr int64_t kKeys = 64;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kLog2 = 0.69314718055994530942;

/** Consecutive, cache-line aligned pieces of a thread's scratch memory; without memory it only counts. */
class Scratch {
 public:
  explicit Scratch(void* memory) : begin_(static_cast<unsigned char*>(memory)) {}

  template <class E>
  E* take(int64_t count) {
    unsigned char* piece = begin_ == nullptr ? nullptr : begin_ + used_;
    used_ += round_up(count * static_cast<int64_t>(sizeof(E)), 64);
    return reinterpret_cast<E*>(piece);
  }

  int64_t used() const { return used_; }

 private:
  unsigned char* begin_;
  int64_t used_ = 0;
};

/** Which keys each column (a query of some head) of a block sees. */
struct Visibility {
  alignas(64) float last[kQueries];                         // the last key it sees
  alignas(64) float before[kQueries];                       // the last key that has left its window
  int64_t first_key = std::numeric_limits<int64_t>::max();  // keys that any column sees: [first_key, end_key)
  int64_t end_key = 0;
  int64_t first_common = 0;  // keys that all columns see: [first_common, end_common)
  int64_t end_common = std::numeric_limits<int64_t>::max();

  void set(int64_t column, int64_t query, int64_t offset, int64_t window) {
    const int64_t last_key = query + offset;
    const int64_t before_key = window > 0 ? last_key - window : -1;
    last[column] = static_cast<float>(last_key);
    before[column] = static_cast<float>(before_key);
    if (last_key >= 0) first_key = std::min(first_key, std::max<int64_t>(0, before_key + 1));
    end_key = std::max(end_key, last_key + 1);
    first_common = std::max(first_common, before_key + 1);
    end_common = std::min(end_common, last_key + 1);
  }

  /** Columns that hold no query see everything: what they compute is finite and goes nowhere. */
  void set_unused(int64_t column) {
    last[column] = kInfinity;
    before[column] = -kInfinity;
  }

  bool complete(int64_t first, int64_t end) const { return first >= first_common && end <= end_common; }
  Mask sees(int64_t column, float key) const {
    return (load(last + column) >= broadcast(key)) & (load(before + column) < broadcast(key));
  }
};

template <class T>
const T* at(const void* base, int64_t token, int64_t token_stride, int64_t head, int64_t head_stride) {
  return static_cast<const T*>(base) + token * token_stride + head * head_stride;
}

template <class T>
T* at(void* base, int64_t token, int64_t token_stride, int64_t head, int64_t head_stride) {
  return static_cast<T*>(base) + token * token_stride + head * head_stride;
}

/** Asks for the lines of a row of a head. Rows of one head lie far apart, so no hardware prefetcher sees the pattern. */
template <class T>
void prefetch_row(const T* row, int64_t dim) {
  const char* bytes = reinterpret_cast<const char*>(row);
  for (int64_t i = 0; i < dim * static_cast<int64_t>(sizeof(T)); i += 64) _mm_prefetch(bytes + i, _MM_HINT_T0);
}

/* ------------------------------------------------------------------ forward */

/** Up to 64 columns: queries of one head or, where there are few queries, of all heads of a group. */
struct ColumnBlock {
  int64_t head;     // the first query head
  int64_t query;    // the first query
  int64_t queries;  // queries of each head
  int64_t columns;  // queries times heads

  int64_t head_of(int64_t column) const { return head + column / queries; }
  int64_t query_of(int64_t column) const { return query + column % queries; }
};

/** Blocks of columns that one task brings together with the keys of one key/value head, so that those are read and staged once.
 */
constexpr int64_t kBlocksPerTask = 4;

/** How the forward is cut into blocks of columns and those into tasks. Blocks are numbered per sequence and key/value head. */
class ForwardPlan {
 public:
  explicit ForwardPlan(const q4j_attention_forward_params& p) : p_(p), group_(p.heads / p.kv_heads) {
    int64_t all = 0;
    for (int32_t s = 0; s < p.sequences; ++s) all += blocks(s) * p.kv_heads;
    // Sharing keys is worth less than keeping many threads busy.
    constexpr int64_t kTasks = 64;
    together_ = std::clamp<int64_t>(all / kTasks, 1, kBlocksPerTask);
    for (int32_t s = 0; s < p.sequences; ++s) tasks_ += tasks_in(s);
  }

  int64_t tasks() const { return tasks_; }

  /** The sequence and key/value head of a task and its blocks, at most kBlocksPerTask. */
  int64_t task(int64_t index, int32_t& sequence, int64_t& kv_head, ColumnBlock* blocks_of_task) const {
    sequence = 0;
    while (index >= tasks_in(sequence)) index -= tasks_in(sequence++);
    kv_head = index % p_.kv_heads;
    const int64_t first = index / p_.kv_heads * together_;
    const int64_t end = std::min(first + together_, blocks(sequence));
    for (int64_t i = first; i < end; ++i) blocks_of_task[i - first] = block(sequence, kv_head, i);
    return end - first;
  }

 private:
  int64_t queries(int32_t s) const { return p_.cu_q[s + 1] - p_.cu_q[s]; }
  bool folded(int32_t s) const { return queries(s) * group_ <= kQueries; }
  int64_t rows(int32_t s) const { return (queries(s) + kQueries - 1) / kQueries; }
  int64_t blocks(int32_t s) const { return folded(s) ? rows(s) : rows(s) * group_; }
  int64_t tasks_in(int32_t s) const { return (blocks(s) + together_ - 1) / together_ * p_.kv_heads; }

  ColumnBlock block(int32_t s, int64_t kv_head, int64_t index) const {
    const int64_t head = kv_head * group_;
    if (folded(s)) return {head, 0, queries(s), queries(s) * group_};
    // Late queries see more keys: begin with them, so that threads end together.
    const int64_t first = (rows(s) - 1 - index / group_) * kQueries;
    const int64_t count = std::min(kQueries, queries(s) - first);
    return {head + index % group_, first, count, count};
  }

  const q4j_attention_forward_params& p_;
  int64_t group_;
  int64_t together_ = 1;
  int64_t tasks_ = 0;
};

/** What is kept of a block of columns while the keys pass by. */
template <class M>
struct ColumnState {
  ColumnState(Scratch& scratch, const HeadShape<M>& shape)
      : q(scratch.take<typename M::Cell>(shape.row_cells * kQueries)),
        out(scratch.take<float>(shape.columns * kQueries)),
        largest(scratch.take<float>(kQueries)),
        sums(scratch.take<float>(kQueries)) {}

  typename M::Cell* q;  // [depth][query]
  float* out;           // [i][query]
  float* largest;       // [query] of the scores, in units of log 2
  float* sums;          // [query] of 2^(score - largest)
  int64_t columns = 0;  // whole vectors
  bool begun = false;
  Visibility visibility;
};

template <class M>
struct ForwardBuffers {
  using Cell = typename M::Cell;

  ForwardBuffers(Scratch& scratch, const HeadShape<M>& shape)
      : staged(scratch.take<Cell>(std::max(kQueries, kKeys) * shape.row_cells)),
        k(scratch.take<Cell>(kKeys * shape.row_cells)),
        v(scratch.take<Cell>(kKeys / M::kPerCell * shape.joined_cells)),
        scores(scratch.take<float>(kKeys * kQueries)),
        p(M::kPerCell == 1 ? reinterpret_cast<Cell*>(scores) : scratch.take<Cell>(kKeys / M::kPerCell * kQueries)),
        rows(scratch.take<float>(kQueries * shape.columns)) {}

  Cell* staged;   // rows as they come
  Cell* k;        // [key][depth]
  Cell* v;        // neighbours joined: [key / kPerCell][i]
  float* scores;  // [key][query]
  Cell* p;        // [key / kPerCell][query]
  float* rows;    // [query][i]
};

/**
 * Turns a block of scores into probabilities relative to the running maximum. `scale` includes log2(e): powers of two are
 * cheaper. `factors` is what older sums have to be multiplied by.
 */
template <class M, bool masked>
void softmax_block(ColumnState<M>& state, int64_t first_key, int64_t keys, float scale, float* scores, typename M::Cell* p,
                   float* factors) {
  const Vec factor = broadcast(scale);
  for (int64_t column = 0; column < state.columns; column += kLanes) {
    const Vec old = load(state.largest + column);
    Vec most[4] = {old, old, old, old};
    for (int64_t key = 0; key < keys; key += 4) {
      for (int64_t part = 0; part < 4; ++part) {
        float* at_key = scores + (key + part) * kQueries + column;
        Vec score = load(at_key) * factor;
        if constexpr (masked) {
          score =
              select(state.visibility.sees(column, static_cast<float>(first_key + key + part)), score, broadcast(-kInfinity));
          store(at_key, score);
        }
        most[part] = max(score, most[part]);
      }
    }
    const Vec highest = max(max(most[0], most[1]), max(most[2], most[3]));
    // A column that has seen no key yet: any finite reference will do.
    const Vec reference = select(highest > broadcast(-kInfinity), highest, zero());
    const Vec shrink = exp2(old - reference);
    Vec sum[2] = {load(state.sums + column) * shrink, zero()};
    const auto probability = [&](int64_t key) {
      const Vec score = load(scores + key * kQueries + column);
      return masked ? exp2(score - reference) : exp2(fma(score, factor, zero() - reference));
    };
    for (int64_t key = 0; key < keys; key += 2) {
      const Vec even = probability(key);
      const Vec odd = probability(key + 1);
      sum[0] += even;
      sum[1] += odd;
#if defined(__AVX512BF16__)
      if constexpr (M::kPerCell == 2) {
        _mm512_storeu_si512(p + key / 2 * kQueries + column, joined_pair(even, odd));
        continue;
      }
#endif
      if constexpr (M::kPerCell == 1) {
        store(p + key * kQueries + column, even);
        store(p + (key + 1) * kQueries + column, odd);
      }
    }
    store(state.largest + column, highest);
    store(state.sums + column, sum[0] + sum[1]);
    store(factors + column, shrink);
  }
}

/** Lays the queries of a block along the lanes. */
template <class T, class M>
void begin_columns(const q4j_attention_forward_params& p, const HeadShape<M>& shape, const ColumnBlock& block, int64_t first_q,
                   int64_t offset, typename M::Cell* staged, ColumnState<M>& state) {
  state.columns = round_up(block.columns, kLanes);
  for (int64_t column = 0; column < state.columns; ++column) {
    if (column >= block.columns) {
      state.visibility.set_unused(column);
      continue;
    }
    state.visibility.set(column, block.query_of(column), offset, p.window);
    stage_row<M>(shape, at<T>(p.q, first_q + block.query_of(column), p.q_token_stride, block.head_of(column), p.q_head_stride),
                 staged + column * shape.row_cells);
  }
  clear_rows<M>(shape, staged + block.columns * shape.row_cells, state.columns - block.columns);
  transpose(staged, shape.row_cells, state.columns, shape.row_cells, state.q, kQueries);
  std::fill(state.largest, state.largest + state.columns, -kInfinity);
  std::fill(state.sums, state.sums + state.columns, 0.0f);
}

/** Divides a query's output by its sum and writes it and lse. largest: in units of log 2. */
template <class T>
void store_query(const q4j_attention_forward_params& p, const float* row, float largest, float sum, int64_t token,
                 int64_t head) {
  const bool blind = sum == 0.0f;
  const Vec inverse = broadcast(1.0f / sum);
  T* out = at<T>(p.out, token, p.out_token_stride, head, p.out_head_stride);
  for (int64_t i = 0; i < p.head_dim; i += kLanes) {
    store_first(out + i, blind ? zero() : load(row + i) * inverse, p.head_dim - i);
  }
  if (p.lse != nullptr) {
    const double log2_sum = static_cast<double>(largest) + std::log2(static_cast<double>(sum));
    static_cast<float*>(p.lse)[head * p.cu_q[p.sequences] + token] = blind ? -kInfinity : static_cast<float>(log2_sum * kLog2);
  }
}

/** Writes out and lse of a block. */
template <class T, class M>
void end_columns(const q4j_attention_forward_params& p, const HeadShape<M>& shape, const ColumnBlock& block, int64_t first_q,
                 float* rows, const ColumnState<M>& state) {
  if (state.begun) transpose(state.out, kQueries, shape.columns, state.columns, rows, shape.columns);
  for (int64_t column = 0; column < block.columns; ++column) {
    store_query<T>(p, rows + column * shape.columns, state.largest[column], state.sums[column],
                   first_q + block.query_of(column), block.head_of(column));
  }
}

/** Up to this many columns are computed row by row. */
constexpr int64_t kFewColumns = 4;

/**
 * The same for a block of at most four columns, as decoding without grouped heads has. Lanes full of queries would be nearly
 * empty then, so the lanes run along the head instead: every key and value is loaded once, widened to f32, and nothing is
 * staged. What is left is the time it takes to read the cache.
 */
template <class T>
void few_columns_task(const q4j_attention_forward_params& p, const ColumnBlock& block, int32_t sequence, int64_t kv_head) {
  constexpr int64_t kWidest = 256;
  constexpr int64_t kChunk = 4;  // vectors of the head that are summed at a time
  alignas(64) float q[kFewColumns][kWidest];
  alignas(64) float out[kFewColumns][kWidest];
  alignas(64) float products[kFewColumns][kLanes * kLanes];  // [key][lane]
  alignas(64) float turned[kLanes * kLanes];
  alignas(64) float probabilities[kFewColumns][kKeys];
  alignas(64) float key_numbers[kLanes];
  float largest[kFewColumns];
  Vec sums[kFewColumns];
  const int64_t dim = p.head_dim;
  const int64_t columns = block.columns;
  const int64_t first_q = p.cu_q[sequence];
  const int64_t first_k = p.cu_k[sequence];
  const int64_t offset = (p.cu_k[sequence + 1] - first_k) - (p.cu_q[sequence + 1] - first_q);
  const T* keys = at<T>(p.k, first_k, p.k_token_stride, kv_head, p.k_head_stride);
  const T* values = at<T>(p.v, first_k, p.v_token_stride, kv_head, p.v_head_stride);
  const Vec scale = broadcast(static_cast<float>(static_cast<double>(p.scale) / kLog2));
  Visibility visibility;
  for (int64_t column = 0; column < columns; ++column) {
    visibility.set(column, block.query_of(column), offset, p.window);
    const T* row = at<T>(p.q, first_q + block.query_of(column), p.q_token_stride, block.head_of(column), p.q_head_stride);
    for (int64_t i = 0; i < dim; i += kLanes) {
      store(q[column] + i, load_first(row + i, dim - i));
      store(out[column] + i, zero());
    }
    largest[column] = -kInfinity;
    sums[column] = zero();
  }
  for (int lane = 0; lane < kLanes; ++lane) key_numbers[lane] = static_cast<float>(lane);

  for (int64_t first = visibility.first_key; first < visibility.end_key; first += kKeys) {
    const int64_t end = std::min(first + kKeys, visibility.end_key);
    for (int64_t group = first; group < end; group += kLanes) {
      for (int64_t key = group; key < std::min(group + kLanes, end); ++key) {
        const T* row = keys + key * p.k_token_stride;
        Vec dot[kFewColumns] = {zero(), zero(), zero(), zero()};
        for (int64_t i = 0; i < dim; i += kLanes) {
          const Vec part = load_first(row + i, dim - i);
          for (int64_t column = 0; column < columns; ++column) dot[column] = fma(part, load(q[column] + i), dot[column]);
        }
        for (int64_t column = 0; column < columns; ++column) store(products[column] + (key - group) * kLanes, dot[column]);
      }
      for (int64_t column = 0; column < columns; ++column) {
        // Sums over the lanes of a vector per key are sums of vectors once they are turned.
        transpose_square(products[column], kLanes, turned, kLanes);
        Vec sum = zero();
        for (int64_t i = 0; i < kLanes; ++i) sum += load(turned + i * kLanes);
        const Vec number = load(key_numbers) + broadcast(static_cast<float>(group));
        const Mask seen = (broadcast(visibility.last[column]) >= number) & (broadcast(visibility.before[column]) < number);
        store(probabilities[column] + (group - first), select(seen, sum * scale, broadcast(-kInfinity)));
      }
    }
    const int64_t padded = round_up(end - first, kLanes);
    for (int64_t column = 0; column < columns; ++column) {
      float* scores = probabilities[column];
      Vec most = broadcast(largest[column]);
      for (int64_t i = 0; i < padded; i += kLanes) most = max(load(scores + i), most);
      const float highest = reduce_max(most);
      const Vec reference = broadcast(highest > -kInfinity ? highest : 0.0f);
      const Vec shrink = exp2(broadcast(largest[column]) - reference);
      largest[column] = highest;
      sums[column] *= shrink;
      for (int64_t i = 0; i < padded; i += kLanes) {
        const Vec probability = exp2(load(scores + i) - reference);
        sums[column] += probability;
        store(scores + i, probability);
      }
      for (int64_t i = 0; i < dim; i += kLanes) store(out[column] + i, load(out[column] + i) * shrink);
    }
    for (int64_t i = 0; i < dim; i += kChunk * kLanes) {
      const int64_t vectors = std::min(kChunk, (dim - i + kLanes - 1) / kLanes);
      for (int64_t column = 0; column < columns; ++column) {
        Vec total[kChunk];
        for (int64_t part = 0; part < vectors; ++part) total[part] = load(out[column] + i + part * kLanes);
        for (int64_t key = first; key < end; ++key) {
          const T* row = values + key * p.v_token_stride + i;
          const Vec probability = broadcast(probabilities[column][key - first]);
          for (int64_t part = 0; part < vectors; ++part) {
            total[part] = fma(probability, load_first(row + part * kLanes, dim - i - part * kLanes), total[part]);
          }
        }
        for (int64_t part = 0; part < vectors; ++part) store(out[column] + i + part * kLanes, total[part]);
      }
    }
  }

  for (int64_t column = 0; column < columns; ++column) {
    store_query<T>(p, out[column], largest[column], reduce_add(sums[column]), first_q + block.query_of(column),
                   block.head_of(column));
  }
}

template <class T, class M>
void forward_task(const q4j_attention_forward_params& p, const ForwardPlan& plan, int64_t task, void* memory) {
  using Cell = typename M::Cell;
  int32_t sequence;
  int64_t kv_head;
  ColumnBlock blocks[kBlocksPerTask];
  const int64_t count = plan.task(task, sequence, kv_head, blocks);
  if (count == 1 && blocks[0].columns <= kFewColumns) return few_columns_task<T>(p, blocks[0], sequence, kv_head);
  const int64_t first_q = p.cu_q[sequence];
  const int64_t first_k = p.cu_k[sequence];
  const int64_t offset = (p.cu_k[sequence + 1] - first_k) - (p.cu_q[sequence + 1] - first_q);

  const HeadShape<M> shape(p.head_dim);
  Scratch scratch(memory);
  const ForwardBuffers<M> buffers(scratch, shape);
  ColumnState<M> states[kBlocksPerTask] = {{scratch, shape}, {scratch, shape}, {scratch, shape}, {scratch, shape}};
  int64_t first_key = std::numeric_limits<int64_t>::max();
  int64_t end_key = 0;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t column = 0; column < blocks[i].columns; ++column) {
      prefetch_row(
          at<T>(p.q, first_q + blocks[i].query_of(column), p.q_token_stride, blocks[i].head_of(column), p.q_head_stride),
          shape.dim);
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    begin_columns<T, M>(p, shape, blocks[i], first_q, offset, buffers.staged, states[i]);
    first_key = std::min(first_key, states[i].visibility.first_key);
    end_key = std::max(end_key, states[i].visibility.end_key);
  }

  const float scale = static_cast<float>(static_cast<double>(p.scale) / kLog2);
  alignas(64) float factors[kQueries];
  for (int64_t first = first_key; first < end_key; first += kKeys) {
    const int64_t keys = std::min(kKeys, end_key - first);
    const int64_t padded = round_up(keys, 8);
    for (int64_t key = 0; key < keys; ++key) {
      const int64_t token = first_k + first + key;
      stage_row<M>(shape, at<T>(p.k, token, p.k_token_stride, kv_head, p.k_head_stride), buffers.k + key * shape.row_cells);
      stage_row<M>(shape, at<T>(p.v, token, p.v_token_stride, kv_head, p.v_head_stride),
                   buffers.staged + key * shape.row_cells);
    }
    clear_rows<M>(shape, buffers.k + keys * shape.row_cells, padded - keys);
    clear_rows<M>(shape, buffers.staged + keys * shape.row_cells, padded - keys);
    for (int64_t key = first + kKeys; key < std::min(first + 2 * kKeys, end_key); ++key) {
      prefetch_row(at<T>(p.k, first_k + key, p.k_token_stride, kv_head, p.k_head_stride), shape.dim);
      prefetch_row(at<T>(p.v, first_k + key, p.v_token_stride, kv_head, p.v_head_stride), shape.dim);
    }
    const Cell* v = join_rows<M>(shape, buffers.staged, padded, buffers.v);
    const int64_t depth = padded / M::kPerCell;

    for (int64_t i = 0; i < count; ++i) {
      ColumnState<M>& state = states[i];
      if (first >= state.visibility.end_key || first + keys <= state.visibility.first_key) continue;
      const int64_t columns = state.columns;
      multiply<M, Old::kIgnore>(padded, columns, shape.depth, buffers.k, shape.row_cells, 1, state.q, kQueries, buffers.scores,
                                kQueries);
      if (state.visibility.complete(first, first + padded)) {
        softmax_block<M, false>(state, first, padded, scale, buffers.scores, buffers.p, factors);
      } else {
        softmax_block<M, true>(state, first, padded, scale, buffers.scores, buffers.p, factors);
      }
      if (state.begun) {
        multiply<M, Old::kScale>(shape.dim, columns, depth, v, 1, shape.joined_cells, buffers.p, kQueries, state.out, kQueries,
                                 factors);
      } else {
        multiply<M, Old::kIgnore>(shape.dim, columns, depth, v, 1, shape.joined_cells, buffers.p, kQueries, state.out,
                                  kQueries);
      }
      state.begun = true;
    }
  }
  for (int64_t i = 0; i < count; ++i) end_columns<T, M>(p, shape, blocks[i], first_q, buffers.rows, states[i]);
}

/* ------------------------------------------------------------------ backward */

/** How the backward is cut: one task per sequence, key/value head and split of the query heads that read it. */
struct BackwardPlan {
  explicit BackwardPlan(const q4j_attention_forward_params& p)
      : group(p.heads / p.kv_heads), slots(static_cast<int64_t>(p.sequences) * p.kv_heads), slot_rows(round_up(p.max_k, 8)) {
    // Enough tasks for many threads; each further split costs a partial gradient of k and v in memory.
    constexpr int64_t kTasks = 32;
    while (splits < group && (slots * splits < kTasks || group % splits != 0)) ++splits;
  }

  int32_t group;
  int64_t slots;
  int64_t slot_rows;
  int32_t splits = 1;
};

template <class M>
struct BackwardBuffers {
  using Cell = typename M::Cell;

  BackwardBuffers(Scratch& scratch, const HeadShape<M>& shape, const BackwardPlan& plan)
      : k(scratch.take<Cell>(plan.slot_rows * shape.row_cells)),
        v(scratch.take<Cell>(plan.slot_rows * shape.row_cells)),
        joined_k(M::kPerCell == 1 ? k : scratch.take<Cell>(plan.slot_rows / M::kPerCell * shape.joined_cells)),
        dk(plan.splits > 1 ? nullptr : scratch.take<float>(plan.slot_rows * shape.columns)),
        dv(plan.splits > 1 ? nullptr : scratch.take<float>(plan.slot_rows * shape.columns)),
        staged_q(scratch.take<Cell>(kQueries * shape.row_cells)),
        staged_dout(scratch.take<Cell>(kQueries * shape.row_cells)),
        q(scratch.take<Cell>(shape.row_cells * kQueries)),
        dout(scratch.take<Cell>(shape.row_cells * kQueries)),
        joined_q(M::kPerCell == 1 ? staged_q : scratch.take<Cell>(kQueries / M::kPerCell * shape.joined_cells)),
        joined_dout(M::kPerCell == 1 ? staged_dout : scratch.take<Cell>(kQueries / M::kPerCell * shape.joined_cells)),
        scores(scratch.take<float>(kKeys * kQueries)),
        dp(scratch.take<float>(kKeys * kQueries)),
        p(M::kPerCell == 1 ? reinterpret_cast<Cell*>(scores) : scratch.take<Cell>(kKeys * kQueries / M::kPerCell)),
        ds(M::kPerCell == 1 ? reinterpret_cast<Cell*>(dp) : scratch.take<Cell>(kKeys * kQueries / M::kPerCell)),
        joined_ds(M::kPerCell == 1 ? ds : scratch.take<Cell>(kKeys / M::kPerCell * kQueries)),
        dq(scratch.take<float>(shape.columns * kQueries)),
        rows(scratch.take<float>(kQueries * shape.columns)) {}

  Cell* k;  // [key][depth]
  Cell* v;
  Cell* joined_k;  // [key / kPerCell][i]
  float* dk;       // [key][i]
  float* dv;
  Cell* staged_q;  // [query][depth]
  Cell* staged_dout;
  Cell* q;  // [depth][query]
  Cell* dout;
  Cell* joined_q;  // [query / kPerCell][i]
  Cell* joined_dout;
  float* scores;    // [key][query]
  float* dp;        // [key][query]
  Cell* p;          // [key][query / kPerCell]
  Cell* ds;         // [key][query / kPerCell]
  Cell* joined_ds;  // [key / kPerCell][query]
  float* dq;        // [i][query]
  float* rows;      // [query][i]
};

/** p and ds of a block, in the orders the products want. lse: in units of log 2. */
template <class M, bool masked>
void gradient_block(const Visibility& visibility, int64_t first_key, int64_t keys, int64_t columns, float scale,
                    const float* lse, const float* delta, const BackwardBuffers<M>& buffers) {
  const Vec factor = broadcast(static_cast<float>(static_cast<double>(scale) / kLog2));
  const auto compute = [&](int64_t key, int64_t column, Vec& p, Vec& ds) {
    p = exp2(fma(load(buffers.scores + key * kQueries + column), factor, zero() - load(lse + column)));
    if constexpr (masked) p = select(visibility.sees(column, static_cast<float>(first_key + key)), p, zero());
    ds = p * (load(buffers.dp + key * kQueries + column) - load(delta + column));
  };
#if defined(__AVX512BF16__)
  if constexpr (M::kPerCell == 2) {
    for (int64_t column = 0; column < columns; column += 2 * kLanes) {
      for (int64_t key = 0; key < keys; key += 2) {
        Vec p[2][2], ds[2][2];
        for (int odd = 0; odd < 2; ++odd) {
          for (int right = 0; right < 2; ++right) compute(key + odd, column + right * kLanes, p[odd][right], ds[odd][right]);
          const int64_t cell = (key + odd) * (kQueries / 2) + column / 2;
          _mm512_storeu_si512(buffers.p + cell, row_pair(p[odd][0], p[odd][1]));
          _mm512_storeu_si512(buffers.ds + cell, row_pair(ds[odd][0], ds[odd][1]));
        }
        for (int right = 0; right < 2; ++right) {
          _mm512_storeu_si512(buffers.joined_ds + key / 2 * kQueries + column + right * kLanes,
                              joined_pair(ds[0][right], ds[1][right]));
        }
      }
    }
    return;
  }
#endif
  if constexpr (M::kPerCell == 1) {
    for (int64_t key = 0; key < keys; ++key) {
      for (int64_t column = 0; column < columns; column += kLanes) {
        Vec p, ds;
        compute(key, column, p, ds);
        store(buffers.p + key * kQueries + column, p);
        store(buffers.ds + key * kQueries + column, ds);
      }
    }
  }
}

/** Gradients of one block of queries of one head; adds to dk and dv, writes dq. */
template <class T, class M>
void backward_queries(const q4j_attention_backward_params& b, const HeadShape<M>& shape, const BackwardBuffers<M>& buffers,
                      int32_t sequence, int64_t head, int64_t first_query, float* dk, float* dv) {
  using Cell = typename M::Cell;
  const q4j_attention_forward_params& p = *b.forward;
  const int64_t first_q = p.cu_q[sequence];
  const int64_t queries = p.cu_q[sequence + 1] - first_q;
  const int64_t offset = (p.cu_k[sequence + 1] - p.cu_k[sequence]) - queries;
  const int64_t used = std::min(kQueries, queries - first_query);
  const int64_t columns = round_up(used, kLanes * M::kPerCell);
  const float* lse_of_head = static_cast<const float*>(p.lse) + head * p.cu_q[p.sequences];

  Visibility visibility;
  alignas(64) float lse[kQueries];
  alignas(64) float delta[kQueries];
  for (int64_t column = 0; column < columns; ++column) {
    if (column >= used) {
      visibility.set_unused(column);
      lse[column] = kInfinity;  // probabilities 0
      delta[column] = 0.0f;
      continue;
    }
    const int64_t token = first_q + first_query + column;
    visibility.set(column, first_query + column, offset, p.window);
    lse[column] = static_cast<float>(static_cast<double>(lse_of_head[token]) / kLog2);
    stage_row<M>(shape, at<T>(p.q, token, p.q_token_stride, head, p.q_head_stride),
                 buffers.staged_q + column * shape.row_cells);
    const T* dout = at<T>(b.dout, token, b.dout_token_stride, head, b.dout_head_stride);
    stage_row<M>(shape, dout, buffers.staged_dout + column * shape.row_cells);
    const T* out = at<T>(static_cast<const void*>(p.out), token, p.out_token_stride, head, p.out_head_stride);
    Vec dot = zero();
    for (int64_t i = 0; i < shape.dim; i += kLanes)
      dot = fma(load_first(dout + i, shape.dim - i), load_first(out + i, shape.dim - i), dot);
    delta[column] = reduce_add(dot);
  }
  clear_rows<M>(shape, buffers.staged_q + used * shape.row_cells, columns - used);
  clear_rows<M>(shape, buffers.staged_dout + used * shape.row_cells, columns - used);
  transpose(buffers.staged_q, shape.row_cells, columns, shape.row_cells, buffers.q, kQueries);
  transpose(buffers.staged_dout, shape.row_cells, columns, shape.row_cells, buffers.dout, kQueries);
  const Cell* joined_q = join_rows<M>(shape, buffers.staged_q, columns, buffers.joined_q);
  const Cell* joined_dout = join_rows<M>(shape, buffers.staged_dout, columns, buffers.joined_dout);

  const bool same_head = first_query + kQueries < queries;
  const int64_t next_head = same_head ? head : head + 1;
  const int64_t next_query = same_head ? first_query + kQueries : 0;
  for (int64_t query = next_query; next_head < p.heads && query < std::min(next_query + kQueries, queries); ++query) {
    prefetch_row(at<T>(p.q, first_q + query, p.q_token_stride, next_head, p.q_head_stride), shape.dim);
    prefetch_row(at<T>(b.dout, first_q + query, b.dout_token_stride, next_head, b.dout_head_stride), shape.dim);
    prefetch_row(at<T>(static_cast<const void*>(p.out), first_q + query, p.out_token_stride, next_head, p.out_head_stride),
                 shape.dim);
  }

  bool begun = false;
  for (int64_t first = visibility.first_key / 8 * 8; first < visibility.end_key; first += kKeys) {
    const int64_t keys = round_up(std::min(kKeys, visibility.end_key - first), 8);
    const Cell* k = buffers.k + first * shape.row_cells;
    const Cell* v = buffers.v + first * shape.row_cells;
    multiply<M, Old::kIgnore>(keys, columns, shape.depth, k, shape.row_cells, 1, buffers.q, kQueries, buffers.scores, kQueries);
    multiply<M, Old::kIgnore>(keys, columns, shape.depth, v, shape.row_cells, 1, buffers.dout, kQueries, buffers.dp, kQueries);
    if (visibility.complete(first, first + keys)) {
      gradient_block<M, false>(visibility, first, keys, columns, p.scale, lse, delta, buffers);
    } else {
      gradient_block<M, true>(visibility, first, keys, columns, p.scale, lse, delta, buffers);
    }
    const int64_t stride = kQueries / M::kPerCell;
    const int64_t depth = columns / M::kPerCell;
    multiply<M, Old::kAdd>(keys, shape.columns, depth, buffers.p, stride, 1, joined_dout, shape.joined_cells,
                           dv + first * shape.columns, shape.columns);
    multiply<M, Old::kAdd>(keys, shape.columns, depth, buffers.ds, stride, 1, joined_q, shape.joined_cells,
                           dk + first * shape.columns, shape.columns);
    const Cell* joined_k = buffers.joined_k + first / M::kPerCell * shape.joined_cells;
    if (begun) {
      multiply<M, Old::kAdd>(shape.dim, columns, keys / M::kPerCell, joined_k, 1, shape.joined_cells, buffers.joined_ds,
                             kQueries, buffers.dq, kQueries);
    } else {
      multiply<M, Old::kIgnore>(shape.dim, columns, keys / M::kPerCell, joined_k, 1, shape.joined_cells, buffers.joined_ds,
                                kQueries, buffers.dq, kQueries);
    }
    begun = true;
  }

  if (begun) transpose(buffers.dq, kQueries, shape.columns, columns, buffers.rows, shape.columns);
  const Vec scale = broadcast(p.scale);
  for (int64_t column = 0; column < used; ++column) {
    T* dq = at<T>(b.dq, first_q + first_query + column, b.dq_token_stride, head, b.dq_head_stride);
    for (int64_t i = 0; i < shape.dim; i += kLanes) {
      const Vec row = begun ? load(buffers.rows + column * shape.columns + i) * scale : zero();
      store_first(dq + i, row, shape.dim - i);
    }
  }
}

/** Writes rows of the sums of `splits` partial gradients, in their order. */
template <class T>
void store_key_gradients(const q4j_attention_backward_params& b, int64_t dim, int64_t columns, const float* dk, const float* dv,
                         int64_t split_stride, int32_t splits, int64_t first_token, int64_t kv_head, int64_t first,
                         int64_t end) {
  const Vec scale = broadcast(b.forward->scale);
  for (int64_t key = first; key < end; ++key) {
    T* k_row = at<T>(b.dk, first_token + key, b.dk_token_stride, kv_head, b.dk_head_stride);
    T* v_row = at<T>(b.dv, first_token + key, b.dv_token_stride, kv_head, b.dv_head_stride);
    for (int64_t i = 0; i < dim; i += kLanes) {
      Vec k_sum = load(dk + key * columns + i);
      Vec v_sum = load(dv + key * columns + i);
      for (int32_t split = 1; split < splits; ++split) {
        k_sum += load(dk + split * split_stride + key * columns + i);
        v_sum += load(dv + split * split_stride + key * columns + i);
      }
      store_first(k_row + i, k_sum * scale, dim - i);
      store_first(v_row + i, v_sum, dim - i);
    }
  }
}

template <class T, class M>
void backward_task(const q4j_attention_backward_params& b, const BackwardPlan& plan, int64_t task, void* memory,
                   float* partial_dk, float* partial_dv) {
  const q4j_attention_forward_params& p = *b.forward;
  const HeadShape<M> shape(p.head_dim);
  Scratch scratch(memory);
  const BackwardBuffers<M> buffers(scratch, shape, plan);
  const int64_t slot = task / plan.splits;
  const int64_t split = task % plan.splits;
  const int32_t sequence = static_cast<int32_t>(slot / p.kv_heads);
  const int64_t kv_head = slot % p.kv_heads;
  const int64_t first_k = p.cu_k[sequence];
  const int64_t keys = p.cu_k[sequence + 1] - first_k;
  const int64_t queries = p.cu_q[sequence + 1] - p.cu_q[sequence];
  const int64_t padded = round_up(keys, 8);

  for (int64_t key = 0; key < keys; ++key) {
    stage_row<M>(shape, at<T>(p.k, first_k + key, p.k_token_stride, kv_head, p.k_head_stride),
                 buffers.k + key * shape.row_cells);
    stage_row<M>(shape, at<T>(p.v, first_k + key, p.v_token_stride, kv_head, p.v_head_stride),
                 buffers.v + key * shape.row_cells);
  }
  clear_rows<M>(shape, buffers.k + keys * shape.row_cells, padded - keys);
  clear_rows<M>(shape, buffers.v + keys * shape.row_cells, padded - keys);
  join_rows<M>(shape, buffers.k, padded, buffers.joined_k);

  const int64_t part = (split * plan.slots + slot) * plan.slot_rows * shape.columns;
  float* dk = plan.splits > 1 ? partial_dk + part : buffers.dk;
  float* dv = plan.splits > 1 ? partial_dv + part : buffers.dv;
  std::memset(dk, 0, static_cast<size_t>(padded * shape.columns) * sizeof(float));
  std::memset(dv, 0, static_cast<size_t>(padded * shape.columns) * sizeof(float));

  const int64_t heads = plan.group / plan.splits;
  const int64_t first_head = kv_head * plan.group + split * heads;
  for (int64_t head = first_head; head < first_head + heads; ++head) {
    for (int64_t query = 0; query < queries; query += kQueries) {
      backward_queries<T, M>(b, shape, buffers, sequence, head, query, dk, dv);
    }
  }
  if (plan.splits == 1) store_key_gradients<T>(b, shape.dim, shape.columns, dk, dv, 0, 1, first_k, kv_head, 0, keys);
}

template <class M>
int64_t forward_bytes_per_thread(const q4j_attention_forward_params& p) {
  const HeadShape<M> shape(p.head_dim);
  Scratch scratch(nullptr);
  const ForwardBuffers<M> buffers(scratch, shape);
  for (int64_t i = 0; i < kBlocksPerTask; ++i) ColumnState<M>(scratch, shape);
  return scratch.used();
}

template <class M>
int64_t backward_bytes_per_thread(const q4j_attention_forward_params& p, const BackwardPlan& plan) {
  Scratch scratch(nullptr);
  const BackwardBuffers<M> buffers(scratch, HeadShape<M>(p.head_dim), plan);
  return scratch.used();
}

/** f32 elements of all partial gradients of k; as many for v. */
template <class M>
int64_t partial_elements(const q4j_attention_forward_params& p, const BackwardPlan& plan) {
  return plan.splits > 1 ? plan.splits * plan.slots * plan.slot_rows * HeadShape<M>(p.head_dim).columns : 0;
}

}  // namespace

q4j_status attention_forward_workspace_size(q4j_pack_context* context, const q4j_attention_forward_params* params,
                                            int64_t* bytes) {
  const bool known = with_activation_type(params->dtype, [&](auto* tag) {
    using T = std::remove_pointer_t<decltype(tag)>;
    *bytes = context->pool.threads() * forward_bytes_per_thread<CellsOf<T>>(*params);
  });
  Q4J_REQUIRE(known, Q4J_UNSUPPORTED, "attention_forward: dtype %s", dtype_name(params->dtype));
  return Q4J_OK;
}

q4j_status attention_forward(q4j_pack_context* context, const q4j_attention_forward_params* params) {
  const q4j_attention_forward_params& p = *params;
  const bool known = with_activation_type(p.dtype, [&](auto* tag) {
    using T = std::remove_pointer_t<decltype(tag)>;
    using M = CellsOf<T>;
    const int64_t bytes = forward_bytes_per_thread<M>(p);
    const ForwardPlan plan(p);
    context->pool.parallel_for(plan.tasks(), [&](int64_t task, int thread) {
      forward_task<T, M>(p, plan, task, static_cast<unsigned char*>(p.workspace) + thread * bytes);
    });
  });
  Q4J_REQUIRE(known, Q4J_UNSUPPORTED, "attention_forward: dtype %s", dtype_name(p.dtype));
  return Q4J_OK;
}

q4j_status attention_backward_workspace_size(q4j_pack_context* context, const q4j_attention_backward_params* params,
                                             int64_t* bytes) {
  const q4j_attention_forward_params& p = *params->forward;
  const BackwardPlan plan(p);
  const bool known = with_activation_type(p.dtype, [&](auto* tag) {
    using M = CellsOf<std::remove_pointer_t<decltype(tag)>>;
    *bytes = context->pool.threads() * backward_bytes_per_thread<M>(p, plan) +
             2 * partial_elements<M>(p, plan) * static_cast<int64_t>(sizeof(float));
  });
  Q4J_REQUIRE(known, Q4J_UNSUPPORTED, "attention_backward: dtype %s", dtype_name(p.dtype));
  return Q4J_OK;
}

q4j_status attention_backward(q4j_pack_context* context, const q4j_attention_backward_params* params) {
  const q4j_attention_forward_params& p = *params->forward;
  const BackwardPlan plan(p);
  const bool known = with_activation_type(p.dtype, [&](auto* tag) {
    using T = std::remove_pointer_t<decltype(tag)>;
    using M = CellsOf<T>;
    const int64_t bytes = backward_bytes_per_thread<M>(p, plan);
    const int64_t partials = partial_elements<M>(p, plan);
    unsigned char* memory = static_cast<unsigned char*>(params->workspace);
    float* partial_dk = reinterpret_cast<float*>(memory + context->pool.threads() * bytes);
    float* partial_dv = partial_dk + partials;
    context->pool.parallel_for(plan.slots * plan.splits, [&](int64_t task, int thread) {
      backward_task<T, M>(*params, plan, task, memory + thread * bytes, partial_dk, partial_dv);
    });
    if (plan.splits == 1) return;
    const int64_t columns = HeadShape<M>(p.head_dim).columns;
    const int64_t blocks = (p.max_k + kKeys - 1) / kKeys;
    context->pool.parallel_for(plan.slots * blocks, [&](int64_t task, int) {
      const int64_t slot = task / blocks;
      const int64_t sequence = slot / p.kv_heads;
      const int64_t keys = p.cu_k[sequence + 1] - p.cu_k[sequence];
      const int64_t first = task % blocks * kKeys;
      const int64_t part = slot * plan.slot_rows * columns;
      store_key_gradients<T>(*params, p.head_dim, columns, partial_dk + part, partial_dv + part,
                             plan.slots * plan.slot_rows * columns, plan.splits, p.cu_k[sequence], slot % p.kv_heads, first,
                             std::min(keys, first + kKeys));
    });
  });
  Q4J_REQUIRE(known, Q4J_UNSUPPORTED, "attention_backward: dtype %s", dtype_name(p.dtype));
  return Q4J_OK;
}

}  // namespace q4j::cpu
