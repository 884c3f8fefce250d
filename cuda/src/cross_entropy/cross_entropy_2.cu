// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Rung 2: maximum and sums in one pass over vectors, the gradient in a second one. */
#include <algorithm>

#include "cross_entropy/cross_entropy.h"
#include "cross_entropy/row_loss.h"
#include "support/dispatch.h"
#include "support/launch.h"
#include "support/reduce.h"
#include "support/vectors.h"

namespace q4j::cuda {

namespace {

constexpr int kMostThreads = 1024;
constexpr int kFewestThreads = 128;
// Up to 128 KiB a row gets 512 threads: of two blocks per multiprocessor one reads while the other waits for its sums. Longer
// rows get the multiprocessor alone, so that the rows in work (132 times 256 KiB for 128,000 bf16) stay in L2 for the second
// pass.
constexpr int kMostThreadsOfTwo = 512;
constexpr int64_t kMostBytesOfTwo = 128 * 1024;
constexpr int kHeld = 4;
constexpr float kLog2E = 1.44269504088896341f;

/** e^(z - largest), for z up to `largest`. */
Q4J_DEVICE float exponential_of_distance(float z, float largest) { return exponential_2_approximate((z - largest) * kLog2E); }

/** A row as whole vectors, and single elements before and behind them: fewer than two vectors' worth. */
template <typename T>
struct RowParts {
  int head;
  int vectors;
  int singles;

  Q4J_DEVICE RowParts(const T* row, int n) {
    const auto misaligned = static_cast<int>(reinterpret_cast<uintptr_t>(row) % sizeof(Words4) / sizeof(T));
    head = misaligned == 0 ? 0 : kPerVector<T> - misaligned;
    if (head > n) head = n;
    vectors = (n - head) / kPerVector<T>;
    singles = n - vectors * kPerVector<T>;
  }
  /** First element of a vector. */
  Q4J_DEVICE int of_vector(int vector) const { return head + vector * kPerVector<T>; }
  Q4J_DEVICE int of_single(int single) const { return single < head ? single : single + vectors * kPerVector<T>; }
};

/** A thread's logits so far: the largest, the sum of e^(z - largest), the sum. */
class OnlineSums {
 public:
  template <int N>
  Q4J_DEVICE void take(const float (&z)[N]) {
    float most = z[0];
    Q4J_UNROLL
    for (int i = 1; i < N; ++i) most = maximum(most, z[i]);
    if (!(most <= largest_)) {  // also where it is NaN, which the sum then keeps
      exponentials_ *= exponential_of_distance(largest_, most);
      largest_ = most;
    }
    // As long as all logits were -infinity their distance to the largest one would be NaN.
    const float from = largest_ == Maximum::kNothing ? 0.0f : largest_;
    Q4J_UNROLL
    for (int i = 0; i < N; ++i) {
      exponentials_ += exponential_of_distance(z[i], from);
      total_ += z[i];
    }
  }

  Q4J_DEVICE float largest() const { return largest_; }
  Q4J_DEVICE float exponentials_from(float largest) const { return exponentials_ * exponential_of_distance(largest_, largest); }
  Q4J_DEVICE float total() const { return total_; }

 private:
  float largest_ = Maximum::kNothing;
  float exponentials_ = 0.0f;
  float total_ = 0.0f;
};

/** A thread's vectors of a piece of the row: `first` and every block_threads()-th one after it. */
template <typename T>
Q4J_DEVICE void load_piece(const T* row, const RowParts<T>& parts, int first, Words4 (&held)[kHeld]) {
  Q4J_UNROLL
  for (int k = 0; k < kHeld; ++k) {
    const int v = first + k * block_threads();
    held[k] = load_vector_if(v < parts.vectors, row + parts.of_vector(v));
  }
}

template <typename T>
Q4J_KERNEL(kMostThreads, 1)
cross_entropy_2_rows(const CrossEntropy c) {
  constexpr int kN = kPerVector<T>;
  RowReduction<Maximum, 1> reduce_largest(block_threads());
  RowReduction<Sum, 2> reduce_sums(block_threads());
  const int threads = block_threads();
  for (int64_t row = block_index(); row < c.m; row += grid_blocks()) {
    const T* logits = static_cast<const T*>(c.logits) + row * c.ldlogits;
    T* dlogits = c.dlogits == nullptr ? nullptr : static_cast<T*>(c.dlogits) + row * c.lddlogits;
    const int32_t label = c.labels[row];
    // Of dlogits where there is nothing to read, else of the logits.
    const bool ignored = label == kIgnoredLabel;
    const RowParts<T> parts(ignored ? dlogits : logits, c.n);
    if (ignored) {
      if (thread_index() == 0) c.loss[row] = 0.0f;
      if (dlogits == nullptr) continue;
      for (int v = thread_index(); v < parts.vectors; v += threads) {
        store(reinterpret_cast<Words4*>(dlogits + parts.of_vector(v)), zero_vector());
      }
      if (thread_index() < parts.singles) dlogits[parts.of_single(thread_index())] = narrow<T>(0.0f);
      continue;
    }

    // From the last piece to the first, which then is in registers when the gradient starts.
    Words4 held[kHeld] = {};
    const int pieces = (parts.vectors + kHeld * threads - 1) / (kHeld * threads);
    OnlineSums own_sums;
    for (int piece = pieces - 1; piece >= 0; --piece) {
      const int first = piece * kHeld * threads + thread_index();
      load_piece(logits, parts, first, held);
      Q4J_UNROLL
      for (int k = 0; k < kHeld; ++k) {
        if (first + k * threads >= parts.vectors) break;
        float z[kN];
        Q4J_UNROLL
        for (int i = 0; i < kN; ++i) z[i] = element<T>(held[k], i);
        own_sums.take(z);
      }
    }
    if (thread_index() < parts.singles) {
      const float z[1] = {widen(logits[parts.of_single(thread_index())])};
      own_sums.take(z);
    }
    // The gradient may overwrite the label's logit behind the barriers in these reductions.
    const float own = is_class(c, label) ? widen(logits[label]) : bits_float(0x7fffffffu);
    float largest[1] = {own_sums.largest()};
    reduce_largest(largest);
    float sums[2] = {own_sums.exponentials_from(largest[0]), own_sums.total()};
    reduce_sums(sums);
    const RowSums found = {largest[0], sums[0], sums[1]};
    if (thread_index() == 0) c.loss[row] = row_loss(c, found, own);
    if (dlogits == nullptr) continue;

    const RowGradient gradient = row_gradient(c, found, label);
    const bool wide = is_aligned(dlogits + parts.head, sizeof(Words4));
    for (int piece = 0; piece < pieces; ++piece) {
      const int first = piece * kHeld * threads + thread_index();
      if (piece > 0) load_piece(logits, parts, first, held);
      Q4J_UNROLL
      for (int k = 0; k < kHeld; ++k) {
        const int v = first + k * threads;
        if (v >= parts.vectors) break;
        const int at = parts.of_vector(v);
        float d[kN];
        Q4J_UNROLL
        for (int i = 0; i < kN; ++i) d[i] = gradient.of(exponential_of_distance(element<T>(held[k], i), largest[0]));
        if (label >= at && label < at + kN) {
          Q4J_UNROLL
          for (int i = 0; i < kN; ++i) {
            if (at + i != label) continue;
            d[i] = label_gradient(c, found, exponential_of_distance(element<T>(held[k], i), largest[0]));
          }
        }
        if (wide) {
          store_vector(dlogits + at, d);
        } else {
          Q4J_UNROLL
          for (int i = 0; i < kN; ++i) dlogits[at + i] = narrow<T>(d[i]);
        }
      }
    }
    if (thread_index() < parts.singles) {
      const int at = parts.of_single(thread_index());
      const float e = exponential_of_distance(widen(logits[at]), largest[0]);
      dlogits[at] = narrow<T>(at == label ? label_gradient(c, found, e) : gradient.of(e));
    }
  }
}

}  // namespace

q4j_status cross_entropy_2(const q4j_pack_context& context, const CrossEntropy& arguments) {
  return with_activation_type(arguments.dtype, [&](auto type) {
    using T = decltype(type);
    const bool two = arguments.n * static_cast<int64_t>(sizeof(T)) <= kMostBytesOfTwo;
    // Short rows have two vectors per thread.
    const int threads =
        std::clamp(arguments.n / kPerVector<T> / 2 / kWarp * kWarp, kFewestThreads, two ? kMostThreadsOfTwo : kMostThreads);
    const Grid grid = {blocks_for(arguments.m, 1), threads};
    return launch(context, grid, "cross_entropy_2_rows", cross_entropy_2_rows<T>, arguments);
  });
}

}  // namespace q4j::cuda
