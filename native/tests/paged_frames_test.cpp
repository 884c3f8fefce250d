// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** What a paged store decides (support/paged_frames.h), with a mover that keeps books instead of pages. */
#include <algorithm>
#include <cstdint>
#include <deque>
#include <random>
#include <string>
#include <vector>

#include "expect.h"
#include "paged_frames.h"

namespace {

using namespace q4j;

/** Pages and frames of one number each. Says when a frame in use is taken, or a move makes no sense. */
struct Books {
  Books(int64_t pages, int64_t frames)
      : behind(static_cast<size_t>(pages), 0), in_frame(static_cast<size_t>(frames), -1), users(in_frame.size(), 0) {}

  void* address(int64_t, int64_t frame) { return &in_frame[static_cast<size_t>(frame)]; }
  bool moves_clean_pages() const { return false; }

  q4j_status fetch(int64_t page, int64_t frame, bool stored) {
    EXPECT(users[static_cast<size_t>(frame)] == 0);
    in_frame[static_cast<size_t>(frame)] = stored ? behind[static_cast<size_t>(page)] : 0;
    fetches.push_back(page);
    return Q4J_OK;
  }
  q4j_status write_back(int64_t page, int64_t frame) {
    EXPECT(users[static_cast<size_t>(frame)] == 0);
    if (refuse_saving) return Q4J_DEVICE_ERROR;
    behind[static_cast<size_t>(page)] = in_frame[static_cast<size_t>(frame)];
    saves.push_back(page);
    return Q4J_OK;
  }
  q4j_status begin_work(int64_t, int64_t frame) {
    ++users[static_cast<size_t>(frame)];
    return Q4J_OK;
  }
  q4j_status end_work(int64_t, int64_t frame) {
    EXPECT(--users[static_cast<size_t>(frame)] >= 0);
    return Q4J_OK;
  }
  q4j_status copy(const q4j_paged_store_copy_params& p, int64_t frame, bool) {
    int64_t& value = frame != no_frame ? in_frame[static_cast<size_t>(frame)] : behind[static_cast<size_t>(p.page)];
    std::memcpy(p.to_host != 0 ? p.host : &value, p.to_host != 0 ? &value : p.host, sizeof value);
    return Q4J_OK;
  }

  std::vector<int64_t> behind;
  std::vector<int64_t> in_frame;
  std::vector<int> users;
  std::vector<int64_t> fetches;
  std::vector<int64_t> saves;
  bool refuse_saving = false;
};

struct Store {
  Store(int64_t page_count, int64_t frame_count) : books(page_count, frame_count), frames(books, page_count, 8, frame_count) {}

  q4j_status plan(const std::vector<int64_t>& order) {
    return frames.plan({sizeof(q4j_paged_store_plan_params), 0, nullptr, static_cast<int64_t>(order.size()), order.data()});
  }
  /** Where the page's number is, or NULL. */
  int64_t* acquire(int64_t page) {
    void* memory = nullptr;
    const q4j_status status = frames.acquire({sizeof(q4j_paged_store_acquire_params), 0, nullptr, page, &memory});
    return status == Q4J_OK ? static_cast<int64_t*>(memory) : nullptr;
  }
  q4j_status release(int64_t page, bool dirty) {
    return frames.release({sizeof(q4j_paged_store_release_params), dirty ? 1 : 0, nullptr, page});
  }
  void use(int64_t page) {
    EXPECT(acquire(page) != nullptr);
    EXPECT(release(page, true) == Q4J_OK);
  }
  struct Counts {
    int64_t fetched = 0;
    int64_t written_back = 0;
    int64_t hits = 0;
    int64_t misses = 0;
  };
  Counts counts() const {
    Counts c;
    frames.statistics({sizeof(q4j_paged_store_statistics_params), 0, nullptr, nullptr, nullptr, &c.fetched, &c.written_back,
                       &c.hits, &c.misses},
                      0);
    return c;
  }

  Books books;
  PagedFrames<Books> frames;
};

std::vector<int64_t> round_of(int64_t pages) {
  std::vector<int64_t> order(static_cast<size_t>(pages));
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
  return order;
}

/** P pages, each once a round, over F frames: P (P - F) move in P - ahead rounds, each way, and none is waited for. */
void moves_what_the_formula_says() {
  for (const int64_t pages : {2, 3, 5, 8, 9, 16, 31, 64}) {
    for (int64_t frames = 2; frames <= pages; frames += frames < 10 ? 1 : 7) {
      Store store(pages, frames);
      EXPECT(store.plan(round_of(pages)) == Q4J_OK);
      const auto rounds = [&](int64_t count) {
        for (int64_t round = 0; round < count; ++round) {
          for (int64_t page = 0; page < pages; ++page) store.use(page);
        }
      };
      rounds(2 * pages);  // every page has been written back, and what depends on the start is over
      const Store::Counts before = store.counts();
      rounds(pages - paged_steps_ahead(frames));
      const Store::Counts after = store.counts();
      const int64_t expected = pages * (pages - frames);
      if (!EXPECT(after.fetched - before.fetched == expected) ||
          !EXPECT(after.written_back - before.written_back == expected)) {
        std::fprintf(stderr, "    %lld pages, %lld frames: %lld fetched, expected %lld\n", static_cast<long long>(pages),
                     static_cast<long long>(frames), static_cast<long long>(after.fetched - before.fetched),
                     static_cast<long long>(expected));
      }
      EXPECT(after.misses == 0);
    }
  }
}

/**
 * Three streams as the CUDA pack has them, as times: a copy takes 1, the work on a page `work_time`, and each stream begins
 * what it is given when it is free and what it waits for is done.
 */
struct Timeline {
  Timeline(int64_t frame_count, double time) : frames(static_cast<size_t>(frame_count)), work_time(time) {}

  void* address(int64_t, int64_t) { return this; }
  bool moves_clean_pages() const { return false; }
  q4j_status fetch(int64_t, int64_t frame, bool stored) {
    Frame& f = frames[static_cast<size_t>(frame)];
    in = f.arrived = std::max(in, f.released) + (stored ? 1 : 0);
    return Q4J_OK;
  }
  q4j_status write_back(int64_t, int64_t frame) {
    const Frame& f = frames[static_cast<size_t>(frame)];
    out = std::max(out, std::max(f.released, f.arrived)) + 1;
    in = std::max(in, out);
    return Q4J_OK;
  }
  q4j_status begin_work(int64_t, int64_t frame) {
    work = std::max(work, frames[static_cast<size_t>(frame)].arrived);
    return Q4J_OK;
  }
  q4j_status end_work(int64_t, int64_t frame) {
    work = frames[static_cast<size_t>(frame)].released = work + work_time;
    return Q4J_OK;
  }
  q4j_status copy(const q4j_paged_store_copy_params&, int64_t, bool) { return Q4J_OK; }

  struct Frame {
    double arrived = 0;
    double released = 0;
  };
  std::vector<Frame> frames;
  const double work_time;
  double work = 0;
  double in = 0;
  double out = 0;
};

/**
 * Rounds with a long pause between them, as optimizer steps have. P - F pages cannot be there when a round begins; beyond their
 * way it takes the work on those that are and two copies, for the first page out and the last page in. Where work takes longer
 * than a copy, it takes the work alone.
 */
void overlaps_copies_with_work() {
  for (const int64_t pages : {16, 40, 64}) {
    for (const int64_t frames : {int64_t{8}, pages / 2, pages - 1, pages}) {
      for (const double work_time : {0.0, 0.05, 0.5, 1.0, 3.0}) {
        Timeline timeline(frames, work_time);
        PagedFrames<Timeline> store(timeline, pages, 8, frames);
        const std::vector<int64_t> order = round_of(pages);
        EXPECT(store.plan({sizeof(q4j_paged_store_plan_params), 0, nullptr, pages, order.data()}) == Q4J_OK);
        for (int64_t round = 0; round < 2 * pages; ++round) {
          const double begin = timeline.work += 1000;
          for (const int64_t page : order) {
            void* memory = nullptr;
            store.acquire({sizeof(q4j_paged_store_acquire_params), 0, nullptr, page, &memory});
            store.release({sizeof(q4j_paged_store_release_params), 1, nullptr, page});
          }
          const double took = timeline.work - begin;
          const double work_alone = static_cast<double>(pages) * work_time;
          const double bus = static_cast<double>(pages - frames + 2) + static_cast<double>(frames) * work_time;
          EXPECT(took >= work_alone - 1e-9);
          EXPECT(took <= (frames == pages || work_time >= 1 ? work_alone : bus) + 1e-9);
        }
      }
    }
  }
}

/** While work runs on a page the next one is there, and its fetch started before that work. */
void fetches_before_it_is_asked() {
  Store store(6, 3);
  EXPECT(store.plan(round_of(6)) == Q4J_OK);
  EXPECT(store.books.fetches == std::vector<int64_t>({0, 1, 2}));
  store.use(0);  // 1 and 2 are there: the two steps ahead need nothing
  EXPECT(store.books.fetches.size() == 3 && store.books.saves.empty());
  store.use(1);  // 3 takes the place of 1, which is needed later than 0
  EXPECT(store.books.fetches.back() == 3 && store.books.saves == std::vector<int64_t>({1}));
  store.use(2);
  EXPECT(store.books.fetches.back() == 4 && store.books.saves.back() == 2);
}

void finds_its_way_back_to_the_plan() {
  Store store(8, 4);
  EXPECT(store.plan(round_of(8)) == Q4J_OK);
  store.use(0);
  const size_t fetches = store.books.fetches.size();
  store.use(2);  // skips 1; nothing is fetched on a suspicion
  EXPECT(store.books.fetches.size() == fetches);
  store.use(3);  // as planned after 2
  EXPECT(store.books.fetches.back() == 5);
  store.use(7);
  EXPECT(store.books.fetches.back() == 7);
  EXPECT(store.counts().misses == 1);
  EXPECT(store.plan({}) == Q4J_OK);
  store.use(6);
  EXPECT(store.books.fetches.back() == 6);
  const int64_t bad[] = {0, 8};
  EXPECT(store.plan({bad, bad + 2}) == Q4J_INVALID_ARGUMENT);
}

/** Without a plan the page that was released longest ago leaves; pages outside of a plan leave before those in it. */
void evicts_the_right_page() {
  Store store(6, 3);
  for (const int64_t page : {0, 1, 2}) store.use(page);
  store.use(0);
  store.use(3);
  EXPECT(store.books.saves == std::vector<int64_t>({1}));
  EXPECT(store.plan({0, 3, 4, 0, 3}) == Q4J_OK);
  EXPECT(store.books.saves == std::vector<int64_t>({1}));  // all frames are full and 2 steps ahead are there
  store.use(0);
  EXPECT(store.books.saves == std::vector<int64_t>({1, 2}) && store.books.fetches.back() == 4);
}

void keeps_a_page_that_cannot_be_saved() {
  Store store(4, 2);
  *store.acquire(0) = 42;
  EXPECT(store.release(0, true) == Q4J_OK);
  store.use(1);
  store.books.refuse_saving = true;
  EXPECT(store.acquire(2) == nullptr);
  store.books.refuse_saving = false;
  int64_t* page = store.acquire(0);
  EXPECT(page != nullptr && *page == 42);
}

/** Any order of calls, with and without a plan that is kept or not: contents are right and the counts add up. */
void survives_any_order(uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); };
  const int64_t pages = 1 + below(12);
  const int64_t frames = pages == 1 ? 1 : 2 + below(pages - 1);
  Store store(pages, frames);
  std::vector<int64_t> content(static_cast<size_t>(pages), 0);
  std::vector<int> acquired(content.size(), 0);
  std::vector<int64_t> order;
  size_t step = 0;
  int64_t acquisitions = 0;
  std::deque<int64_t> held;
  for (int call = 0; call < 600; ++call) {
    const int64_t what = below(100);
    if (what < 3) {
      order.resize(static_cast<size_t>(below(20)));
      for (int64_t& page : order) page = below(pages);
      step = 0;
      EXPECT(store.plan(order) == Q4J_OK);
    } else if (what < 50) {
      const bool keep = !order.empty() && below(10) > 0;
      const int64_t page = keep ? order[step++ % order.size()] : below(pages);
      int64_t* value = store.acquire(page);
      const auto different = std::count_if(acquired.begin(), acquired.end(), [](int count) { return count > 0; });
      if (value == nullptr) {
        EXPECT(acquired[static_cast<size_t>(page)] == 0 && different == frames);
        continue;
      }
      ++acquisitions;
      EXPECT(*value == content[static_cast<size_t>(page)]);
      ++acquired[static_cast<size_t>(page)];
      held.push_back(page);
      if (below(3) > 0) {
        *value = content[static_cast<size_t>(page)] = call + 1;
        // Dirty from here on, whatever the other acquisitions of the page say.
        EXPECT(store.acquire(page) != nullptr && store.release(page, true) == Q4J_OK);
        ++acquisitions;
      }
    } else if (what < 95) {
      if (held.empty()) continue;
      const int64_t page = held.front();
      held.pop_front();
      --acquired[static_cast<size_t>(page)];
      EXPECT(store.release(page, below(2) == 0) == Q4J_OK);
    } else {
      const int64_t page = below(pages);
      int64_t value = -1;
      q4j_paged_store_copy_params copy = {sizeof copy, 1, nullptr, page, 0, 8, &value};
      EXPECT(store.frames.copy(copy) == Q4J_OK && value == content[static_cast<size_t>(page)]);
      value = content[static_cast<size_t>(page)] = call + 1000;
      copy.to_host = 0;
      EXPECT(store.frames.copy(copy) == Q4J_OK);
    }
  }
  const Store::Counts c = store.counts();
  EXPECT(c.hits + c.misses == acquisitions);
  EXPECT(c.written_back == static_cast<int64_t>(store.books.saves.size()));
  EXPECT(c.fetched <= static_cast<int64_t>(store.books.fetches.size()));
  EXPECT(c.fetched <= c.written_back + static_cast<int64_t>(store.books.fetches.size()));
  if (frames == pages) EXPECT(c.written_back == 0 && c.fetched == 0);
}

}  // namespace

int main() {
  moves_what_the_formula_says();
  overlaps_copies_with_work();
  fetches_before_it_is_asked();
  finds_its_way_back_to_the_plan();
  evicts_the_right_page();
  keeps_a_page_that_cannot_be_saved();
  for (uint64_t seed = 1; seed <= 300; ++seed) survives_any_order(seed);
  return q4j::test::finish("paged_frames_test");
}
