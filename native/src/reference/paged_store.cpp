// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The paged store at its plainest: pages in one piece of memory, frames in another, a copy at every move. It shows what a
 * caller may rely on (a frame may be taken by another page as soon as its own is released), not how to be fast: plans are
 * ignored.
 */
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "host_memory.h"
#include "reference.h"

namespace q4j::reference {

namespace {

constexpr int64_t nowhere = -1;

struct Frame {
  int64_t page = nowhere;
  int64_t acquired = 0;
  int64_t last_use = 0;
  bool dirty = false;
};

struct Store {
  int64_t pages;
  int64_t page_bytes;
  std::unique_ptr<unsigned char[]> backing;
  unsigned char* frame_memory = nullptr;
  std::vector<Frame> frames;
  int64_t uses = 0;
  int64_t fetched = 0;
  int64_t written_back = 0;
  int64_t hits = 0;
  int64_t misses = 0;

  ~Store() { host_free(nullptr, frame_memory); }

  unsigned char* page_at(int64_t page) { return backing.get() + page * page_bytes; }
  unsigned char* memory_of(const Frame& frame) { return frame_memory + (&frame - frames.data()) * page_bytes; }

  Frame* find(int64_t page) {
    for (Frame& frame : frames) {
      if (frame.page == page) return &frame;
    }
    return nullptr;
  }

  /** A free frame, else the one released longest ago; NULL when all are acquired. */
  Frame* oldest() {
    Frame* oldest = nullptr;
    for (Frame& frame : frames) {
      if (frame.acquired == 0 && (oldest == nullptr || frame.last_use < oldest->last_use)) oldest = &frame;
    }
    return oldest;
  }

  void evict(Frame& frame) {
    if (frame.page != nowhere && frame.dirty) {
      std::memcpy(page_at(frame.page), memory_of(frame), static_cast<std::size_t>(page_bytes));
      ++written_back;
    }
    frame = Frame();
  }
};

Store& store_of(void* store) { return *static_cast<Store*>(store); }

}  // namespace

q4j_status paged_store_create(q4j_pack_context*, const q4j_paged_store_create_params* p) {
  Q4J_REQUIRE(p->strategy != Q4J_PAGING_MANAGED, Q4J_UNSUPPORTED, "paged_store_create: the reference has no managed memory");
  std::unique_ptr<Store> store(new (std::nothrow) Store());
  Q4J_REQUIRE(store != nullptr, Q4J_OUT_OF_DEVICE_MEMORY, "paged_store_create: no host memory");
  store->pages = p->pages;
  store->page_bytes = p->page_bytes;
  store->frames.resize(static_cast<std::size_t>(std::min(p->pages, p->resident_bytes / p->page_bytes)));
  store->backing.reset(new (std::nothrow) unsigned char[static_cast<std::size_t>(p->pages * p->page_bytes)]());
  void* frames = nullptr;
  Q4J_RETURN_IF_ERROR(host_allocate(nullptr, static_cast<int64_t>(store->frames.size()) * p->page_bytes, &frames));
  store->frame_memory = static_cast<unsigned char*>(frames);
  Q4J_REQUIRE(store->backing != nullptr, Q4J_OUT_OF_DEVICE_MEMORY,
              "paged_store_create: no host memory for %lld pages of %lld bytes", static_cast<long long>(p->pages),
              static_cast<long long>(p->page_bytes));
  *p->store = store.release();
  return Q4J_OK;
}

q4j_status paged_store_destroy(q4j_pack_context*, const q4j_paged_store_destroy_params* p) {
  delete &store_of(p->store);
  return Q4J_OK;
}

q4j_status paged_store_plan(q4j_pack_context*, const q4j_paged_store_plan_params* p) {
  for (int64_t i = 0; i < p->count; ++i) {
    Q4J_REQUIRE(p->order[i] >= 0 && p->order[i] < store_of(p->store).pages, Q4J_INVALID_ARGUMENT,
                "paged_store_plan: order[%lld] is page %lld of %lld", static_cast<long long>(i),
                static_cast<long long>(p->order[i]), static_cast<long long>(store_of(p->store).pages));
  }
  return Q4J_OK;
}

q4j_status paged_store_acquire(q4j_pack_context*, const q4j_paged_store_acquire_params* p) {
  Store& store = store_of(p->store);
  Q4J_REQUIRE(p->page < store.pages, Q4J_INVALID_ARGUMENT, "paged_store_acquire: page %lld of %lld",
              static_cast<long long>(p->page), static_cast<long long>(store.pages));
  Frame* frame = store.find(p->page);
  if (frame != nullptr) {
    ++store.hits;
  } else {
    frame = store.oldest();
    Q4J_REQUIRE(frame != nullptr, Q4J_OUT_OF_DEVICE_MEMORY,
                "paged_store_acquire: all %zu resident pages are acquired; release one, or raise resident_bytes",
                store.frames.size());
    store.evict(*frame);
    std::memcpy(store.memory_of(*frame), store.page_at(p->page), static_cast<std::size_t>(store.page_bytes));
    frame->page = p->page;
    ++store.fetched;
    ++store.misses;
  }
  ++frame->acquired;
  *p->memory = store.memory_of(*frame);
  return Q4J_OK;
}

q4j_status paged_store_release(q4j_pack_context*, const q4j_paged_store_release_params* p) {
  Store& store = store_of(p->store);
  Frame* frame = store.find(p->page);
  Q4J_REQUIRE(frame != nullptr && frame->acquired > 0, Q4J_INVALID_ARGUMENT, "paged_store_release: page %lld is not acquired",
              static_cast<long long>(p->page));
  --frame->acquired;
  frame->dirty = frame->dirty || p->dirty != 0;
  frame->last_use = ++store.uses;
  return Q4J_OK;
}

q4j_status paged_store_copy(q4j_pack_context*, const q4j_paged_store_copy_params* p) {
  Store& store = store_of(p->store);
  Q4J_REQUIRE(p->page < store.pages && p->bytes <= store.page_bytes && p->offset <= store.page_bytes - p->bytes,
              Q4J_INVALID_ARGUMENT, "paged_store_copy: %lld bytes at %lld of page %lld, of %lld pages of %lld bytes",
              static_cast<long long>(p->bytes), static_cast<long long>(p->offset), static_cast<long long>(p->page),
              static_cast<long long>(store.pages), static_cast<long long>(store.page_bytes));
  if (p->bytes == 0) return Q4J_OK;
  Frame* frame = store.find(p->page);
  unsigned char* page = (frame != nullptr ? store.memory_of(*frame) : store.page_at(p->page)) + p->offset;
  if (p->to_host != 0) {
    std::memcpy(p->host, page, static_cast<std::size_t>(p->bytes));
  } else {
    std::memcpy(page, p->host, static_cast<std::size_t>(p->bytes));
    if (frame != nullptr) frame->dirty = true;
  }
  return Q4J_OK;
}

q4j_status paged_store_statistics(q4j_pack_context*, const q4j_paged_store_statistics_params* p) {
  const Store& store = store_of(p->store);
  const auto put = [](int64_t* target, int64_t value) {
    if (target != nullptr) *target = value;
  };
  put(p->device_bytes, static_cast<int64_t>(store.frames.size()) * store.page_bytes);
  put(p->host_bytes, store.pages * store.page_bytes);
  put(p->fetched, store.fetched);
  put(p->written_back, store.written_back);
  put(p->hits, store.hits);
  put(p->misses, store.misses);
  return Q4J_OK;
}

}  // namespace q4j::reference
