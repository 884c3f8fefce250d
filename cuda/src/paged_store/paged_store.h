// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The paged store of the packs `cuda` and `cuda-on-host`. Contract in operators.h, the whole story in
 * docs/kernels/paged-store.md.
 *
 *   support/paged_frames.h   decides: which page is in which frame, what is fetched ahead, what leaves
 *   paged_store.cpp          orders: which stream waits for which event (StreamMover)
 *   copy_streams.h           does: streams, events, copies, memory; on a GPU and in a model of one
 *
 * Pages lie in page-locked host memory, frames in device memory, and copies run on two streams of the store, one for each
 * direction, beside the context's stream. The host decides and submits; it waits in paged_store_copy and paged_store_destroy
 * alone.
 *
 *   event       recorded on             after                         waited for by
 *   arrived     the copies in           a page's fetch                the context's stream (acquire), a write-back of the frame
 *   released    the context's stream    the work before a release     a write-back of the frame, the next fetch into it
 *   saved       the copies out          a page's write-back           every later fetch: of that page, and into that frame
 *
 * `arrived` and `released` belong to a frame; there is one `saved`, which the copies in are made to wait for at once.
 *
 * With Q4J_PAGING_MANAGED a page has one address for good and the driver moves what is behind it: a fetch is a prefetch to
 * the device, a write-back one to the host, in the same order after the same events. A frame is then a share of the budget.
 *
 * Not for CUDA graphs: an acquisition is a decision of the host, which a captured graph would not take again.
 */
#ifndef QLORA4J_CUDA_PAGED_STORE_PAGED_STORE_H_
#define QLORA4J_CUDA_PAGED_STORE_PAGED_STORE_H_

#include <memory>
#include <vector>

#include "paged_store/copy_streams.h"

namespace q4j::cuda {

/** Carries out what PagedFrames decides (support/paged_frames.h), each step after the events it has to wait for. */
class StreamMover {
 public:
  /** Throws std::bad_alloc. */
  StreamMover(int64_t pages, int64_t page_bytes, int64_t frames);

  q4j_status allocate(const q4j_pack_context& context, int32_t strategy);

  void* address(int64_t page, int64_t frame) const;
  q4j_status fetch(int64_t page, int64_t frame, bool stored);
  q4j_status write_back(int64_t page, int64_t frame);
  q4j_status begin_work(int64_t page, int64_t frame);
  q4j_status end_work(int64_t page, int64_t frame);
  q4j_status copy(const q4j_paged_store_copy_params& p, int64_t frame, bool stored);
  bool moves_clean_pages() const { return managed_ != nullptr; }

  /** Waits until nothing of the store's own is in flight: its copies, and work that was released. */
  q4j_status finish();
  int64_t host_bytes() const { return host_bytes_; }

 private:
  struct Frame {
    Event arrived;
    Event released;
    bool awaited = false; /* work has been made to wait for `arrived` */
  };

  unsigned char* page_memory(int64_t page) const { return pages_ + page * page_bytes_; }
  Frame& frame_at(int64_t frame) { return frames_[static_cast<size_t>(frame)]; }

  const int64_t page_count_;
  const int64_t page_bytes_;
  int64_t host_bytes_ = 0;
  std::vector<Frame> frames_;
  Event saved_;
  std::unique_ptr<CopyStreams> streams_;
  unsigned char* frame_memory_ = nullptr;
  unsigned char* pages_ = nullptr; /* page-locked; NULL where every page has a frame */
  unsigned char* managed_ = nullptr;
};

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_PAGED_STORE_PAGED_STORE_H_
