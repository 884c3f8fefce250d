// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The threads of the CPU packs (cpu/thread_pool.h): every task runs once, whoever is awake to run it. */
#include "cpu/thread_pool.h"

#include <sched.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <random>
#include <thread>
#include <vector>

#include "expect.h"

namespace {

using q4j::cpu::ThreadPool;

constexpr int kThreads[] = {1, 2, 3, 8};

void wait(int microseconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(microseconds);
  while (std::chrono::steady_clock::now() < end) {
  }
}

/** Calls `start(tasks, f)` with many numbers of tasks, after pauses in which workers spin or go to sleep. */
template <class Start>
void every_task_runs_once(const ThreadPool& pool, Start start) {
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    const auto tasks = static_cast<int64_t>(random() % 40);
    const bool slow = random() % 50 == 0;
    std::vector<std::atomic<int>> runs(static_cast<size_t>(tasks));
    std::vector<std::atomic<int>> inside(static_cast<size_t>(pool.threads()));
    std::atomic<int> wrong{0};
    start(tasks, [&](int64_t task, int thread) {
      // A thread runs one task at a time, so its number may index scratch memory.
      if (thread < 0 || thread >= pool.threads() || ++inside[static_cast<size_t>(thread)] != 1) ++wrong;
      ++runs[static_cast<size_t>(task)];
      if (slow) wait(20);
      --inside[static_cast<size_t>(thread)];
    });
    for (const std::atomic<int>& count : runs) wrong += count != 1;
    EXPECT(wrong == 0);
    if (round % 20 == 0) wait(static_cast<int>(random() % 200));
    if (round % 100 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

/** A task that waits for ever unless another thread runs the other one shows that both are at work. */
void threads_work_together() {
  ThreadPool pool(2);
  for (int round = 0; round < 200; ++round) {
    std::atomic<int> arrived{0};
    pool.run(2, [&](int) {
      ++arrived;
      while (arrived < 2) std::this_thread::yield();
    });
    EXPECT(arrived == 2);
    if (round % 10 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void run_calls_every_thread() {
  for (const int threads : kThreads) {
    ThreadPool pool(threads);
    for (int count = 1; count <= pool.threads(); ++count) {
      std::vector<std::atomic<int>> calls(static_cast<size_t>(count));
      pool.run(count, [&](int thread) { ++calls.at(static_cast<size_t>(thread)); });
      for (const std::atomic<int>& of_thread : calls) EXPECT(of_thread == 1);
    }
  }
}

/** Each of two threads takes the tasks of its own part from the first to the last, then those that are left of the other's. */
void parts_are_contiguous() {
  ThreadPool pool(2);
  const int64_t tasks = 64;
  for (int round = 0; round < 100; ++round) {
    std::vector<int64_t> order[2];
    pool.parallel_for_in_parts(tasks, [&](int64_t task, int thread) {
      order[thread].push_back(task);
      wait(2);
    });
    EXPECT(order[0].size() + order[1].size() == static_cast<size_t>(tasks));
    for (const int64_t thread : {0, 1}) {
      const std::vector<int64_t>& own = order[thread];
      int descents = 0;
      int changes = 0;
      for (size_t i = 1; i < own.size(); ++i) {
        const bool changed = own[i] / (tasks / 2) != own[i - 1] / (tasks / 2);
        changes += changed;
        descents += !changed && own[i] < own[i - 1];
      }
      EXPECT(descents == 0 && changes <= 1);
      // The first one is in the other's part only where the other thread, or this one later, has begun all of its own.
      if (!own.empty() && own[0] / (tasks / 2) != thread) EXPECT(order[1 - thread].size() >= static_cast<size_t>(tasks / 2));
    }
    if (round % 2 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

/** A thread whose worker does not get the processor does the work alone, without going to sleep for it. */
void a_worker_that_has_not_begun_is_not_waited_for() {
  cpu_set_t before;
  if (sched_getaffinity(0, sizeof before, &before) != 0) return;
  cpu_set_t one;
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++cpu) {
    if (CPU_ISSET(cpu, &before)) CPU_SET(cpu, &one);
  }
  ThreadPool pool(2);
  std::atomic<bool> possible{sched_setaffinity(0, sizeof one, &one) == 0};
  pool.run(2, [&](int thread) {
    if (thread == 0) return;
    const sched_param none = {};
    if (sched_setaffinity(0, sizeof one, &one) != 0 || sched_setscheduler(0, SCHED_IDLE, &none) != 0) possible = false;
  });
  const auto sleeps = [] {
    rusage usage = {};
    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_nvcsw;
  };
  if (possible) {
    const auto start = sleeps();
    int64_t runs = 0;
    for (int i = 0; i < 200; ++i) {
      pool.parallel_for(4, [&](int64_t, int thread) { runs += thread == 0; });
      wait(50);
    }
    // Now and then the worker gets the processor after all, begins, and loses it again.
    EXPECT(sleeps() - start < 50);
    EXPECT(runs > 400);
  } else {
    std::printf("thread_pool_test: threads cannot be tied to a processor here; that work is taken back was not tested\n");
  }
  sched_setaffinity(0, sizeof before, &before);
}

}  // namespace

int main() {
  for (const int threads : kThreads) {
    ThreadPool pool(threads);
    EXPECT(pool.threads() == threads);
    every_task_runs_once(pool, [&](int64_t tasks, const auto& f) { pool.parallel_for(tasks, f); });
    every_task_runs_once(pool, [&](int64_t tasks, const auto& f) { pool.parallel_for_in_parts(tasks, f); });
  }
  run_calls_every_thread();
  threads_work_together();
  parts_are_contiguous();
  a_worker_that_has_not_begun_is_not_waited_for();
  return q4j::test::finish("thread_pool_test");
}
