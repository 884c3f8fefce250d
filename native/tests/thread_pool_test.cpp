// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The threads of the CPU packs (cpu/thread_pool.h): every task runs once, whoever is awake to run it. */
#include "cpu/thread_pool.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <random>
#include <set>
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
      std::mutex mutex;
      std::multiset<int> numbers;
      pool.run(count, [&](int thread) {
        const std::lock_guard<std::mutex> lock(mutex);
        numbers.insert(thread);
      });
      EXPECT(static_cast<int>(numbers.size()) == count);
      EXPECT(*numbers.begin() == 0 && *numbers.rbegin() == count - 1);
    }
  }
}

/** Without others to help, a thread takes the tasks of its own part from the first to the last, then those that are left. */
void parts_are_contiguous() {
  ThreadPool pool(2);
  const int64_t tasks = 64;
  for (int round = 0; round < 100; ++round) {
    std::vector<int64_t> order[2];
    pool.parallel_for_in_parts(tasks, [&](int64_t task, int thread) {
      order[thread].push_back(task);
      wait(2);
    });
    for (const int thread : {0, 1}) {
      if (order[thread].empty()) continue;
      EXPECT(order[thread].front() >= tasks / 2 * thread || order[1 - thread].size() > tasks / 2);
      int descents = 0;
      for (size_t i = 1; i < order[thread].size(); ++i) descents += order[thread][i] < order[thread][i - 1];
      EXPECT(descents <= 1);
    }
    if (round % 2 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
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
  return q4j::test::finish("thread_pool_test");
}
