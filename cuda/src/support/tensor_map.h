// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The description of a bf16 matrix by which bulk copies fetch boxes of it. A kernel takes it as a parameter, by value. */
#ifndef QLORA4J_CUDA_SUPPORT_TENSOR_MAP_H_
#define QLORA4J_CUDA_SUPPORT_TENSOR_MAP_H_

#include <cstdint>

#include "qlora4j/types.h"

struct q4j_pack_context;

namespace q4j::cuda {

/** On the device CUDA's opaque 128 bytes; on the host the same facts in the open. */
struct alignas(64) TensorMap {
#if defined(Q4J_CUDA_ON_HOST)
  const void* base;
  int64_t rows;
  int64_t columns;
  int64_t ld;
  int32_t box_rows;
  int32_t box_columns;
#else
  uint64_t opaque[16];
#endif
};

/**
 * A map of boxes of `box_rows` x 64 elements of a row-major bf16 matrix, under the 128-byte swizzle. base is aligned to 16
 * bytes, ld a multiple of 8, box_rows at most 256.
 */
q4j_status make_tensor_map(const q4j_pack_context& context, const void* base, int64_t rows, int64_t columns, int64_t ld,
                           int32_t box_rows, TensorMap* map);

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_SUPPORT_TENSOR_MAP_H_
