// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The paged store of the CPU packs: pages in a file (or, without a directory, in memory), frames in memory. What is fetched and
 * what leaves is decided in support/paged_frames.h; here one thread of the store reads and writes behind the caller's back.
 *
 * Operators have finished when they return, so a released frame may be read at once, and one thread that takes its jobs in the
 * order they were given needs no other order: a frame is filled after it was saved, a page is read after it was written. The
 * caller waits in one place, for the last job of the frame it acquires.
 *
 * The file is read and written in place with pread and pwrite, straight from and to the frames. It is not mapped: mapped pages
 * count as the process's memory, and a disk that fails would be a signal instead of an error.
 */
#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "cpu_operators.h"
#include "error.h"
#include "host_memory.h"
#include "paged_frames.h"

namespace q4j::cpu {

namespace {

long long ll(int64_t value) { return static_cast<long long>(value); }

/** What lies behind the pages. Functions return 0 or an errno. */
class Backing {
 public:
  Backing() = default;
  ~Backing() {
    if (file_ >= 0) close(file_);
    std::free(memory_);
  }
  Backing(const Backing&) = delete;
  Backing& operator=(const Backing&) = delete;

  q4j_status open(const char* directory, int64_t pages, int64_t page_bytes) {
    const int64_t bytes = pages * page_bytes;
    if (directory == nullptr) {
      // From the system untouched and so without memory behind it, until a page is written back.
      memory_ = static_cast<unsigned char*>(std::calloc(static_cast<size_t>(pages), static_cast<size_t>(page_bytes)));
      Q4J_REQUIRE(memory_ != nullptr, Q4J_OUT_OF_DEVICE_MEMORY,
                  "paged_store_create: the system has no %lld bytes for %lld pages of %lld bytes", ll(bytes), ll(pages),
                  ll(page_bytes));
      return Q4J_OK;
    }
    std::string name = std::string(directory) + "/qlora4j-pages-XXXXXX";
    file_ = mkostemp(name.data(), O_CLOEXEC);
    if (file_ < 0) {
      const int error = errno;
      char text[128];
      Q4J_FAIL(Q4J_INVALID_ARGUMENT, "paged_store_create: cannot make a file for pages in the directory %s: %s (code=%d)",
               directory, strerror_r(error, text, sizeof text), error);
    }
    // Nobody else needs the name, and without one the space is given back however the process ends.
    unlink(name.c_str());
    // Now rather than when a training run is hours old. Asked first, because a file system that cannot reserve gets its blocks
    // written one by one, until it is full.
    struct statvfs system = {};
    int error = fstatvfs(file_, &system) != 0 ? errno : 0;
    if (error == 0 && system.f_blocks > 0 && system.f_bavail < static_cast<uint64_t>(bytes) / system.f_frsize) error = ENOSPC;
    if (error == 0) error = EINTR;
    while (error == EINTR) error = posix_fallocate(file_, 0, bytes);
    if (error != 0) {
      char text[128];
      Q4J_FAIL(Q4J_OUT_OF_DEVICE_MEMORY,
               "paged_store_create: the directory %s has no room for %lld pages of %lld bytes, %lld bytes in all: %s (code=%d)",
               directory, ll(pages), ll(page_bytes), ll(bytes), strerror_r(error, text, sizeof text), error);
    }
    return Q4J_OK;
  }

  int read(void* to, int64_t offset, int64_t bytes) const {
    if (memory_ != nullptr) {
      host_copy(to, memory_ + offset, bytes);
      return 0;
    }
    auto* rest = static_cast<unsigned char*>(to);
    while (bytes > 0) {
      const ssize_t count = pread(file_, rest, static_cast<size_t>(bytes), static_cast<off_t>(offset));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return errno;
      if (count == 0) return ENODATA;  // all of it was reserved, so somebody has cut the file
      rest += count;
      offset += count;
      bytes -= count;
    }
    return 0;
  }

  int write(const void* from, int64_t offset, int64_t bytes) {
    if (memory_ != nullptr) {
      host_copy(memory_ + offset, from, bytes);
      return 0;
    }
    const auto* rest = static_cast<const unsigned char*>(from);
    while (bytes > 0) {
      const ssize_t count = pwrite(file_, rest, static_cast<size_t>(bytes), static_cast<off_t>(offset));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return errno;
      rest += count;
      offset += count;
      bytes -= count;
    }
    return 0;
  }

 private:
  int file_ = -1;
  unsigned char* memory_ = nullptr;
};

/** Carries out what PagedFrames decides (support/paged_frames.h), on a thread of its own. */
class ThreadMover {
 public:
  ThreadMover(int64_t pages, int64_t page_bytes, int64_t frames)
      : pages_(pages),
        page_bytes_(page_bytes),
        job_of_frame_(static_cast<size_t>(frames), 0),
        save_of_page_(static_cast<size_t>(pages), 0) {}

  ~ThreadMover() {
    if (thread_.joinable()) {
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        stopping_ = true;
      }
      changed_.notify_all();
      thread_.join();
    }
    host_free(frame_memory_);
  }
  ThreadMover(const ThreadMover&) = delete;
  ThreadMover& operator=(const ThreadMover&) = delete;

  q4j_status allocate(const char* directory) {
    const auto frames = static_cast<int64_t>(job_of_frame_.size());
    void* memory = nullptr;
    Q4J_RETURN_IF_ERROR(host_allocate(frames * page_bytes_, &memory));
    frame_memory_ = static_cast<unsigned char*>(memory);
    if (frames < pages_) {
      Q4J_RETURN_IF_ERROR(backing_.open(directory, pages_, page_bytes_));
      host_bytes_ = pages_ * page_bytes_;
    }
    try {
      thread_ = std::thread([this] { work(); });
    } catch (const std::system_error&) {
      Q4J_FAIL(Q4J_DEVICE_ERROR, "paged_store_create: the system refuses to start a thread");
    }
    return Q4J_OK;
  }

  void* address(int64_t, int64_t frame) const { return frame_memory_ + frame * page_bytes_; }
  bool moves_clean_pages() const { return false; }
  int64_t host_bytes() const { return host_bytes_; }

  q4j_status fetch(int64_t page, int64_t frame, bool stored) {
    return submit({stored ? Job::kRead : Job::kClear, page, frame}, &job_of_frame_[static_cast<size_t>(frame)]);
  }

  q4j_status write_back(int64_t page, int64_t frame) {
    return submit({Job::kWrite, page, frame}, &save_of_page_[static_cast<size_t>(page)]);
  }

  q4j_status begin_work(int64_t, int64_t frame) { return wait_for(job_of_frame_[static_cast<size_t>(frame)]); }
  q4j_status end_work(int64_t, int64_t) { return Q4J_OK; }

  q4j_status copy(const q4j_paged_store_copy_params& p, int64_t frame, bool) {
    if (frame != no_frame) {
      Q4J_RETURN_IF_ERROR(wait_for(job_of_frame_[static_cast<size_t>(frame)]));
      unsigned char* page = static_cast<unsigned char*>(address(p.page, frame)) + p.offset;
      p.to_host != 0 ? host_copy(p.host, page, p.bytes) : host_copy(page, p.host, p.bytes);
      return Q4J_OK;
    }
    Q4J_RETURN_IF_ERROR(wait_for(save_of_page_[static_cast<size_t>(p.page)]));
    const int64_t start = p.page * page_bytes_ + p.offset;
    // What was never written reads as zeros, so a part of a page may be written alone.
    const int error = p.to_host != 0 ? backing_.read(p.host, start, p.bytes) : backing_.write(p.host, start, p.bytes);
    return error == 0 ? Q4J_OK : fail_to_move({p.to_host != 0 ? Job::kRead : Job::kWrite, p.page, no_frame}, error);
  }

 private:
  struct Job {
    enum Kind { kRead, kClear, kWrite } kind;
    int64_t page;
    int64_t frame;
  };

  q4j_status fail_to_move(const Job& job, int error) const {
    char text[128];
    Q4J_FAIL(Q4J_DEVICE_ERROR,
             "paged_store: %s page %lld of %lld bytes failed: %s (code=%d); the store cannot be used any more",
             job.kind == Job::kWrite ? "writing" : "reading", ll(job.page), ll(page_bytes_),
             error == ENODATA ? "the file has become too short" : strerror_r(error, text, sizeof text), error);
  }

  /** Gives the thread a job; *ticket becomes its number. Throws std::bad_alloc. */
  q4j_status submit(const Job& job, int64_t* ticket) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (error_ != 0) return fail_to_move(failed_, error_);
      jobs_.push_back(job);
      *ticket = ++submitted_;
    }
    changed_.notify_all();
    return Q4J_OK;
  }

  /** Waits for the job of this number; 0 for none. After a failure no page can be trusted. */
  q4j_status wait_for(int64_t ticket) {
    if (done_.load(std::memory_order_acquire) >= ticket) return Q4J_OK;
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return done_.load(std::memory_order_relaxed) >= ticket || error_ != 0; });
    return error_ == 0 ? Q4J_OK : fail_to_move(failed_, error_);
  }

  int carry_out(const Job& job) {
    void* memory = address(job.page, job.frame);
    if (job.kind == Job::kWrite) return backing_.write(memory, job.page * page_bytes_, page_bytes_);
    if (job.kind == Job::kRead) return backing_.read(memory, job.page * page_bytes_, page_bytes_);
    host_fill(memory, 0, page_bytes_);
    return 0;
  }

  void work() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return stopping_ || (!jobs_.empty() && error_ == 0); });
      // What is not done yet is for frames and pages that are about to be freed.
      if (stopping_) return;
      const Job job = jobs_.front();
      jobs_.pop_front();
      lock.unlock();
      const int error = carry_out(job);
      lock.lock();
      if (error != 0) {
        // The jobs behind it would overwrite frames that were not saved.
        error_ = error;
        failed_ = job;
      } else {
        done_.fetch_add(1, std::memory_order_release);
      }
      changed_.notify_all();
    }
  }

  const int64_t pages_;
  const int64_t page_bytes_;
  int64_t host_bytes_ = 0;
  Backing backing_;
  unsigned char* frame_memory_ = nullptr;
  std::vector<int64_t> job_of_frame_; /* number of the last job that fills it */
  std::vector<int64_t> save_of_page_; /* number of the last job that wrote it back */
  int64_t submitted_ = 0;

  std::mutex mutex_;
  std::condition_variable changed_; /* there is a job, one is done, one has failed, or the end has come */
  std::deque<Job> jobs_;
  std::atomic<int64_t> done_{0};
  int error_ = 0; /* the errno of the first job that failed */
  Job failed_ = {};
  bool stopping_ = false;
  std::thread thread_;
};

struct Store {
  Store(int64_t pages, int64_t page_bytes, int64_t frames)
      : mover(pages, page_bytes, frames), frames_of(mover, pages, page_bytes, frames) {}

  ThreadMover mover;
  PagedFrames<ThreadMover> frames_of;
};

Store& store_of(void* store) { return *static_cast<Store*>(store); }

}  // namespace

q4j_status paged_store_create(q4j_pack_context*, const q4j_paged_store_create_params* p) {
  Q4J_REQUIRE(p->strategy != Q4J_PAGING_MANAGED, Q4J_UNSUPPORTED,
              "paged_store_create: a CPU pack has no managed memory; page with copies");
  return with_host_memory("paged_store_create", [&]() -> q4j_status {
    auto store = std::make_unique<Store>(p->pages, p->page_bytes, paged_frame_count(*p));
    Q4J_RETURN_IF_ERROR(store->mover.allocate(p->directory));
    *p->store = store.release();
    return Q4J_OK;
  });
}

q4j_status paged_store_destroy(q4j_pack_context*, const q4j_paged_store_destroy_params* p) {
  delete &store_of(p->store);
  return Q4J_OK;
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

}  // namespace q4j::cpu
