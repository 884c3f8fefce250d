// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The paged store's streams, events and memory on a GPU. */
#include <cuda_runtime_api.h>

#include <cstdio>
#include <new>
#include <vector>

#include "error.h"
#include "pack/context.h"
#include "pack/cuda_status.h"
#include "paged_store/copy_streams.h"

namespace q4j::cuda {

struct CopyStreams::Body {
  int32_t device = 0;
  cudaStream_t streams[kLanes] = {};
  std::vector<cudaEvent_t> events;
  std::vector<void*> device_memory; /* and managed memory, which is freed the same way */
  std::vector<void*> pinned_memory;

  cudaStream_t stream(Lane lane) const { return streams[static_cast<int>(lane)]; }

  /** cudaFree may wait for all of the device: CUDA offers no other way to give memory back to everybody. */
  ~Body() {
    for (cudaEvent_t event : events) cudaEventDestroy(event);
    for (void* memory : device_memory) cudaFree(memory);
    for (void* memory : pinned_memory) cudaFreeHost(memory);
    // The stream of the context is not this object's.
    for (const Lane lane : {Lane::kIn, Lane::kOut}) {
      if (stream(lane) != nullptr) cudaStreamDestroy(stream(lane));
    }
  }
};

CopyStreams::CopyStreams(std::unique_ptr<Body> body) : body_(std::move(body)) {}
CopyStreams::~CopyStreams() = default;

q4j_status CopyStreams::create(const q4j_pack_context& context, int64_t, std::unique_ptr<CopyStreams>* streams) {
  auto body = std::make_unique<Body>();
  body->device = context.device;
  body->streams[static_cast<int>(Lane::kWork)] = static_cast<cudaStream_t>(context.stream);
  // Non-blocking: the context's stream may be the default one, which waits for, and holds up, every stream that is not.
  for (const Lane lane : {Lane::kIn, Lane::kOut}) {
    Q4J_CUDA(cudaStreamCreateWithFlags(&body->streams[static_cast<int>(lane)], cudaStreamNonBlocking));
  }
  streams->reset(new CopyStreams(std::move(body)));
  return Q4J_OK;
}

namespace {

q4j_status fail_to_allocate(cudaError_t error, const char* what, int64_t bytes, int line) {
  char text[160];
  std::snprintf(text, sizeof text, "paged_store_create: allocating %lld bytes of %s", static_cast<long long>(bytes), what);
  return fail_cuda(error, text, __FILE__, line);
}

}  // namespace

q4j_status CopyStreams::allocate_device(int64_t bytes, void** memory) {
  body_->device_memory.reserve(body_->device_memory.size() + 1);
  const cudaError_t error = cudaMalloc(memory, static_cast<size_t>(bytes));
  if (error != cudaSuccess) return fail_to_allocate(error, "device memory for resident pages", bytes, __LINE__);
  body_->device_memory.push_back(*memory);
  return Q4J_OK;
}

q4j_status CopyStreams::allocate_pinned(int64_t bytes, void** memory) {
  body_->pinned_memory.reserve(body_->pinned_memory.size() + 1);
  // Not write-combined: checkpoints read the pages.
  const cudaError_t error = cudaHostAlloc(memory, static_cast<size_t>(bytes), cudaHostAllocDefault);
  if (error != cudaSuccess) return fail_to_allocate(error, "page-locked host memory for pages", bytes, __LINE__);
  body_->pinned_memory.push_back(*memory);
  return Q4J_OK;
}

q4j_status CopyStreams::allocate_managed(int64_t bytes, void** memory) {
  int concurrent = 0;
  Q4J_CUDA(cudaDeviceGetAttribute(&concurrent, cudaDevAttrConcurrentManagedAccess, body_->device));
  Q4J_REQUIRE(concurrent != 0, Q4J_UNSUPPORTED,
              "paged_store_create: device %d reports no concurrentManagedAccess, without which managed memory cannot be "
              "prefetched; page with copies",
              body_->device);
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  Q4J_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes));
  // Beyond this the driver evicts at its own choice, and other users of the device pay for it.
  Q4J_REQUIRE(static_cast<size_t>(bytes) <= free_bytes, Q4J_OUT_OF_DEVICE_MEMORY,
              "paged_store_create: %lld bytes of managed memory for pages, but device %d has only %zu of %zu bytes free; page "
              "with copies",
              static_cast<long long>(bytes), body_->device, free_bytes, total_bytes);
  body_->device_memory.reserve(body_->device_memory.size() + 1);
  const cudaError_t error = cudaMallocManaged(memory, static_cast<size_t>(bytes), cudaMemAttachGlobal);
  if (error != cudaSuccess) return fail_to_allocate(error, "managed memory for pages", bytes, __LINE__);
  body_->device_memory.push_back(*memory);
  return Q4J_OK;
}

q4j_status CopyStreams::record(Lane lane, Event* event) {
  if (event->index < 0) {
    body_->events.reserve(body_->events.size() + 1);
    cudaEvent_t made = nullptr;
    Q4J_CUDA(cudaEventCreateWithFlags(&made, cudaEventDisableTiming));
    body_->events.push_back(made);
    event->index = static_cast<int64_t>(body_->events.size()) - 1;
  }
  Q4J_CUDA(cudaEventRecord(body_->events[static_cast<size_t>(event->index)], body_->stream(lane)));
  return Q4J_OK;
}

q4j_status CopyStreams::wait(Lane lane, Event event) {
  if (event.index < 0) return Q4J_OK;
  Q4J_CUDA(cudaStreamWaitEvent(body_->stream(lane), body_->events[static_cast<size_t>(event.index)], 0));
  return Q4J_OK;
}

q4j_status CopyStreams::synchronize(Event event) {
  if (event.index < 0) return Q4J_OK;
  Q4J_CUDA(cudaEventSynchronize(body_->events[static_cast<size_t>(event.index)]));
  return Q4J_OK;
}

q4j_status CopyStreams::synchronize(Lane lane) {
  Q4J_CUDA(cudaStreamSynchronize(body_->stream(lane)));
  return Q4J_OK;
}

q4j_status CopyStreams::copy(Lane lane, void* to, const void* from, int64_t bytes) {
  Q4J_CUDA(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, body_->stream(lane)));
  return Q4J_OK;
}

q4j_status CopyStreams::zero(Lane lane, void* memory, int64_t bytes) {
  Q4J_CUDA(cudaMemsetAsync(memory, 0, static_cast<size_t>(bytes), body_->stream(lane)));
  return Q4J_OK;
}

q4j_status CopyStreams::prefetch(Lane lane, void* managed, int64_t bytes, bool to_device) {
  const auto size = static_cast<size_t>(bytes);
#if CUDART_VERSION >= 13000
  cudaMemLocation place = {};
  place.type = to_device ? cudaMemLocationTypeDevice : cudaMemLocationTypeHost;
  place.id = to_device ? body_->device : 0;
  Q4J_CUDA(cudaMemPrefetchAsync(managed, size, place, 0, body_->stream(lane)));
#else
  Q4J_CUDA(cudaMemPrefetchAsync(managed, size, to_device ? body_->device : cudaCpuDeviceId, body_->stream(lane)));
#endif
  return Q4J_OK;
}

q4j_status CopyStreams::work_uses(void*, int64_t) { return Q4J_OK; }

}  // namespace q4j::cuda
