// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Rungs 2 and 3: the same three parts as three launches, or as one with grid barriers. */
#include "quantize_4bit/quantize_4bit.h"
#include "support/block_sum.h"
#include "support/codes.h"
#include "support/dispatch.h"
#include "support/elements.h"
#include "support/launch.h"

namespace q4j::cuda {

namespace {

/** 512 threads of 8 elements hold one block of the largest size, 4096, so no block of any size ever crosses a chunk. */
constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarp;
constexpr int64_t kChunk = kThreads * kEight;

/** Chunks per tile: the loads that a thread has in flight. 64 bytes per thread for every type. */
template <typename T>
constexpr int kChunks = static_cast<int>(8 / sizeof(T));

Q4J_TABLE Table<Bucket, kBuckets> nf4_buckets = make_buckets<Q4J_WEIGHT_NF4>();
Q4J_TABLE Table<Bucket, kBuckets> fp4_buckets = make_buckets<Q4J_WEIGHT_FP4>();
Q4J_TABLE Table<float, 255> map_thresholds = table_of(dynamic_signed_thresholds);

/** Block maxima by warp, for blocks larger than a warp's 256 elements. Two sets, so that one barrier per tile is enough. */
struct WarpMaxima {
  float at[2][4][kWarps];
};

/** Codes and block maxima of this block's tiles: every grid_blocks-th. */
template <typename T, int Format>
Q4J_DEVICE void quantize_tiles(const Quantize4Bit& q) {
  auto& buckets = block_shared<Table<Bucket, kBuckets>>();
  auto& maxima = block_shared<WarpMaxima>();
  if (thread_index() < kBuckets) {
    buckets.at[thread_index()] = Format == Q4J_WEIGHT_NF4 ? nf4_buckets.at[thread_index()] : fp4_buckets.at[thread_index()];
  }
  block_barrier();

  constexpr int chunks = kChunks<T>;
  constexpr int64_t tile_elements = chunks * kChunk;
  const T* input = static_cast<const T*>(q.input);
  const bool wide_input = is_aligned(input, sizeof(Words4));
  const bool wide_packed = is_aligned(q.packed, sizeof(uint32_t));
  const int64_t tiles = (q.n + tile_elements - 1) / tile_elements;
  const int threads_per_block = q.block_size / kEight;
  const int lanes_per_block = threads_per_block < kWarp ? threads_per_block : kWarp;
  const int warps_per_block = threads_per_block / kWarp;  // 0: a block is part of a warp

  for (int64_t tile = block_index(), round = 0; tile < tiles; tile += grid_blocks(), ++round) {
    const int64_t start = tile * tile_elements + thread_index() * kEight;
    Eight<T> raw[chunks];
    Q4J_UNROLL
    for (int c = 0; c < chunks; ++c) raw[c] = load_eight(input, start + c * kChunk, q.n, wide_input);

    float absmax[chunks];
    Q4J_UNROLL
    for (int c = 0; c < chunks; ++c) {
      absmax[c] = absolute(element(raw[c], 0));
      Q4J_UNROLL
      for (int i = 1; i < kEight; ++i) absmax[c] = maximum(absmax[c], absolute(element(raw[c], i)));
    }
    Q4J_NO_UNROLL
    for (int mask = lanes_per_block / 2; mask > 0; mask /= 2) {
      Q4J_UNROLL
      for (int c = 0; c < chunks; ++c) absmax[c] = maximum(absmax[c], shuffle_xor(absmax[c], mask));
    }
    if (warps_per_block > 1) {
      auto& set = maxima.at[round & 1];
      if (lane_index() == 0) {
        Q4J_UNROLL
        for (int c = 0; c < chunks; ++c) set[c][warp_index()] = absmax[c];
      }
      block_barrier();
      const int first_warp = warp_index() / warps_per_block * warps_per_block;
      Q4J_UNROLL
      for (int c = 0; c < chunks; ++c) {
        Q4J_NO_UNROLL
        for (int w = 0; w < warps_per_block; ++w) absmax[c] = maximum(absmax[c], set[c][first_warp + w]);
      }
    }

    Q4J_UNROLL
    for (int c = 0; c < chunks; ++c) {
      const int64_t from = start + c * kChunk;
      if (from >= q.n) break;
      const int64_t block = from >> q.block_shift;
      const bool full = (block + 1) * q.block_size <= q.n;
      const float divisor = absmax[c] < smallest_absmax ? smallest_absmax : absmax[c];
      if (thread_index() % threads_per_block == 0) q.absmax[block] = full ? absmax[c] : divisor;
      uint32_t codes = 0;  // the even element of a byte takes the high nibble
      if (full) {
        const float reciprocal = divide(1.0f, divisor);
        Q4J_UNROLL
        for (int i = 0; i < kEight; ++i)
          codes |= encode_4bit<Format>(buckets, multiply(element(raw[c], i), reciprocal)) << (4 * (i ^ 1));
      } else {
        // One block of the whole tensor divides. Its elements are read again, so that this loop need not be unrolled.
        Q4J_NO_UNROLL
        for (int i = 0; i < kEight; ++i) {
          const float x = from + i < q.n ? widen(input[from + i]) : 0.0f;
          codes |= encode_4bit<Format>(buckets, divide(x, divisor)) << (4 * (i ^ 1));
        }
      }
      uint8_t* packed = q.packed + from / 2;
      if (wide_packed && from + kEight <= q.n) {
        *reinterpret_cast<uint32_t*>(packed) = codes;
      } else {
        Q4J_UNROLL
        for (int b = 0; b < 4; ++b) {
          if (from + 2 * b < q.n) packed[b] = static_cast<uint8_t>(codes >> (8 * b));
        }
      }
    }
  }
}

/** The f64 sums of this block's chunks of absmax: every grid_blocks-th. */
Q4J_DEVICE void sum_absmax(const Quantize4Bit& q) {
  for (int64_t chunk = block_index(); chunk < q.sum_chunks; chunk += grid_blocks()) {
    double sum = 0.0;
    Q4J_UNROLL
    for (int i = 0; i < kSumChunk / kThreads; ++i) {
      const int64_t block = chunk * kSumChunk + i * kThreads + thread_index();
      if (block < q.blocks) sum += static_cast<double>(q.absmax[block]);
    }
    sum = block_sum<kThreads>(sum);
    if (thread_index() == 0) q.partial_sums[chunk] = sum;
  }
}

/** The offset, and codes of absmax - offset: every block adds up the few partial sums itself, then each warp takes nested
 * blocks. */
Q4J_DEVICE void encode_absmax(const Quantize4Bit& q) {
  auto& thresholds = block_shared<Table<float, 255>>();
  if (thread_index() < 255) thresholds.at[thread_index()] = map_thresholds.at[thread_index()];
  double sum = 0.0;
  for (int64_t i = thread_index(); i < q.sum_chunks; i += kThreads) sum += q.partial_sums[i];
  sum = block_sum<kThreads>(sum);  // its barriers also publish the thresholds
  const float offset = static_cast<float>(sum / static_cast<double>(q.blocks));
  if (block_index() == 0 && thread_index() == 0) *q.nested_offset = offset;

  const int64_t warps = static_cast<int64_t>(grid_blocks()) * kWarps;
  for (int64_t nested = static_cast<int64_t>(block_index()) * kWarps + warp_index(); nested < q.nested_blocks;
       nested += warps) {
    const int64_t first = nested * q.nested_block_size;
    const int64_t last = first + q.nested_block_size < q.blocks ? first + q.nested_block_size : q.blocks;
    float largest = 0.0f;
    for (int64_t b = first + lane_index(); b < last; b += kWarp)
      largest = maximum(largest, absolute(subtract(q.absmax[b], offset)));
    Q4J_UNROLL
    for (int mask = kWarp / 2; mask > 0; mask /= 2) largest = maximum(largest, shuffle_xor(largest, mask));
    for (int64_t b = first + lane_index(); b < last; b += kWarp) {
      q.absmax_codes[b] = static_cast<uint8_t>(encode_8bit_of_block(thresholds.at, subtract(q.absmax[b], offset), largest));
    }
    if (lane_index() == 0) q.nested_absmax[nested] = largest;
  }
}

template <typename T, int Format>
Q4J_KERNEL(kThreads, 2)
quantize_4bit_2_tiles(const Quantize4Bit q) {
  quantize_tiles<T, Format>(q);
}

Q4J_KERNEL(kThreads, 2) quantize_4bit_2_sums(const Quantize4Bit q) { sum_absmax(q); }

Q4J_KERNEL(kThreads, 2) quantize_4bit_2_absmax(const Quantize4Bit q) { encode_absmax(q); }

template <typename T, int Format>
Q4J_KERNEL(kThreads, 2)
quantize_4bit_3_all(const Quantize4Bit q) {
  quantize_tiles<T, Format>(q);
  grid_barrier();
  sum_absmax(q);
  grid_barrier();
  encode_absmax(q);
}

/** Calls body(T{}, Constant<Format>{}). */
template <typename Body>
q4j_status with_kernel(const Quantize4Bit& arguments, Body body) {
  return with_dtype(arguments.dtype,
                    [&](auto type) { return with_format(arguments.format, [&](auto format) { return body(type, format); }); });
}

}  // namespace

q4j_status quantize_4bit_2(const q4j_pack_context& context, const Quantize4Bit& arguments) {
  const q4j_status status = with_kernel(arguments, [&](auto type, auto format) {
    using T = decltype(type);
    const auto kernel = quantize_4bit_2_tiles<T, decltype(format)::value>;
    int resident = 0;
    Q4J_RETURN_IF_ERROR(resident_blocks(context, kThreads, "quantize_4bit_2_tiles", kernel, &resident));
    const Grid grid = {blocks_for(arguments.n, kChunks<T> * kChunk, resident), kThreads};
    return launch(context, grid, "quantize_4bit_2_tiles", kernel, arguments);
  });
  if (status != Q4J_OK || arguments.nested_block_size == 0) return status;
  const Grid sums = {blocks_for(arguments.sum_chunks, 1), kThreads};
  Q4J_RETURN_IF_ERROR(launch(context, sums, "quantize_4bit_2_sums", quantize_4bit_2_sums, arguments));
  int resident = 0;
  Q4J_RETURN_IF_ERROR(resident_blocks(context, kThreads, "quantize_4bit_2_absmax", quantize_4bit_2_absmax, &resident));
  const Grid nested = {blocks_for(arguments.nested_blocks, kWarps, resident), kThreads};
  return launch(context, nested, "quantize_4bit_2_absmax", quantize_4bit_2_absmax, arguments);
}

q4j_status quantize_4bit_3(const q4j_pack_context& context, const Quantize4Bit& arguments) {
  return with_kernel(arguments, [&](auto type, auto format) {
    using T = decltype(type);
    const auto kernel = quantize_4bit_3_all<T, decltype(format)::value>;
    int resident = 0;
    Q4J_RETURN_IF_ERROR(resident_blocks(context, kThreads, "quantize_4bit_3_all", kernel, &resident));
    const Grid grid = {blocks_for(arguments.n, kChunks<T> * kChunk, resident), kThreads};
    return launch_cooperative(context, grid, "quantize_4bit_3_all", kernel, arguments);
  });
}

}  // namespace q4j::cuda
