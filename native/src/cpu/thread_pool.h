// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The threads of one context of a CPU pack.
 *
 * A pool of n threads is the calling thread, which has number 0, and n - 1 workers. Only the thread that uses the context
 * may start work, and work may not start more work on the same pool. Functions given to the pool must not throw.
 *
 * Between two pieces of work a worker spins for 40 microseconds, because the next operator usually follows at once, and then
 * sleeps in the kernel, so that an idle context costs nothing. Waking it may take longer than a short operator: a calling
 * thread that runs out of tasks takes the work back from workers that have not begun.
 *
 * What a task computes must not depend on which thread runs it or on how many there are: results are the same, bit for bit,
 * for every number of threads.
 */
#ifndef QLORA4J_SRC_CPU_THREAD_POOL_H_
#define QLORA4J_SRC_CPU_THREAD_POOL_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>

namespace q4j::cpu {

/**
 * Threads to use when the caller names no number: the smaller of the affinity mask and the CPU quota of the cgroup
 * (version 1 or 2, rounded up), at least 1.
 */
int default_threads();

class ThreadPool {
 public:
  /** threads: at least 1. When the system refuses to start more, the pool has as many as it got. */
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  /** For `most`: as many threads as there are. */
  static constexpr int kAll = std::numeric_limits<int>::max();

  /** Calls f(int thread) once on each of the threads 0 .. count - 1, all at the same time. count: 1 to threads(). */
  template <class F>
  void run(int count, F&& f) {
    dispatch_function(count, true, f);
  }

  /**
   * Calls f(int64_t task, int thread) once for every task 0 .. tasks - 1, on `most` threads at most. Tasks are handed out one
   * at a time in increasing order. `thread` (below threads()) may index scratch memory. One task, or a pool of one, runs on the
   * calling thread.
   */
  template <class F>
  void parallel_for(int64_t tasks, F&& f, int most = kAll) {
    std::atomic<int64_t> next{0};
    const auto share = [&](int thread) { run_from(next, tasks, f, thread); };
    dispatch_function(sharers(tasks, most), false, share);
  }

  /**
   * The same for tasks whose data follow each other in memory: every thread runs the tasks of a part of its own in increasing
   * order, so that its reading goes on where it was, and then takes turns with the threads that are not done with theirs.
   */
  template <class F>
  void parallel_for_in_parts(int64_t tasks, F&& f, int most = kAll) {
    const int count = sharers(tasks, most);
    for (int i = 0; i < count; ++i) {
      parts_[static_cast<size_t>(i)].next.store(tasks * i / count, std::memory_order_relaxed);
      parts_[static_cast<size_t>(i)].end = tasks * (i + 1) / count;
    }
    const auto share = [&](int thread) {
      for (int i = thread; i < thread + count; ++i) {
        Part& part = parts_[static_cast<size_t>(i < count ? i : i - count)];
        run_from(part.next, part.end, f, thread);
      }
    };
    dispatch_function(count, false, share);
  }

  /**
   * Calls f(int64_t begin, int64_t end, int thread) on pieces of 0 .. count of `grain` elements (the last may be shorter).
   * The pieces depend on count and grain alone, never on the number of threads. grain: at least 1; choose it so that a
   * piece is worth some ten microseconds.
   */
  template <class F>
  void parallel_pieces(int64_t count, int64_t grain, F&& f) {
    parallel_for((count + grain - 1) / grain, [&](int64_t task, int thread) {
      const int64_t begin = task * grain;
      f(begin, begin + grain < count ? begin + grain : count, thread);
    });
  }

 private:
  struct Worker;
  struct alignas(64) Part {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };
  using Entry = void (*)(void* function, int thread);

  // How many threads share so many tasks; at least 1, the calling one.
  int sharers(int64_t tasks, int most) const {
    return static_cast<int>(std::clamp<int64_t>(tasks, 1, std::min(most, threads_)));
  }

  // Runs the tasks that are next, up to `end`.
  template <class F>
  static void run_from(std::atomic<int64_t>& next, int64_t end, F& f, int thread) {
    for (int64_t task = next.fetch_add(1, std::memory_order_relaxed); task < end;
         task = next.fetch_add(1, std::memory_order_relaxed)) {
      f(task, thread);
    }
  }

  template <class F>
  void dispatch_function(int count, bool all, F& f) {
    if (count <= 1) {
      f(0);
      return;
    }
    dispatch(
        count, all, [](void* function, int thread) { (*static_cast<F*>(function))(thread); },
        const_cast<void*>(static_cast<const void*>(std::addressof(f))));
  }

  // all: whether the threads 1 .. count - 1 must call the function, or may.
  void dispatch(int count, bool all, Entry entry, void* function);
  void work(Worker& worker, int thread);

  int threads_ = 1;
  std::unique_ptr<Worker[]> workers_;
  std::unique_ptr<Part[]> parts_;  // one for each thread
  Entry entry_ = nullptr;
  void* function_ = nullptr;
  alignas(64) std::atomic<uint32_t> pending_{0};
  std::atomic<uint32_t> caller_sleeps_{0};
  std::atomic<bool> stopping_{false};
};

}  // namespace q4j::cpu

#endif  // QLORA4J_SRC_CPU_THREAD_POOL_H_
