// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The GPU as a benchmark needs it: a stream, times, graphs. Compiled with Q4J_BENCH_CUDA it is the CUDA runtime; without, the
 * CPU plays it, which rehearses a benchmark and measures nothing.
 */
#ifndef QLORA4J_GPU_BENCH_DEVICE_H_
#define QLORA4J_GPU_BENCH_DEVICE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace q4j::bench {

using Work = std::function<void()>;

/** Recorded work of the stream, replayed by one call. */
class Graph {
 public:
  virtual ~Graph() = default;
  virtual void launch() const = 0;
  virtual int kernels() const = 0;
};

class Device {
 public:
  Device();
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  /** Whether times mean anything. */
  bool measures() const;
  void* stream() const;
  std::string name() const;
  /** "driver ... runtime ...", CUDA's numbers. */
  std::string versions() const;

  /**
   * Seconds that the stream needs for each of `works`: the median over `runs` runs, fewer where they take long. The works take
   * turns, so that a change of clocks meets all of them, and before every run the L2 cache is overwritten.
   */
  std::vector<double> seconds(const std::vector<Work>& works, int runs) const;
  double seconds(const Work& work, int runs) const { return seconds(std::vector<Work>{work}, runs)[0]; }

  /** Queues a copy within the device. */
  void copy(void* to, const void* from, int64_t bytes) const;
  void synchronize() const;

  /** Records what `work` queues on the stream; NULL, with the reason, where something of it cannot be recorded. */
  std::unique_ptr<Graph> record(const Work& work, std::string* reason) const;

 private:
  void flush() const;

  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace q4j::bench

#endif  // QLORA4J_GPU_BENCH_DEVICE_H_
