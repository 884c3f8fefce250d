// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#include "thread_pool.h"

#include <immintrin.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <system_error>
#include <thread>

namespace q4j::cpu {

namespace {

// How long a waiting thread spins before it sleeps. Waking a sleeping thread costs 5 to 50 microseconds, on a virtual machine
// more, and the pause between two operators of a training step is shorter than this.
constexpr std::chrono::microseconds kSpin{40};

static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t), "futex works on plain 32-bit words");

void futex_wait(std::atomic<uint32_t>& word, uint32_t expected) {
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

void futex_wake(std::atomic<uint32_t>& word, int count) {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}

// Makes 1 to 0; says whether this thread was the one.
bool take(std::atomic<uint32_t>& offered) {
  uint32_t one = 1;
  return offered.compare_exchange_strong(one, 0);
}

// Spins until ready() or the time is up; says whether it became ready.
template <class Ready>
bool spin(Ready ready) {
  for (int i = 0; i < 64; ++i) {
    if (ready()) return true;
    _mm_pause();
  }
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 16; ++i) {
      if (ready()) return true;
      _mm_pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

// First line of a small file; false when it cannot be read.
bool read_line(const std::string& path, char* line, int capacity) {
  std::FILE* file = std::fopen(path.c_str(), "re");
  if (file == nullptr) return false;
  const bool ok = std::fgets(line, capacity, file) != nullptr;
  std::fclose(file);
  return ok;
}

double quota_of_version_2(const std::string& directory) {
  char line[128];
  if (!read_line(directory + "/cpu.max", line, sizeof line)) return INFINITY;
  double quota = 0;
  double period = 0;
  // "max 100000" where there is no limit: the scan stops at the word.
  return std::sscanf(line, "%lf %lf", &quota, &period) == 2 && quota > 0 && period > 0 ? quota / period : INFINITY;
}

double quota_of_version_1(const std::string& directory) {
  char line[128];
  if (!read_line(directory + "/cpu.cfs_quota_us", line, sizeof line)) return INFINITY;
  const double quota = std::atof(line);
  if (!read_line(directory + "/cpu.cfs_period_us", line, sizeof line)) return INFINITY;
  const double period = std::atof(line);
  return quota > 0 && period > 0 ? quota / period : INFINITY;
}

// The tightest quota on the path from the process's own cgroup to the root. In a container the path often names a directory
// outside of its mount; then only the root, which is the container's own group, can be read.
template <class Quota>
double tightest(const std::string& mount, std::string group, Quota quota) {
  double limit = quota(mount);
  while (group.size() > 1) {
    limit = std::min(limit, quota(mount + group));
    group.resize(group.find_last_of('/'));
  }
  return limit;
}

double cgroup_quota() {
  double limit = std::min(tightest("/sys/fs/cgroup", "", quota_of_version_2),
                          std::min(tightest("/sys/fs/cgroup/cpu", "", quota_of_version_1),
                                   tightest("/sys/fs/cgroup/cpu,cpuacct", "", quota_of_version_1)));
  std::FILE* file = std::fopen("/proc/self/cgroup", "re");
  if (file == nullptr) return limit;
  char line[4096];
  while (std::fgets(line, sizeof line, file) != nullptr) {
    line[std::strcspn(line, "\n")] = '\0';
    // hierarchy:controllers:path; version 2 has an empty list of controllers.
    char* controllers = std::strchr(line, ':');
    char* group = controllers == nullptr ? nullptr : std::strchr(controllers + 1, ':');
    if (group == nullptr) continue;
    const std::string names(controllers + 1, group);
    if (names.empty()) {
      limit = std::min(limit, tightest("/sys/fs/cgroup", group + 1, quota_of_version_2));
    } else if (("," + names + ",").find(",cpu,") != std::string::npos) {
      limit = std::min(limit, tightest("/sys/fs/cgroup/" + names, group + 1, quota_of_version_1));
    }
  }
  std::fclose(file);
  return limit;
}

}  // namespace

int default_threads() {
  int allowed = 1;
  // A fixed cpu_set_t covers 1024 CPUs; larger machines need a larger set.
  for (int cpus = 1024; cpus <= 65536; cpus *= 4) {
    cpu_set_t* set = CPU_ALLOC(static_cast<size_t>(cpus));
    if (set == nullptr) break;
    const size_t bytes = CPU_ALLOC_SIZE(static_cast<size_t>(cpus));
    const bool ok = sched_getaffinity(0, bytes, set) == 0;
    if (ok) allowed = CPU_COUNT_S(bytes, set);
    CPU_FREE(set);
    if (ok) break;
  }
  const double quota = std::ceil(cgroup_quota());
  if (quota < allowed) allowed = static_cast<int>(quota);
  return std::max(allowed, 1);
}

struct ThreadPool::Worker {
  // Whether there is work that the worker may begin; it sleeps on this. Whoever makes it 0, the worker or the thread that
  // offered, has the work.
  alignas(64) std::atomic<uint32_t> offered{0};
  std::atomic<uint32_t> sleeps{0};
  std::thread thread;
};

ThreadPool::ThreadPool(int threads) {
  const int wanted = std::max(threads, 1) - 1;
  workers_.reset(new Worker[static_cast<size_t>(wanted)]);
  parts_.reset(new Part[static_cast<size_t>(wanted) + 1]);
  try {
    for (int i = 0; i < wanted; ++i) {
      Worker& worker = workers_[static_cast<size_t>(i)];
      worker.thread = std::thread([this, &worker, i] { work(worker, i + 1); });
      threads_ = i + 2;
    }
  } catch (const std::system_error&) {
    // The system's limit of threads is reached: go on with those that started.
  }
}

ThreadPool::~ThreadPool() {
  stopping_.store(true);
  for (int i = 0; i < threads_ - 1; ++i) {
    Worker& worker = workers_[static_cast<size_t>(i)];
    worker.offered.store(1);
    futex_wake(worker.offered, 1);
    worker.thread.join();
  }
}

void ThreadPool::dispatch(int count, bool all, Entry entry, void* function) {
  entry_ = entry;
  function_ = function;
  const int helpers = count - 1;
  pending_.store(static_cast<uint32_t>(helpers), std::memory_order_relaxed);
  for (int i = 0; i < helpers; ++i) {
    Worker& worker = workers_[static_cast<size_t>(i)];
    // Sequentially consistent on both sides: either the worker sees the offer before it sleeps, or we see that it sleeps.
    worker.offered.store(1);
    if (worker.sleeps.load() != 0) futex_wake(worker.offered, 1);
  }
  entry(function, 0);
  for (int i = 0; i < helpers && !all; ++i) {
    if (take(workers_[static_cast<size_t>(i)].offered)) pending_.fetch_sub(1);
  }
  const auto done = [this] { return pending_.load(std::memory_order_acquire) == 0; };
  if (spin(done)) return;
  caller_sleeps_.store(1);
  for (uint32_t left = pending_.load(); left != 0; left = pending_.load()) futex_wait(pending_, left);
  caller_sleeps_.store(0);
}

void ThreadPool::work(Worker& worker, int thread) {
  for (;;) {
    const auto offered = [&] { return worker.offered.load(std::memory_order_acquire) != 0; };
    if (!spin(offered)) {
      worker.sleeps.store(1);
      while (worker.offered.load() == 0) futex_wait(worker.offered, 0);
      worker.sleeps.store(0);
    }
    if (!take(worker.offered)) continue;
    if (stopping_.load()) return;
    entry_(function_, thread);
    if (pending_.fetch_sub(1) == 1 && caller_sleeps_.load() != 0) futex_wake(pending_, 1);
  }
}

}  // namespace q4j::cpu
