// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * One launch over many tensors. What describes them travels as a kernel parameter: no copy to the device, nothing to allocate
 * or keep alive, and a CUDA graph records it with the launch. Tensors are cut into tiles of one size, numbered through; a
 * block takes tile after tile and finds the tensor of each by a binary search.
 *
 * A kernel takes 32,764 bytes of parameters (CUDA 12.1 and newer, compute capability 7.0 and newer; 4,096 before). The lists
 * below hold 628 tensors for adamw, 480 for adamw_8bit, 1635 for gradient_norm; a longer list makes several launches.
 */
#ifndef QLORA4J_CUDA_SUPPORT_TENSOR_LIST_H_
#define QLORA4J_CUDA_SUPPORT_TENSOR_LIST_H_

#include <cstddef>
#include <cstdint>

#include "error.h"
#include "quant.h"
#include "support/device.h"
#include "support/elements.h"

namespace q4j::cuda {

constexpr size_t kParameterBytes = 32764;

/** Most tiles of one launch, so that a tile number plus a stride over the grid stays an int. 17 TB of f32 in the smallest
 * tiles. */
constexpr int64_t kMostTiles = int64_t{1} << 30;

/** Tensors for which there is room beside `others` bytes of parameters. */
template <typename Item>
constexpr int tensor_capacity(size_t others) {
  // Two counts, one first tile more than there are tensors, and padding in two places.
  return static_cast<int>((kParameterBytes - others - 3 * sizeof(int32_t) - 2 * alignof(Item)) /
                          (sizeof(Item) + sizeof(int32_t)));
}

/** The tensors of a launch, none of them empty. Item has a field `length`. */
template <typename Item, int Capacity>
struct TensorList {
  static constexpr int capacity = Capacity;

  int32_t count;
  int32_t tiles;
  int32_t first_tile[Capacity + 1]; /* of each tensor; behind the last one the number of tiles */
  Item item[Capacity];
};

/** The tensor that holds `tile`, a tile of tensor `from` or a later one. */
template <typename List>
Q4J_DEVICE int tensor_of_tile(const List& list, int tile, int from) {
  int low = from;
  int high = list.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (list.first_tile[middle] <= tile) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

/**
 * Packs tensors into arguments.tensors and calls launch(last) for each full list and for the rest; never for no tensors at all.
 * item(t) describes tensor t of `count`; empty ones take no room.
 */
template <typename Arguments, typename MakeItem, typename Launch>
q4j_status for_each_list(int32_t count, const int64_t* lengths, int64_t tile, Arguments* arguments, MakeItem item,
                         Launch launch) {
  auto& list = arguments->tensors;
  int32_t left = 0;
  for (int32_t t = 0; t < count; ++t) left += lengths[t] > 0 ? 1 : 0;
  list.count = 0;
  int64_t tiles = 0;
  for (int32_t t = 0; t < count; ++t) {
    if (lengths[t] == 0) continue;
    list.first_tile[list.count] = static_cast<int32_t>(tiles);
    list.item[list.count++] = item(t);
    tiles += ceil_div(lengths[t], tile);
    Q4J_REQUIRE(tiles <= kMostTiles, Q4J_UNSUPPORTED, "the tensors up to number %d have more than %lld tiles of %lld elements",
                t, static_cast<long long>(kMostTiles), static_cast<long long>(tile));
    --left;
    if (list.count < list.capacity && left > 0) continue;
    list.first_tile[list.count] = static_cast<int32_t>(tiles);
    list.tiles = static_cast<int32_t>(tiles);
    Q4J_RETURN_IF_ERROR(launch(left == 0));
    list.count = 0;
    tiles = 0;
  }
  return Q4J_OK;
}

/** Elements [from, from + 4) of n; those at n and beyond read as 0. Wide: there are none, and all is aligned to 16 bytes. The
 * memory must not be written during the kernel. */
template <bool Wide, typename Index>
Q4J_DEVICE Words4 load_four(const float* input, Index from, Index n) {
  if constexpr (Wide) {
    return load_read_only(reinterpret_cast<const Words4*>(input + from));
  } else {
    Words4 result;
    Q4J_UNROLL
    for (int i = 0; i < 4; ++i) result.word[i] = from + i < n ? float_bits(input[from + i]) : 0u;
    return result;
  }
}

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_SUPPORT_TENSOR_LIST_H_
