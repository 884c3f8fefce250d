// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * What the paged store uses of a GPU: two streams that copy beside the context's, events between the three, and the memory of
 * both sides. One class with two bodies.
 *
 * copy_streams_cuda.cpp is the GPU. Every function but the allocations and the ones that say so returns at once.
 *
 * copy_streams_host.cpp plays one for tests, as unkindly as the rules of streams allow, so that a wait that is missing shows:
 *  - A copy on kIn or kOut is carried out when something that is ordered after it happens, and not before: work that starts too
 *    early finds a frame's old bytes, a frame that is filled too early has not been saved.
 *  - Work runs as it is submitted, so a copy that starts too early would still find it done. Therefore the order of all
 * accesses is tracked as well (a vector clock per stream), and two that conflict with no event between them are a
 *    Q4J_INTERNAL_ERROR that names both.
 *  - Memory starts as a pattern, not as zeros.
 */
#ifndef QLORA4J_CUDA_PAGED_STORE_COPY_STREAMS_H_
#define QLORA4J_CUDA_PAGED_STORE_COPY_STREAMS_H_

#include <cstdint>
#include <memory>

#include "qlora4j/pack.h"

namespace q4j::cuda {

/** A stream: what is on one of them happens in the order it was put there. */
enum class Lane {
  kWork, /* the context's stream, on which the operators run */
  kIn,   /* copies to the device */
  kOut   /* copies from the device */
};
constexpr int kLanes = 3;

/** A point of a stream that was recorded; each new recording replaces it. */
struct Event {
  int64_t index = -1; /* -1: never recorded, and waiting for it does nothing */
};

class CopyStreams {
 public:
  /** page_bytes: unit in which the memory is copied and worked on. */
  static q4j_status create(const q4j_pack_context& context, int64_t page_bytes, std::unique_ptr<CopyStreams>* streams);
  /** Frees everything. The caller has waited for what uses it. */
  ~CopyStreams();
  CopyStreams(const CopyStreams&) = delete;
  CopyStreams& operator=(const CopyStreams&) = delete;

  /** Memory that lives as long as this object. */
  q4j_status allocate_device(int64_t bytes, void** memory);
  /** Host memory that the device copies from and to while the host goes on. */
  q4j_status allocate_pinned(int64_t bytes, void** memory);
  /**
   * Memory that wanders between host and device. Q4J_UNSUPPORTED where the device cannot use it while the host does,
   * Q4J_OUT_OF_DEVICE_MEMORY where it is more than the device has free.
   */
  q4j_status allocate_managed(int64_t bytes, void** memory);

  q4j_status record(Lane lane, Event* event);
  /** What is put on the stream from now on happens after the event. */
  q4j_status wait(Lane lane, Event event);
  /** The host waits for the event. */
  q4j_status synchronize(Event event);
  /** The host waits for all that is on the stream. */
  q4j_status synchronize(Lane lane);

  q4j_status copy(Lane lane, void* to, const void* from, int64_t bytes);
  q4j_status zero(Lane lane, void* memory, int64_t bytes);
  /** Moves managed memory to one side. */
  q4j_status prefetch(Lane lane, void* managed, int64_t bytes, bool to_device);

  /** Work on the context's stream uses this memory: said before it is submitted and after. The GPU needs no telling. */
  q4j_status work_uses(void* memory, int64_t bytes);

 private:
  struct Body;
  explicit CopyStreams(std::unique_ptr<Body> body);

  std::unique_ptr<Body> body_;
};

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_PAGED_STORE_COPY_STREAMS_H_
