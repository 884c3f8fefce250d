// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The paged store of one pack on the CPU, through the ABI: whatever the order of calls, a page holds what was written to it;
 * and, where the pack pages to disk, what happens when the disk does not play along.
 *
 * usage: paged_store_test PACK.so [seed]
 */
#include <dirent.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "expect.h"
#include "qlora4j/context.h"
#include "qlora4j/operators.h"

namespace {

q4j_context* context = nullptr;

struct Counts {
  int64_t device_bytes = 0;
  int64_t host_bytes = 0;
  int64_t fetched = 0;
  int64_t written_back = 0;
  int64_t hits = 0;
  int64_t misses = 0;
};

/** A store whose calls are one line each. */
class Store {
 public:
  Store(int64_t pages, int64_t page_bytes, int64_t resident_bytes, const char* directory = nullptr,
        int32_t strategy = Q4J_PAGING_AUTO) {
    const q4j_paged_store_create_params p = {sizeof p, strategy, pages, page_bytes, resident_bytes, directory, &store_};
    status_ = q4j_paged_store_create(context, &p);
  }
  ~Store() { destroy(); }
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  q4j_status status() const { return status_; }
  void destroy() {
    if (store_ == nullptr) return;
    const q4j_paged_store_destroy_params p = {sizeof p, 0, store_};
    EXPECT(q4j_paged_store_destroy(context, &p) == Q4J_OK);
    store_ = nullptr;
  }
  q4j_status plan(const std::vector<int64_t>& order) {
    const q4j_paged_store_plan_params p = {sizeof p, 0, store_, static_cast<int64_t>(order.size()), order.data()};
    return q4j_paged_store_plan(context, &p);
  }
  q4j_status acquire(int64_t page, unsigned char** bytes) {
    void* memory = nullptr;
    const q4j_paged_store_acquire_params p = {sizeof p, 0, store_, page, &memory};
    const q4j_status status = q4j_paged_store_acquire(context, &p);
    *bytes = static_cast<unsigned char*>(memory);
    return status;
  }
  q4j_status release(int64_t page, bool dirty) {
    const q4j_paged_store_release_params p = {sizeof p, dirty ? 1 : 0, store_, page};
    return q4j_paged_store_release(context, &p);
  }
  q4j_status copy(bool to_host, int64_t page, int64_t offset, int64_t bytes, void* host) {
    const q4j_paged_store_copy_params p = {sizeof p, to_host ? 1 : 0, store_, page, offset, bytes, host};
    return q4j_paged_store_copy(context, &p);
  }
  Counts counts() {
    Counts c;
    const q4j_paged_store_statistics_params p = {sizeof p,        0,       store_,   &c.device_bytes, &c.host_bytes, &c.fetched,
                                                 &c.written_back, &c.hits, &c.misses};
    EXPECT(q4j_paged_store_statistics(context, &p) == Q4J_OK);
    return c;
  }

 private:
  void* store_ = nullptr;
  q4j_status status_;
};

std::vector<int64_t> round_of(int64_t pages) {
  std::vector<int64_t> order(static_cast<size_t>(pages));
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
  return order;
}

void survives_any_order(uint64_t seed, const char* directory) {
  std::mt19937_64 random(seed);
  const auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); };
  const int64_t pages = 1 + below(10);
  const int64_t budget = pages == 1 ? 1 : 2 + below(pages);
  const auto page_bytes = static_cast<size_t>(256 * (1 + below(80)));
  Store store(pages, static_cast<int64_t>(page_bytes), budget * static_cast<int64_t>(page_bytes) + below(256), directory);
  if (!EXPECT(store.status() == Q4J_OK)) return;
  std::vector<std::vector<unsigned char>> content(static_cast<size_t>(pages), std::vector<unsigned char>(page_bytes, 0));
  std::vector<int64_t> held;
  std::vector<int64_t> order;
  size_t step = 0;
  for (int call = 0; call < 300; ++call) {
    const int64_t what = below(100);
    if (what < 4) {
      order.resize(static_cast<size_t>(below(16)));
      for (int64_t& page : order) page = below(pages);
      step = 0;
      EXPECT(store.plan(order) == Q4J_OK);
    } else if (what < 50) {
      const int64_t page = !order.empty() && below(8) > 0 ? order[step++ % order.size()] : below(pages);
      unsigned char* bytes = nullptr;
      const q4j_status status = store.acquire(page, &bytes);
      std::vector<int64_t> different(held);
      std::sort(different.begin(), different.end());
      different.erase(std::unique(different.begin(), different.end()), different.end());
      const bool full = static_cast<int64_t>(different.size()) == std::min(pages, budget) &&
                        !std::binary_search(different.begin(), different.end(), page);
      EXPECT(status == (full ? Q4J_OUT_OF_DEVICE_MEMORY : Q4J_OK));
      if (status != Q4J_OK) continue;
      EXPECT(reinterpret_cast<uintptr_t>(bytes) % 64 == 0);
      std::vector<unsigned char>& expected = content[static_cast<size_t>(page)];
      EXPECT(std::memcmp(bytes, expected.data(), page_bytes) == 0);
      held.push_back(page);
      if (below(3) == 0) continue;  // read only
      for (size_t i = 0; i < page_bytes; i += 1 + static_cast<size_t>(below(97))) {
        bytes[i] = expected[i] = static_cast<unsigned char>(below(256));
      }
      EXPECT(store.release(page, true) == Q4J_OK);
      held.pop_back();
    } else if (what < 94) {
      if (held.empty()) continue;
      const auto which = held.begin() + below(static_cast<int64_t>(held.size()));
      EXPECT(store.release(*which, below(4) == 0) == Q4J_OK);
      held.erase(which);
    } else {
      const int64_t page = below(pages);
      const int64_t offset = below(static_cast<int64_t>(page_bytes));
      const int64_t count = below(static_cast<int64_t>(page_bytes) - offset + 1);
      std::vector<unsigned char> bytes(static_cast<size_t>(count));
      unsigned char* expected = content[static_cast<size_t>(page)].data() + offset;
      EXPECT(store.copy(true, page, offset, count, bytes.data()) == Q4J_OK);
      EXPECT(std::equal(bytes.begin(), bytes.end(), expected));
      for (unsigned char& byte : bytes) byte = static_cast<unsigned char>(below(256));
      EXPECT(store.copy(false, page, offset, count, bytes.data()) == Q4J_OK);
      std::copy(bytes.begin(), bytes.end(), expected);
    }
  }
  for (int64_t page = 0; page < pages; ++page) {
    std::vector<unsigned char> bytes(page_bytes);
    EXPECT(store.copy(true, page, 0, static_cast<int64_t>(page_bytes), bytes.data()) == Q4J_OK);
    EXPECT(bytes == content[static_cast<size_t>(page)]);
  }
  const Counts c = store.counts();
  EXPECT(c.device_bytes == std::min(pages, budget) * static_cast<int64_t>(page_bytes));
  // Some pages are still acquired: destroying the store is allowed all the same.
}

void names_what_is_wrong() {
  Store store(4, 512, 1024);
  unsigned char* bytes = nullptr;
  EXPECT(store.acquire(4, &bytes) == Q4J_INVALID_ARGUMENT);
  EXPECT_ERROR_TEXT("page 4 of 4");
  EXPECT(store.release(0, false) == Q4J_INVALID_ARGUMENT);
  EXPECT_ERROR_TEXT("page 0 is not acquired");
  EXPECT(store.acquire(0, &bytes) == Q4J_OK && store.acquire(1, &bytes) == Q4J_OK);
  EXPECT(store.acquire(2, &bytes) == Q4J_OUT_OF_DEVICE_MEMORY);
  EXPECT_ERROR_TEXT("all 2 resident pages are acquired; release one, or raise resident_bytes");
  EXPECT(store.release(0, false) == Q4J_OK && store.release(0, false) == Q4J_INVALID_ARGUMENT);
  EXPECT(store.acquire(2, &bytes) == Q4J_OK);
  EXPECT(store.plan({0, 4}) == Q4J_INVALID_ARGUMENT);
  EXPECT_ERROR_TEXT("order[1] is page 4 of 4");
  EXPECT(store.copy(true, 3, 500, 13, bytes) == Q4J_INVALID_ARGUMENT);
  EXPECT_ERROR_TEXT("13 bytes at 500 of page 3, of 4 pages of 512 bytes");
  EXPECT(Store(4, 512, 1023).status() == Q4J_INVALID_ARGUMENT);
  EXPECT_ERROR_TEXT("two pages");
  EXPECT(Store(1, 512, 512).status() == Q4J_OK);
  const int64_t huge = int64_t{1} << 46;
  EXPECT(Store(4, huge, 4 * huge).status() == Q4J_OUT_OF_DEVICE_MEMORY);
}

// ---------------------------------------------------------------- packs that page to disk

std::vector<std::string> files_in(const std::string& directory) {
  std::vector<std::string> names;
  DIR* open = opendir(directory.c_str());
  for (const dirent* entry = readdir(open); entry != nullptr; entry = readdir(open)) {
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  }
  closedir(open);
  return names;
}

/** The descriptor of the store's file, -1 when there is none: it has no name, but the kernel remembers which it had. */
int page_file() {
  int found = -1;
  DIR* open = opendir("/proc/self/fd");
  for (const dirent* entry = readdir(open); entry != nullptr; entry = readdir(open)) {
    char target[4096] = {};
    const std::string link = std::string("/proc/self/fd/") + entry->d_name;
    if (readlink(link.c_str(), target, sizeof target - 1) > 0 && std::strstr(target, "qlora4j-pages-") != nullptr) {
      found = std::atoi(entry->d_name);
    }
  }
  closedir(open);
  return found;
}

int64_t peak_kilobytes() {
  std::FILE* status = std::fopen("/proc/self/status", "r");
  long long peak = 0;
  char line[256];
  while (std::fgets(line, sizeof line, status) != nullptr) {
    if (std::sscanf(line, "VmHWM: %lld", &peak) == 1) break;
  }
  std::fclose(status);
  return peak;
}

void leaves_no_file(const std::string& directory) {
  {
    Store store(4, 4096, 2 * 4096, directory.c_str());
    EXPECT(store.status() == Q4J_OK);
    EXPECT(files_in(directory).empty());
    struct stat file = {};
    const int descriptor = page_file();
    EXPECT(descriptor >= 0 && fstat(descriptor, &file) == 0 && file.st_size == 4 * 4096);
    EXPECT(store.counts().host_bytes == 4 * 4096);
  }
  EXPECT(page_file() < 0);
  // A budget for all pages needs no file.
  Store store(4, 4096, 4 * 4096, directory.c_str());
  EXPECT(store.status() == Q4J_OK && page_file() < 0 && store.counts().host_bytes == 0);
}

void refuses_bad_directories(const std::string& directory) {
  const std::string missing = directory + "/missing";
  EXPECT(Store(4, 4096, 2 * 4096, missing.c_str()).status() == Q4J_INVALID_ARGUMENT);
  EXPECT_ERROR_TEXT((missing + ": No such file or directory (code=2)").c_str());
  EXPECT(Store(4, int64_t{1} << 45, int64_t{1} << 45, directory.c_str()).status() == Q4J_INVALID_ARGUMENT);
  // 128 TiB are more than any file system here takes; the frames stay untouched.
  EXPECT(Store(int64_t{1} << 24, 1 << 23, 2 << 23, directory.c_str()).status() == Q4J_OUT_OF_DEVICE_MEMORY);
  EXPECT_ERROR_TEXT(("directory " + directory + " has no room for 16777216 pages of 8388608 bytes").c_str());
  EXPECT(files_in(directory).empty() && page_file() < 0);
  EXPECT(Store(4, 4096, 8192, directory.c_str(), Q4J_PAGING_MANAGED).status() == Q4J_UNSUPPORTED);
  EXPECT_ERROR_TEXT("managed memory");
}

void reports_a_file_that_was_cut(const std::string& directory) {
  Store store(4, 4096, 2 * 4096, directory.c_str());
  unsigned char* bytes = nullptr;
  for (int64_t i = 0; i < 8; ++i) {
    EXPECT(store.acquire(i % 4, &bytes) == Q4J_OK && store.release(i % 4, i < 4) == Q4J_OK);
  }
  // All pages have been written, 2 and 3 lie in clean frames: the next call only reads.
  EXPECT(ftruncate(page_file(), 4096) == 0);
  EXPECT(store.acquire(1, &bytes) == Q4J_DEVICE_ERROR);
  EXPECT_ERROR_TEXT("reading page 1 of 4096 bytes failed: the file has become too short (code=");
  EXPECT(store.acquire(2, &bytes) == Q4J_DEVICE_ERROR);
  EXPECT_ERROR_TEXT("cannot be used any more");
}

void reports_a_page_that_was_not_written(const std::string& directory) {
  std::signal(SIGXFSZ, SIG_IGN);
  Store store(4, 4096, 2 * 4096, directory.c_str());
  EXPECT(store.plan(round_of(4)) == Q4J_OK);
  rlimit before = {};
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit tight = {4096, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &tight);  // page 0 can be written, page 1 cannot
  unsigned char* bytes = nullptr;
  q4j_status status = Q4J_OK;
  for (int64_t page = 0; page < 8 && status == Q4J_OK; ++page) {
    status = store.acquire(page % 4, &bytes);
    if (status == Q4J_OK) status = store.release(page % 4, true);
  }
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT(status == Q4J_DEVICE_ERROR);
  EXPECT_ERROR_TEXT("writing page 1 of 4096 bytes failed: File too large (code=27)");
}

/** 96 MB of pages through a window of 8 do not make the process larger than the window. */
void needs_no_memory_for_pages(const std::string& directory) {
  const int64_t page_bytes = 4 << 20;
  const int64_t before = peak_kilobytes();
  {
    Store store(24, page_bytes, 2 * page_bytes, directory.c_str());
    EXPECT(store.plan(round_of(24)) == Q4J_OK);
    for (int64_t i = 0; i < 48; ++i) {
      unsigned char* bytes = nullptr;
      if (!EXPECT(store.acquire(i % 24, &bytes) == Q4J_OK)) return;
      EXPECT(bytes[0] == (i < 24 ? 0 : i % 24 + 1) && bytes[page_bytes - 1] == bytes[0]);
      std::memset(bytes, static_cast<int>(i % 24 + 1), static_cast<size_t>(page_bytes));
      EXPECT(store.release(i % 24, true) == Q4J_OK);
    }
    EXPECT(store.counts().misses == 0);
  }
#if !defined(__SANITIZE_ADDRESS__)
  EXPECT(peak_kilobytes() - before < 16 << 10);
#else
  static_cast<void>(before);
#endif
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: paged_store_test PACK.so [seed]\n");
    return 2;
  }
  q4j_context_options options = {};
  options.size = sizeof options;
  const q4j_status opened = q4j_context_create(argv[1], nullptr, &options, &context);
  if (opened != Q4J_OK) {
    std::fprintf(stderr, "paged_store_test: %s\n", q4j_last_error());
    return opened == Q4J_UNSUPPORTED ? 77 : 1;
  }
  const uint64_t first = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  const char* temporary = std::getenv("TMPDIR");
  std::string directory = std::string(temporary == nullptr ? "/tmp" : temporary) + "/paged-store-test-XXXXXX";
  EXPECT(mkdtemp(directory.data()) != nullptr);
  for (uint64_t seed = first; seed < first + 100; ++seed) {
    survives_any_order(seed, nullptr);
    survives_any_order(seed, directory.c_str());
  }
  names_what_is_wrong();
  const std::string name = q4j_pack_name(context);
  if (name.rfind("cpu-", 0) == 0) {
    leaves_no_file(directory);
    refuses_bad_directories(directory);
    reports_a_file_that_was_cut(directory);
    reports_a_page_that_was_not_written(directory);
    needs_no_memory_for_pages(directory);
  }
  EXPECT(rmdir(directory.c_str()) == 0);
  q4j_context_destroy(context);
  return q4j::test::finish(("paged_store_test " + name).c_str());
}
