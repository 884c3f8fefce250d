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
  // Number of pieces of work posted so far; the worker sleeps on it.
  alignas(64) std::atomic<uint32_t> posted{0};
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
    worker.posted.fetch_add(1);
    futex_wake(worker.posted, 1);
    worker.thread.join();
  }
}

void ThreadPool::dispatch(int count, Entry entry, void* function) {
  entry_ = entry;
  function_ = function;
  const int helpers = count - 1;
  pending_.store(static_cast<uint32_t>(helpers), std::memory_order_relaxed);
  for (int i = 0; i < helpers; ++i) {
    Worker& worker = workers_[static_cast<size_t>(i)];
    // Sequentially consistent on both sides: either the worker sees the new number before it sleeps, or we see that it sleeps.
    worker.posted.fetch_add(1);
    if (worker.sleeps.load() != 0) futex_wake(worker.posted, 1);
  }
  entry(function, 0);
  const auto done = [this] { return pending_.load(std::memory_order_acquire) == 0; };
  if (spin(done)) return;
  caller_sleeps_.store(1);
  for (uint32_t left = pending_.load(); left != 0; left = pending_.load()) futex_wait(pending_, left);
  caller_sleeps_.store(0);
}

void ThreadPool::work(Worker& worker, int thread) {
  uint32_t seen = 0;
  for (;;) {
    const auto posted = [&] { return worker.posted.load(std::memory_order_acquire) != seen; };
    if (!spin(posted)) {
      worker.sleeps.store(1);
      while (worker.posted.load() == seen) futex_wait(worker.posted, seen);
      worker.sleeps.store(0);
    }
    ++seen;
    if (stopping_.load()) return;
    entry_(function_, thread);
    if (pending_.fetch_sub(1) == 1 && caller_sleeps_.load() != 0) futex_wake(pending_, 1);
  }
}

void Barrier::wait() {
  const uint32_t phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.fetch_add(1);
    if (sleepers_.load() != 0) futex_wake(phase_, static_cast<int>(count_));
    return;
  }
  const auto passed = [&] { return phase_.load(std::memory_order_acquire) != phase; };
  if (spin(passed)) return;
  sleepers_.fetch_add(1);
  while (phase_.load() == phase) futex_wait(phase_, phase);
  sleepers_.fetch_sub(1);
}

}  // namespace q4j::cpu
