// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#include "device.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>

#if defined(Q4J_BENCH_CUDA)
#include <cuda_runtime.h>
#endif

namespace q4j::bench {

namespace {

double median(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

}  // namespace

#if defined(Q4J_BENCH_CUDA)

namespace {

// Runs before the first one that counts: code is loaded, clocks rise.
constexpr int kWarmUp = 3;
// Of work that takes long fewer runs will do, but these at least.
constexpr int kFewestRuns = 3;
constexpr double kMostSeconds = 1.0;

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "cuda_bench: %s: %s, %s\n", what, cudaGetErrorName(error), cudaGetErrorString(error));
  std::_Exit(2);
}

class CudaGraph : public Graph {
 public:
  CudaGraph(cudaGraph_t graph, cudaStream_t stream) : graph_(graph), stream_(stream) {}
  ~CudaGraph() override {
    if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
    cudaGraphDestroy(graph_);
  }
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;

  cudaError_t instantiate() { return cudaGraphInstantiate(&executable_, graph_, 0); }
  void launch() const override { check(cudaGraphLaunch(executable_, stream_), "cudaGraphLaunch"); }

  int kernels() const override {
    size_t count = 0;
    check(cudaGraphGetNodes(graph_, nullptr, &count), "cudaGraphGetNodes");
    std::vector<cudaGraphNode_t> nodes(count);
    if (count > 0) check(cudaGraphGetNodes(graph_, nodes.data(), &count), "cudaGraphGetNodes");
    int kernels = 0;
    for (const cudaGraphNode_t node : nodes) {
      cudaGraphNodeType type;
      check(cudaGraphNodeGetType(node, &type), "cudaGraphNodeGetType");
      if (type == cudaGraphNodeTypeKernel) ++kernels;
    }
    return kernels;
  }

 private:
  cudaGraph_t graph_;
  cudaStream_t stream_;
  cudaGraphExec_t executable_ = nullptr;
};

}  // namespace

struct Device::State {
  cudaStream_t stream = nullptr;
  void* flush = nullptr;
  size_t flush_bytes = 0;
};

Device::Device() : state_(std::make_unique<State>()) {
  check(cudaSetDevice(0), "cudaSetDevice");
  check(cudaStreamCreateWithFlags(&state_->stream, cudaStreamNonBlocking), "cudaStreamCreate");
  int l2 = 0;
  check(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, 0), "cudaDeviceGetAttribute");
  state_->flush_bytes = std::max<size_t>(4 * static_cast<size_t>(l2), size_t{128} << 20);
  check(cudaMalloc(&state_->flush, state_->flush_bytes), "cudaMalloc");
}

Device::~Device() {
  cudaFree(state_->flush);
  cudaStreamDestroy(state_->stream);
}

bool Device::measures() const { return true; }
void* Device::stream() const { return state_->stream; }

std::string Device::name() const {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  return properties.name;
}

std::string Device::versions() const {
  int driver = 0;
  int runtime = 0;
  check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  return "driver " + std::to_string(driver / 1000) + "." + std::to_string(driver % 1000 / 10) + " runtime " +
         std::to_string(runtime / 1000) + "." + std::to_string(runtime % 1000 / 10);
}

void Device::flush() const {
  check(cudaMemsetAsync(state_->flush, 0x5a, state_->flush_bytes, state_->stream), "cudaMemsetAsync");
}

std::vector<double> Device::seconds(const std::vector<Work>& works, int runs) const {
  std::vector<std::vector<double>> times(works.size());
  cudaEvent_t start;
  cudaEvent_t stop;
  check(cudaEventCreate(&start), "cudaEventCreate");
  check(cudaEventCreate(&stop), "cudaEventCreate");
  double spent = 0;
  for (int run = -kWarmUp; run < runs; ++run) {
    const double most = kMostSeconds * static_cast<double>(works.size());
    if (run < 0 && spent > most / 10) run = 0;
    if (run >= kFewestRuns && spent > most) break;
    for (size_t i = 0; i < works.size(); ++i) {
      // While the cache is overwritten the host queues the work, so that the time holds no launch latency.
      flush();
      check(cudaEventRecord(start, state_->stream), "cudaEventRecord");
      works[i]();
      check(cudaEventRecord(stop, state_->stream), "cudaEventRecord");
      check(cudaEventSynchronize(stop), "a benchmarked call");
      float milliseconds = 0;
      check(cudaEventElapsedTime(&milliseconds, start, stop), "cudaEventElapsedTime");
      spent += static_cast<double>(milliseconds) * 1e-3;
      if (run >= 0) times[i].push_back(static_cast<double>(milliseconds) * 1e-3);
    }
  }
  cudaEventDestroy(start);
  cudaEventDestroy(stop);
  std::vector<double> medians;
  for (const auto& all : times) medians.push_back(median(all));
  return medians;
}

void Device::copy(void* to, const void* from, int64_t bytes) const {
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, state_->stream), "cudaMemcpyAsync");
}

void Device::synchronize() const { check(cudaStreamSynchronize(state_->stream), "cudaStreamSynchronize"); }

std::unique_ptr<Graph> Device::record(const Work& work, std::string* reason) const {
  check(cudaStreamSynchronize(state_->stream), "cudaStreamSynchronize");
  check(cudaStreamBeginCapture(state_->stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  bool worked = true;
  try {
    work();
  } catch (const std::exception& failure) {
    worked = false;
    *reason = failure.what();
  }
  cudaGraph_t captured = nullptr;
  cudaError_t error = cudaStreamEndCapture(state_->stream, &captured);
  cudaGetLastError();
  if (error == cudaSuccess && captured != nullptr) {
    auto graph = std::make_unique<CudaGraph>(captured, state_->stream);
    if (!worked) return nullptr;
    error = graph->instantiate();
    if (error == cudaSuccess) return graph;
  }
  if (worked) *reason = cudaGetErrorString(error);
  return nullptr;
}

#else

namespace {

class HostGraph : public Graph {
 public:
  explicit HostGraph(Work work) : work_(std::move(work)) {}
  void launch() const override { work_(); }
  int kernels() const override { return 1; }

 private:
  Work work_;
};

}  // namespace

struct Device::State {};

Device::Device() : state_(std::make_unique<State>()) {}
Device::~Device() = default;

bool Device::measures() const { return false; }
void* Device::stream() const { return nullptr; }
std::string Device::name() const { return "the CPU, in place of a GPU"; }
std::string Device::versions() const { return "no CUDA"; }
void Device::flush() const {}

std::vector<double> Device::seconds(const std::vector<Work>& works, int) const {
  std::vector<double> times;
  for (const Work& work : works) {
    const auto start = std::chrono::steady_clock::now();
    work();
    times.push_back(median({std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()}));
  }
  return times;
}

void Device::copy(void* to, const void* from, int64_t bytes) const { std::memcpy(to, from, static_cast<size_t>(bytes)); }
void Device::synchronize() const {}
std::unique_ptr<Graph> Device::record(const Work& work, std::string*) const { return std::make_unique<HostGraph>(work); }

#endif

}  // namespace q4j::bench
