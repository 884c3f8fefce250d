// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** What the pack keeps for one context, and the few things that differ between the GPU and the CPU that plays one. */
#ifndef QLORA4J_CUDA_PACK_CONTEXT_H_
#define QLORA4J_CUDA_PACK_CONTEXT_H_

#include <cstdint>
#include <memory>

#include "linear/dense_product.h"
#include "pack/rungs.h"
#include "pack/scratch.h"
#include "qlora4j/pack.h"

struct q4j_pack_context {
  int32_t device = 0;
  void* stream = nullptr; /* cudaStream_t; the CPU has none */
  int32_t multiprocessors = 1;
  int32_t capability = 90;                /* ten times the major compute capability plus the minor; the CPU plays Hopper */
  int32_t block_shared_bytes = 48 * 1024; /* shared memory that a block may ask for */
  bool cooperative = false;               /* a grid barrier is possible */
  q4j::cuda::Rungs rungs;
  /** Opened by strip_available (linear/strip.h); NULL: not yet, or this machine lacks the library. */
  std::unique_ptr<q4j::cuda::DenseMultiplier> dense;
  bool dense_tried = false;
  q4j::cuda::Scratch* scratch = nullptr; /* in device memory */
};

namespace q4j::cuda {

/** Makes the context's device current for the calling thread while it lives; libtorch may have another one current. */
class CurrentDevice {
 public:
  explicit CurrentDevice(const q4j_pack_context& context);
  ~CurrentDevice();
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

  q4j_status status() const { return status_; }

 private:
  int32_t previous_ = -1; /* -1: nothing to restore */
  q4j_status status_ = Q4J_OK;
};

/** Q4J_OK when there is a device at all; else Q4J_UNSUPPORTED with the reason as the error text. */
q4j_status find_device();

/** Fills device, stream and what the device is. */
q4j_status describe_device(const q4j_context_options* options, q4j_pack_context* context);

q4j_status allocate(q4j_pack_context* context, int64_t bytes, void** memory);
q4j_status free_memory(q4j_pack_context* context, void* memory);
q4j_status copy_in(q4j_pack_context* context, void* device, const void* host, int64_t bytes);
q4j_status copy_out(q4j_pack_context* context, void* host, const void* device, int64_t bytes);
q4j_status fill(q4j_pack_context* context, void* device, int32_t value, int64_t bytes);
q4j_status synchronize(q4j_pack_context* context);

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_PACK_CONTEXT_H_
