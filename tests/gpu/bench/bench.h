// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** What the benchmarks share: the pack under test, random data in its memory, rows, goals. */
#ifndef QLORA4J_GPU_BENCH_BENCH_H_
#define QLORA4J_GPU_BENCH_BENCH_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "device.h"
#include "harness.h"
#include "qlora4j/operators.h"
#include "support/cublaslt.h"

namespace q4j::bench {

using parity::params;
using parity::require;
using parity::text;

/** Device memory. */
class Memory {
 public:
  Memory(q4j_context* context, int64_t bytes) : context_(context), bytes_(bytes) {
    require(q4j_allocate(context_, bytes, &memory_), "allocate");
  }
  ~Memory() { q4j_free(context_, memory_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  void* at(int64_t offset = 0) const { return static_cast<unsigned char*>(memory_) + offset; }
  int64_t bytes() const { return bytes_; }

 private:
  q4j_context* context_;
  int64_t bytes_;
  void* memory_ = nullptr;
};

using MemoryPointer = std::unique_ptr<Memory>;

/** One measured case. */
struct Row {
  std::string operator_name;
  std::string what; /* shape and options */
  double seconds = 0;
  double bytes = 0;         /* read and written at least; 0: the operator is bound by arithmetic */
  double operations = 0;    /* multiplications and additions */
  double rival_seconds = 0; /* cuBLASLt's bf16 product of the same size; 0: no rival */
};

enum class Limit { kAtLeast, kAtMost };

/** Measures the operators of one pack. */
class Session {
 public:
  Session(const Device& device, bool small);

  /** Measures this context's operators from here on; `rung` goes into the rows. */
  void use(q4j_context* context, const std::string& rung);

  const Device& device() const { return device_; }
  q4j_context* context() const { return context_; }
  bool small() const { return small_; }
  /** Whether every version is measured in turn: slow ones among them, so only a few shapes. */
  bool is_ladder() const { return !rung_.empty(); }
  bool supports(const char* operator_name) const { return q4j_supports(context_, operator_name) != 0; }
  /** The number, or a few of the same kind where only the program is rehearsed. */
  int64_t size(int64_t full, int64_t rehearsed) const { return small_ ? rehearsed : full; }

  /** NULL where the library is missing. */
  const cuda::CublasLt* cublaslt() const { return cublaslt_; }
  /** Bytes per second that a copy within the device reads and writes; 0 where it was not measured. */
  double copy_rate() const { return copy_rate_; }

  MemoryPointer allocate(int64_t bytes) const { return std::make_unique<Memory>(context_, bytes > 0 ? bytes : 1); }
  /** Normally distributed elements of `dtype`: zeros would draw less power and run at higher clocks. */
  MemoryPointer normal(int32_t dtype, int64_t count, double deviation) const;
  MemoryPointer uniform(int64_t count, double from, double to) const;
  MemoryPointer random_bytes(int64_t count) const;
  template <typename T>
  MemoryPointer holding(const std::vector<T>& values) const {
    MemoryPointer memory = allocate(static_cast<int64_t>(values.size() * sizeof(T)));
    require(q4j_copy_in(context_, memory->at(), values.data(), memory->bytes()), "copy_in");
    return memory;
  }

  double seconds(const Work& work) const { return device_.seconds(work, kRuns); }
  std::vector<double> seconds(const std::vector<Work>& works) const { return device_.seconds(works, kRuns); }

  void add(const Row& measured);
  /** A goal and what was measured for it. */
  void judge(const std::string& goal, double measured, Limit limit, double bound, const char* unit);
  /** A goal for which something is missing. */
  void cannot_judge(const std::string& goal, const std::string& reason);
  void note(const std::string& line);

  /** Prints all goals and the closing line. */
  void finish() const;
  void write_csv(const std::string& path, const std::string& pack_build) const;

 private:
  static constexpr int kRuns = 21;

  struct Goal {
    std::string name;
    std::string measured;
    std::string result;
  };
  struct Measured {
    Row row;
    std::string rung;
  };

  MemoryPointer repeat(const std::vector<uint8_t>& chunk, int64_t bytes) const;
  void measure_copy();

  const Device& device_;
  bool small_;
  q4j_context* context_ = nullptr;
  std::string rung_;
  const cuda::CublasLt* cublaslt_ = nullptr;
  double copy_rate_ = 0;
  std::vector<Measured> rows_;
  std::vector<Goal> goals_;
};

using Benchmark = void (*)(Session&);

/** Makes the benchmark of an operator known: define one as a static constant. `judges`: its goals, named where the pack lacks
 * it. */
class Entry {
 public:
  Entry(const char* operator_name, Benchmark benchmark, std::vector<std::string> goals = {});

  std::string operator_name;
  Benchmark benchmark;
  std::vector<std::string> goals;

  /** All of them, in the order of the ABI's operators. */
  static std::vector<const Entry*> all();
};

// ---------------------------------------------------------------- parts of calls

/** A random weight [n, k] as it is in use: NF4, blocks of 64, double quantization; in the pack's compute layout where it has
 * one. */
class RandomWeight {
 public:
  RandomWeight(const Session& session, int64_t n, int64_t k);
  RandomWeight(const RandomWeight&) = delete;
  RandomWeight& operator=(const RandomWeight&) = delete;

  const q4j_weight* get() const { return &weight_; }
  /** Bytes that a product reads of it. */
  double bytes() const { return bytes_; }
  const char* layout() const { return weight_.layout == Q4J_LAYOUT_PACKED ? "packed" : "canonical"; }

 private:
  q4j_weight weight_;
  double bytes_;
  MemoryPointer data_, absmax_, nested_absmax_;
};

/** The workspace that an operator asks for; sets the struct's fields. */
template <typename P>
MemoryPointer workspace(const Session& session, q4j_status (*size)(q4j_context*, const P*, int64_t*), P* p) {
  require(size(session.context(), p, &p->workspace_bytes), "workspace_size");
  MemoryPointer memory = session.allocate(p->workspace_bytes);
  p->workspace = p->workspace_bytes > 0 ? memory->at() : nullptr;
  return memory;
}

/** A product of cuBLASLt with the fastest of the algorithms that it proposes; falsy where it has none. */
class Rival {
 public:
  Rival(const Session& session, int64_t m, int64_t n, int64_t k);

  explicit operator bool() const { return best_ >= 0; }
  void run() const;

 private:
  const Session& session_;
  cuda::CublasLtProduct product_;
  MemoryPointer x_, w_, y_, workspace_;
  int best_ = -1;
};

}  // namespace q4j::bench

#endif  // QLORA4J_GPU_BENCH_BENCH_H_
