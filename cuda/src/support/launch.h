// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Starts kernels. Both compilers accept it where only nvcc accepts <<<>>>: nvcc launches on the stream, g++ runs the grid on
 * the CPU before it returns.
 */
#ifndef QLORA4J_CUDA_SUPPORT_LAUNCH_H_
#define QLORA4J_CUDA_SUPPORT_LAUNCH_H_

#include <algorithm>
#include <cstdint>

#include "error.h"
#include "pack/context.h"
#include "support/device.h"

#if defined(__CUDACC__)
#include <cuda_runtime.h>

#include "pack/cuda_status.h"
#endif

namespace q4j::cuda {

/** A one-dimensional grid. */
struct Grid {
  int blocks;
  int threads;
  int shared_bytes = 0; /* of dynamic shared memory for each block */
};

/** Blocks for `items` items of which a block takes `per_block`, not more than `most`; 0 for no items. */
inline int blocks_for(int64_t items, int64_t per_block, int64_t most = 0x7fffffff) {
  return static_cast<int>(std::min((items + per_block - 1) / per_block, most));
}

/** Deduces nothing: the kernel's own parameter types decide. */
template <typename T>
struct Exactly {
  using Type = T;
};

#if defined(__CUDACC__)

/**
 * Lets the kernel be launched with more than 48 KB of dynamic shared memory: once for a kernel and device, then it is a
 * look-up. No work for the stream, so allowed while the stream is captured.
 */
q4j_status allow_shared_memory(const q4j_pack_context& context, const void* kernel, const char* name, int bytes);

template <typename... Parameters>
q4j_status start(const q4j_pack_context& context, Grid grid, bool cooperative, const char* name, void (*kernel)(Parameters...),
                 const typename Exactly<Parameters>::Type&... arguments) {
  if (grid.blocks == 0) return Q4J_OK;
  void* addresses[] = {const_cast<void*>(static_cast<const void*>(&arguments))...};
  const auto stream = static_cast<cudaStream_t>(context.stream);
  const dim3 blocks(static_cast<unsigned>(grid.blocks));
  const dim3 threads(static_cast<unsigned>(grid.threads));
  const auto* function = reinterpret_cast<const void*>(kernel);
  const auto shared = static_cast<size_t>(grid.shared_bytes);
  Q4J_RETURN_IF_ERROR(allow_shared_memory(context, function, name, grid.shared_bytes));
  const cudaError_t error = cooperative ? cudaLaunchCooperativeKernel(function, blocks, threads, addresses, shared, stream)
                                        : cudaLaunchKernel(function, blocks, threads, addresses, shared, stream);
  if (error == cudaSuccess) return Q4J_OK;
  char what[160];
  std::snprintf(what, sizeof what, "launch of %s with %d blocks of %d threads and %d bytes of shared memory", name, grid.blocks,
                grid.threads, grid.shared_bytes);
  return fail_cuda(error, what, __FILE__, __LINE__);
}

/** Blocks of `threads` threads and `shared_bytes` of dynamic shared memory that the whole device holds at once. */
template <typename... Parameters>
q4j_status resident_blocks(const q4j_pack_context& context, int threads, const char* name, void (*kernel)(Parameters...),
                           int* blocks, int shared_bytes = 0) {
  const auto* function = reinterpret_cast<const void*>(kernel);
  Q4J_RETURN_IF_ERROR(allow_shared_memory(context, function, name, shared_bytes));
  int per_multiprocessor = 0;
  const cudaError_t error =
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, function, threads, static_cast<size_t>(shared_bytes));
  if (error != cudaSuccess) return fail_cuda(error, name, __FILE__, __LINE__);
  Q4J_REQUIRE(per_multiprocessor > 0, Q4J_UNSUPPORTED, "%s does not fit a multiprocessor of device %d", name, context.device);
  *blocks = per_multiprocessor * context.multiprocessors;
  return Q4J_OK;
}

#else

template <typename... Parameters>
q4j_status start(const q4j_pack_context&, Grid grid, bool cooperative, const char* name, void (*kernel)(Parameters...),
                 const typename Exactly<Parameters>::Type&... arguments) {
  if (grid.blocks == 0) return Q4J_OK;
  const auto bound = [&] { kernel(arguments...); };
  using Bound = decltype(bound);
  const host::Body body = {[](const void* state) { (*static_cast<const Bound*>(state))(); }, &bound};
  const char* wrong = host::run(grid.blocks, grid.threads, cooperative, body, static_cast<size_t>(grid.shared_bytes));
  Q4J_REQUIRE(wrong == nullptr, Q4J_INTERNAL_ERROR, "kernel %s, %d blocks of %d threads: %s", name, grid.blocks, grid.threads,
              wrong);
  return Q4J_OK;
}

template <typename... Parameters>
q4j_status resident_blocks(const q4j_pack_context&, int, const char*, void (*)(Parameters...), int* blocks, int = 0) {
  *blocks = host::kResidentBlocks;
  return Q4J_OK;
}

#endif

/** Launches `kernel(arguments...)`; `name` is for the error text. A grid without blocks is nothing to do. */
template <typename... Parameters>
q4j_status launch(const q4j_pack_context& context, Grid grid, const char* name, void (*kernel)(Parameters...),
                  const typename Exactly<Parameters>::Type&... arguments) {
  return start(context, grid, false, name, kernel, arguments...);
}

/** As launch, for kernels with grid barriers: all blocks run at the same time, so there may be resident_blocks at most. */
template <typename... Parameters>
q4j_status launch_cooperative(const q4j_pack_context& context, Grid grid, const char* name, void (*kernel)(Parameters...),
                              const typename Exactly<Parameters>::Type&... arguments) {
  return start(context, grid, true, name, kernel, arguments...);
}

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_SUPPORT_LAUNCH_H_
