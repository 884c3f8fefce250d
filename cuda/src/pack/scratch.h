// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Device memory that every context owns, for operators that reduce over the whole device but have no workspace argument. */
#ifndef QLORA4J_CUDA_PACK_SCRATCH_H_
#define QLORA4J_CUDA_PACK_SCRATCH_H_

#include <cstdint>

namespace q4j::cuda {

/**
 * Made with the context and used in the order of its stream, so no two operators use it at a time. A CUDA graph that holds such
 * an operator must therefore be ordered with the stream of its context.
 */
struct Scratch {
  static constexpr int kSums = 4096;

  double sums[kSums]; /* whatever the last operator left */
  uint32_t arrived;   /* 0 between launches: a launch that counts sets it back */
};

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_PACK_SCRATCH_H_
