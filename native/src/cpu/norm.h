// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** What rms_norm and layer_norm share: the choice of types, and the sum of weight gradients over rows in a fixed order. */
#ifndef QLORA4J_SRC_CPU_NORM_H_
#define QLORA4J_SRC_CPU_NORM_H_

#include <algorithm>
#include <cstdint>

#include "thread_pool.h"
#include "vec.h"

namespace q4j::cpu {

/** Calls f(element type tag, weight type tag); false where one of them is not an activation type. */
template <class F>
static inline bool with_norm_types(int32_t dtype, int32_t weight_dtype, F&& f) {
  bool known = false;
  with_activation_type(
      dtype, [&](auto* element) { known = with_activation_type(weight_dtype, [&](auto* weight) { f(element, weight); }); });
  return known;
}

/** Rows that make a piece of work of some ten microseconds. */
static inline int64_t rows_per_piece(int64_t n) { return std::max<int64_t>(1, 32768 / std::max<int64_t>(1, n)); }

/** The rows cut into at most 64 groups, by their number alone: each group has one partial weight gradient. */
struct RowGroups {
  explicit RowGroups(int64_t m) : rows(m), size(std::max<int64_t>(16, (m + 63) / 64)), count((m + size - 1) / size) {}
  int64_t begin(int64_t group) const { return group * size; }
  int64_t end(int64_t group) const { return std::min(rows, (group + 1) * size); }

  int64_t rows;
  int64_t size;
  int64_t count;
};

/** total[i] += sum over groups, in their order, of partial[group * n + i]. */
static inline void add_group_sums(ThreadPool& pool, const float* partial, int64_t groups, int64_t n, float* total) {
  pool.parallel_pieces(n, 1024, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i += kLanes) {
      Vec sum = zero();
      for (int64_t group = 0; group < groups; ++group) sum += load_first(partial + group * n + i, end - i);
      store_first(total + i, load_first(total + i, end - i) + sum, end - i);
    }
  });
}

}  // namespace q4j::cpu

#endif  // QLORA4J_SRC_CPU_NORM_H_
