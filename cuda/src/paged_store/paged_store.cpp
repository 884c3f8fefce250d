// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#include "paged_store/paged_store.h"

#include <cstring>
#include <new>

#include "error.h"
#include "pack/context.h"
#include "pack/operators.h"
#include "paged_frames.h"

namespace q4j::cuda {

StreamMover::StreamMover(int64_t pages, int64_t page_bytes, int64_t frames)
    : page_count_(pages), page_bytes_(page_bytes), frames_(static_cast<size_t>(frames)) {}

q4j_status StreamMover::allocate(const q4j_pack_context& context, int32_t strategy) {
  Q4J_RETURN_IF_ERROR(CopyStreams::create(context, page_bytes_, &streams_));
  const auto frames = static_cast<int64_t>(frames_.size());
  const int64_t all = page_count_ * page_bytes_;
  void* memory = nullptr;
  if (strategy == Q4J_PAGING_MANAGED) {
    Q4J_RETURN_IF_ERROR(streams_->allocate_managed(all, &memory));
    managed_ = static_cast<unsigned char*>(memory);
    host_bytes_ = all;
    return Q4J_OK;
  }
  Q4J_RETURN_IF_ERROR(streams_->allocate_device(frames * page_bytes_, &memory));
  frame_memory_ = static_cast<unsigned char*>(memory);
  if (frames == page_count_) return Q4J_OK;  // nothing will ever move
  Q4J_RETURN_IF_ERROR(streams_->allocate_pinned(all, &memory));
  pages_ = static_cast<unsigned char*>(memory);
  host_bytes_ = all;
  return Q4J_OK;
}

void* StreamMover::address(int64_t page, int64_t frame) const {
  return managed_ != nullptr ? managed_ + page * page_bytes_ : frame_memory_ + frame * page_bytes_;
}

q4j_status StreamMover::fetch(int64_t page, int64_t frame, bool stored) {
  Frame& to = frame_at(frame);
  void* memory = address(page, frame);
  // Work may still read the page that was here; a write-back of it has been waited for (below).
  Q4J_RETURN_IF_ERROR(streams_->wait(Lane::kIn, to.released));
  if (managed_ != nullptr) Q4J_RETURN_IF_ERROR(streams_->prefetch(Lane::kIn, memory, page_bytes_, true));
  if (!stored) {
    Q4J_RETURN_IF_ERROR(streams_->zero(Lane::kIn, memory, page_bytes_));
  } else if (managed_ == nullptr) {
    Q4J_RETURN_IF_ERROR(streams_->copy(Lane::kIn, memory, page_memory(page), page_bytes_));
  }
  to.awaited = false;
  return streams_->record(Lane::kIn, &to.arrived);
}

q4j_status StreamMover::write_back(int64_t page, int64_t frame) {
  Frame& from = frame_at(frame);
  Q4J_RETURN_IF_ERROR(streams_->wait(Lane::kOut, from.released));
  Q4J_RETURN_IF_ERROR(streams_->wait(Lane::kOut, from.arrived));  // matters where no work has used the page
  if (managed_ != nullptr) {
    Q4J_RETURN_IF_ERROR(streams_->prefetch(Lane::kOut, address(page, frame), page_bytes_, false));
  } else {
    Q4J_RETURN_IF_ERROR(streams_->copy(Lane::kOut, page_memory(page), address(page, frame), page_bytes_));
  }
  // No later fetch overtakes it, neither one into this frame nor one of this page.
  Q4J_RETURN_IF_ERROR(streams_->record(Lane::kOut, &saved_));
  return streams_->wait(Lane::kIn, saved_);
}

q4j_status StreamMover::begin_work(int64_t page, int64_t frame) {
  Frame& in = frame_at(frame);
  if (!in.awaited) {
    Q4J_RETURN_IF_ERROR(streams_->wait(Lane::kWork, in.arrived));
    in.awaited = true;
  }
  return streams_->work_uses(address(page, frame), page_bytes_);
}

q4j_status StreamMover::end_work(int64_t page, int64_t frame) {
  Q4J_RETURN_IF_ERROR(streams_->work_uses(address(page, frame), page_bytes_));
  return streams_->record(Lane::kWork, &frame_at(frame).released);
}

q4j_status StreamMover::copy(const q4j_paged_store_copy_params& p, int64_t frame, bool stored) {
  if (frame == no_frame) Q4J_RETURN_IF_ERROR(streams_->synchronize(Lane::kOut));  // it may be on its way
  if (frame == no_frame && managed_ == nullptr) {
    unsigned char* page = page_memory(p.page);
    if (p.to_host == 0 && !stored) std::memset(page, 0, static_cast<size_t>(page_bytes_));
    page += p.offset;
    std::memcpy(p.to_host != 0 ? p.host : page, p.to_host != 0 ? page : p.host, static_cast<size_t>(p.bytes));
    return Q4J_OK;
  }
  // The rest is work on the page, which the host then waits for.
  if (frame != no_frame) Q4J_RETURN_IF_ERROR(streams_->wait(Lane::kWork, frame_at(frame).arrived));
  auto* memory = static_cast<unsigned char*>(address(p.page, frame));
  if (frame == no_frame && !stored) Q4J_RETURN_IF_ERROR(streams_->zero(Lane::kWork, memory, page_bytes_));
  memory += p.offset;
  Q4J_RETURN_IF_ERROR(p.to_host != 0 ? streams_->copy(Lane::kWork, p.host, memory, p.bytes)
                                     : streams_->copy(Lane::kWork, memory, p.host, p.bytes));
  return streams_->synchronize(Lane::kWork);
}

q4j_status StreamMover::finish() {
  if (streams_ == nullptr) return Q4J_OK;
  for (const Frame& frame : frames_) Q4J_RETURN_IF_ERROR(streams_->synchronize(frame.released));
  Q4J_RETURN_IF_ERROR(streams_->synchronize(Lane::kIn));
  return streams_->synchronize(Lane::kOut);
}

namespace {

struct Store {
  Store(int64_t pages, int64_t page_bytes, int64_t frames)
      : mover(pages, page_bytes, frames), frames_of(mover, pages, page_bytes, frames) {}

  StreamMover mover;
  PagedFrames<StreamMover> frames_of;
};

Store& store_of(void* store) { return *static_cast<Store*>(store); }

}  // namespace

q4j_status paged_store_create(q4j_pack_context* context, const q4j_paged_store_create_params* p) {
  return with_host_memory("paged_store_create", [&]() -> q4j_status {
    auto store = std::make_unique<Store>(p->pages, p->page_bytes, paged_frame_count(*p));
    Q4J_RETURN_IF_ERROR(store->mover.allocate(*context, p->strategy));
    *p->store = store.release();
    return Q4J_OK;
  });
}

q4j_status paged_store_destroy(q4j_pack_context*, const q4j_paged_store_destroy_params* p) {
  const std::unique_ptr<Store> store(&store_of(p->store));
  return with_host_memory("paged_store_destroy", [&]() -> q4j_status {
    Q4J_RETURN_IF_ERROR(store->frames_of.release_all());
    return store->mover.finish();
  });
}

q4j_status paged_store_plan(q4j_pack_context*, const q4j_paged_store_plan_params* p) {
  return store_of(p->store).frames_of.plan(*p);
}

q4j_status paged_store_acquire(q4j_pack_context*, const q4j_paged_store_acquire_params* p) {
  return with_host_memory("paged_store_acquire", [&] { return store_of(p->store).frames_of.acquire(*p); });
}

q4j_status paged_store_release(q4j_pack_context*, const q4j_paged_store_release_params* p) {
  return with_host_memory("paged_store_release", [&] { return store_of(p->store).frames_of.release(*p); });
}

q4j_status paged_store_copy(q4j_pack_context*, const q4j_paged_store_copy_params* p) {
  return with_host_memory("paged_store_copy", [&] { return store_of(p->store).frames_of.copy(*p); });
}

q4j_status paged_store_statistics(q4j_pack_context*, const q4j_paged_store_statistics_params* p) {
  const Store& store = store_of(p->store);
  return store.frames_of.statistics(*p, store.mover.host_bytes());
}

}  // namespace q4j::cuda
