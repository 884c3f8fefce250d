// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The decisions of a paged store (operators.h): which page lies in which frame, which page is fetched before it is asked for,
 * and which one leaves for it. What moves the bytes, and what waits for what, is the pack's Mover.
 *
 * Everything is decided during the calls, in their order, and nothing here waits: an exchange of pages is handed to the mover
 * as a write-back and a fetch, and the mover orders them after the work that they have to wait for.
 *
 * With a plan, the page that leaves is the one whose next planned use is farthest away (Belady 1966), because that one saves
 * the most fetches. Without one, it is the page that was released longest ago. A dirty page that leaves is written back at
 * once, so in a plan that runs round and round its way out starts as its work ends, and not when the frame is needed.
 *
 * Fetching ahead. Frames that hold nothing are filled with the next pages of the plan, whatever their number. To empty a frame
 * for a page that comes later is another matter: done as early as possible, it would turn the frames into a queue through which
 * every page runs every time, and budget for half of the pages would save nothing. So the plan is looked at `ahead` steps only,
 * each time a page is released: while work runs on one page, the next is there, and (with ahead = 3) the one after it is on its
 * way in while the one before is on its way out. The other frames are left to Belady's rule.
 *
 * A plan of P pages, each once, over F < P frames then fetches P - F pages in P - ahead acquisitions, that is P (P - F) /
 * (P - ahead) a round on average, and writes as many back where all work is dirty: the fetch of page m sends page m - ahead
 * out, so the P - F pages that are missing are `ahead` places further back when their turn comes again (paged_frames_test.cpp).
 *
 * A Mover has:
 *   void* address(int64_t page, int64_t frame)                     where work finds the page
 *   q4j_status fetch(int64_t page, int64_t frame, bool stored)     starts to bring the page's content, or zeros, into the frame
 *   q4j_status write_back(int64_t page, int64_t frame)             starts to bring the frame's content to the page
 *   q4j_status begin_work(int64_t page, int64_t frame)             work submitted from now on finds the page's content
 *   q4j_status end_work(int64_t page, int64_t frame)               what was submitted so far may still use the frame
 *   q4j_status copy(const q4j_paged_store_copy_params&, int64_t frame, bool stored)   of a page in a frame, or no_frame; waits
 *   bool moves_clean_pages()                                       a page has to be written back to leave, also a clean one
 */
#ifndef QLORA4J_SUPPORT_PAGED_FRAMES_H_
#define QLORA4J_SUPPORT_PAGED_FRAMES_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <stdexcept>
#include <vector>

#include "error.h"

namespace q4j {

// Internal linkage, as for everything in this folder (error.h); functions of a class cannot be `static inline`.
namespace {

constexpr int64_t no_page = -1;
constexpr int64_t no_frame = -1;

/** Frames that a budget gives to a store. */
static inline int64_t paged_frame_count(const q4j_paged_store_create_params& p) {
  return std::min(p.pages, p.resident_bytes / p.page_bytes);
}

/**
 * Steps of the plan that are looked at after a release. Two let one page arrive while another is worked on; with a third, a
 * page may leave at the same time. Each step costs some fetches, a share of about 1 / P, so the third waits for eight frames.
 */
static inline int64_t paged_steps_ahead(int64_t frames) { return std::min<int64_t>(frames, frames < 8 ? 2 : 3); }

/** Runs `body`; what the standard library throws when the host has no memory becomes a status. */
template <class Body>
q4j_status with_host_memory(const char* operation, Body body) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
  } catch (const std::length_error&) {
  }
  Q4J_FAIL(Q4J_OUT_OF_DEVICE_MEMORY, "%s: the host has no memory for its tables", operation);
}

template <class Mover>
class PagedFrames {
 public:
  /** Throws std::bad_alloc. The mover outlives this object. */
  PagedFrames(Mover& mover, int64_t pages, int64_t page_bytes, int64_t frames)
      : mover_(mover),
        page_bytes_(page_bytes),
        ahead_(paged_steps_ahead(frames)),
        frame_of_(static_cast<size_t>(pages), no_frame),
        stored_(static_cast<size_t>(pages), 0),
        frames_(static_cast<size_t>(frames)),
        empty_(frames) {}

  q4j_status plan(const q4j_paged_store_plan_params& p) {
    for (int64_t i = 0; i < p.count; ++i) {
      Q4J_REQUIRE(p.order[i] >= 0 && p.order[i] < pages(), Q4J_INVALID_ARGUMENT,
                  "paged_store_plan: order[%lld] is page %lld of %lld", ll(i), ll(p.order[i]), ll(pages()));
    }
    return with_host_memory("paged_store_plan", [&] {
      order_.clear();
      positions_.clear();
      first_.clear();
      cursor_ = 0;
      following_ = false;
      if (p.count == 0) return Q4J_OK;
      // positions_ holds the steps of page 0, then those of page 1, ...; first_[page] is where a page's begin.
      std::vector<int64_t> order(p.order, p.order + p.count);
      std::vector<int64_t> first(frame_of_.size() + 1, 0);
      for (const int64_t page : order) ++first[at(page) + 1];
      for (size_t page = 0; page + 1 < first.size(); ++page) first[page + 1] += first[page];
      std::vector<int64_t> next(first);
      std::vector<int64_t> positions(order.size());
      for (int64_t i = 0; i < p.count; ++i) positions[at(next[at(order[at(i)])]++)] = i;
      order_.swap(order);
      first_.swap(first);
      positions_.swap(positions);
      following_ = true;
      return fetch_ahead();
    });
  }

  q4j_status acquire(const q4j_paged_store_acquire_params& p) {
    Q4J_REQUIRE(p.page < pages(), Q4J_INVALID_ARGUMENT, "paged_store_acquire: page %lld of %lld", ll(p.page), ll(pages()));
    int64_t index = frame_of_[at(p.page)];
    const bool resident = index != no_frame;
    if (!resident) {
      index = leaving_frame(-1);
      Q4J_REQUIRE(index != no_frame, Q4J_OUT_OF_DEVICE_MEMORY,
                  "paged_store_acquire: all %lld resident pages are acquired; release one, or raise resident_bytes",
                  ll(static_cast<int64_t>(frames_.size())));
      Q4J_RETURN_IF_ERROR(exchange(p.page, index));
    }
    Q4J_RETURN_IF_ERROR(mover_.begin_work(p.page, index));
    ++(resident ? hits_ : misses_);
    ++frames_[at(index)].acquired;
    follow(p.page);
    *p.memory = mover_.address(p.page, index);
    return Q4J_OK;
  }

  q4j_status release(const q4j_paged_store_release_params& p) {
    const int64_t index = p.page < pages() ? frame_of_[at(p.page)] : no_frame;
    Q4J_REQUIRE(index != no_frame && frames_[at(index)].acquired > 0, Q4J_INVALID_ARGUMENT,
                "paged_store_release: page %lld is not acquired", ll(p.page));
    Frame& frame = frames_[at(index)];
    Q4J_RETURN_IF_ERROR(mover_.end_work(p.page, index));
    --frame.acquired;
    frame.dirty = frame.dirty || p.dirty != 0;
    frame.released_at = ++releases_;
    return frame.acquired == 0 ? fetch_ahead() : Q4J_OK;
  }

  q4j_status copy(const q4j_paged_store_copy_params& p) {
    Q4J_REQUIRE(p.page < pages() && p.bytes <= page_bytes_ && p.offset <= page_bytes_ - p.bytes, Q4J_INVALID_ARGUMENT,
                "paged_store_copy: %lld bytes at %lld of page %lld, of %lld pages of %lld bytes", ll(p.bytes), ll(p.offset),
                ll(p.page), ll(pages()), ll(page_bytes_));
    if (p.bytes == 0) return Q4J_OK;
    int64_t index = frame_of_[at(p.page)];
    const bool stored = stored_[at(p.page)] != 0;
    if (index == no_frame && !stored && p.to_host != 0) {
      std::memset(p.host, 0, static_cast<size_t>(p.bytes));
      return Q4J_OK;
    }
    if (index == no_frame && static_cast<int64_t>(frames_.size()) == pages()) {
      index = leaving_frame(-1);  // an empty one: nothing is behind the pages where every page has a frame
      Q4J_RETURN_IF_ERROR(exchange(p.page, index));
    }
    Q4J_RETURN_IF_ERROR(mover_.copy(p, index, stored));
    if (p.to_host == 0) {
      if (index != no_frame) {
        frames_[at(index)].dirty = true;
      } else {
        stored_[at(p.page)] = 1;
      }
    }
    return Q4J_OK;
  }

  /** host_bytes: what lies behind the pages. */
  q4j_status statistics(const q4j_paged_store_statistics_params& p, int64_t host_bytes) const {
    const auto put = [](int64_t* target, int64_t value) {
      if (target != nullptr) *target = value;
    };
    put(p.device_bytes, static_cast<int64_t>(frames_.size()) * page_bytes_);
    put(p.host_bytes, host_bytes);
    put(p.fetched, fetched_);
    put(p.written_back, written_back_);
    put(p.hits, hits_);
    put(p.misses, misses_);
    return Q4J_OK;
  }

  /** Ends what is still acquired, so that the mover knows what to wait for before it frees the frames. */
  q4j_status release_all() {
    for (size_t i = 0; i < frames_.size(); ++i) {
      if (frames_[i].acquired > 0) Q4J_RETURN_IF_ERROR(mover_.end_work(frames_[i].page, static_cast<int64_t>(i)));
      frames_[i].acquired = 0;
    }
    return Q4J_OK;
  }

 private:
  struct Frame {
    int64_t page = no_page;
    int64_t acquired = 0;
    int64_t released_at = 0;
    bool dirty = false; /* differs from what is behind the page */
  };

  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

  static size_t at(int64_t index) { return static_cast<size_t>(index); }
  static long long ll(int64_t value) { return static_cast<long long>(value); }
  int64_t pages() const { return static_cast<int64_t>(frame_of_.size()); }
  int64_t steps() const { return static_cast<int64_t>(order_.size()); }

  /** Steps until the plan acquires the page again, 0 for the next step. */
  int64_t next_use(int64_t page) const {
    if (first_.empty() || page == no_page) return kNever;
    const auto begin = positions_.begin() + first_[at(page)];
    const auto end = positions_.begin() + first_[at(page) + 1];
    if (begin == end) return kNever;
    const auto next = std::lower_bound(begin, end, cursor_);
    return next != end ? *next - cursor_ : *begin + steps() - cursor_;
  }

  /** Moves to the step after the one that acquires `page`. An acquisition off the plan stops the fetching until one is on it.
   */
  void follow(int64_t page) {
    if (order_.empty()) return;
    const int64_t skipped = next_use(page);
    following_ = skipped == 0;
    if (skipped != kNever) cursor_ = (cursor_ + skipped + 1) % steps();
  }

  /**
   * The frame to empty for a page that is needed in `step` steps: one that is empty, else the one not acquired whose page is
   * needed last, but later than that. no_frame when there is none.
   */
  int64_t leaving_frame(int64_t step) const {
    int64_t best = no_frame;
    int64_t best_use = step;
    for (size_t i = 0; i < frames_.size(); ++i) {
      const Frame& frame = frames_[i];
      if (frame.acquired > 0) continue;
      if (frame.page == no_page) return static_cast<int64_t>(i);
      const int64_t use = next_use(frame.page);
      if (use > best_use || (use == best_use && best != no_frame && frame.released_at < frames_[at(best)].released_at)) {
        best = static_cast<int64_t>(i);
        best_use = use;
      }
    }
    return best;
  }

  /** Puts a page into a frame in place of what is there. */
  q4j_status exchange(int64_t page, int64_t index) {
    Frame& frame = frames_[at(index)];
    if (frame.page != no_page) {
      if (frame.dirty || mover_.moves_clean_pages()) {
        Q4J_RETURN_IF_ERROR(mover_.write_back(frame.page, index));
        ++written_back_;
      }
      if (frame.dirty) stored_[at(frame.page)] = 1;
      frame_of_[at(frame.page)] = no_frame;
      frame = Frame();
      ++empty_;
    }
    const bool stored = stored_[at(page)] != 0;
    Q4J_RETURN_IF_ERROR(mover_.fetch(page, index, stored));
    fetched_ += stored ? 1 : 0;
    frame.page = page;
    frame_of_[at(page)] = index;
    --empty_;
    return Q4J_OK;
  }

  q4j_status fetch_ahead() {
    if (!following_) return Q4J_OK;
    for (int64_t step = 0; step < steps() && (step < ahead_ || empty_ > 0); ++step) {
      const int64_t page = order_[at((cursor_ + step) % steps())];
      if (frame_of_[at(page)] != no_frame) continue;
      const int64_t index = leaving_frame(step);
      if (index == no_frame) return Q4J_OK;
      Q4J_RETURN_IF_ERROR(exchange(page, index));
    }
    return Q4J_OK;
  }

  Mover& mover_;
  const int64_t page_bytes_;
  const int64_t ahead_;
  std::vector<int64_t> frame_of_;     /* of a page */
  std::vector<unsigned char> stored_; /* of a page: what is behind it is its content, not nothing */
  std::vector<Frame> frames_;
  int64_t empty_; /* frames that hold no page */

  std::vector<int64_t> order_;
  std::vector<int64_t> first_;
  std::vector<int64_t> positions_;
  int64_t cursor_ = 0;     /* the next step of the plan */
  bool following_ = false; /* the last acquisition was the planned one */

  int64_t releases_ = 0;
  int64_t fetched_ = 0;
  int64_t written_back_ = 0;
  int64_t hits_ = 0;
  int64_t misses_ = 0;
};

}  // namespace

}  // namespace q4j

#endif  // QLORA4J_SUPPORT_PAGED_FRAMES_H_
