// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The optimizer over the adapter of a 12.8B model: rank 64 on the four linears of 40 layers, 320 tensors, 210 M parameters; and
 * the same with its states in a paged store.
 */
#include <algorithm>
#include <string>
#include <utility>

#include "bench.h"

namespace q4j::bench {
namespace {

constexpr int kLayers = 40;
constexpr int kTensorsPerLayer = 8;
constexpr int64_t kRank = 64;
// [out features, in features] of qkv, out, up and down.
constexpr int64_t kLinears[][2] = {{15360, 5120}, {5120, 5120}, {20480, 5120}, {5120, 20480}};
constexpr int32_t kBlock = 256;
constexpr double kMostMilliseconds = 1.6;
constexpr double kMostPagedRatio = 1.03;
// The forward and backward that a paged step hides its copies behind: 2048 tokens at 8000 tokens a second.
constexpr double kStandInSeconds = 0.25;

const char* const kTimeGoal = "adamw 210 M parameters, 320 tensors: milliseconds, at most 1.6";
const char* const kLaunchGoal = "adamw 210 M parameters, 320 tensors: kernel launches, at most 1";
const char* const kPagedGoal =
    "adamw_8bit step, states paged with half of them resident: times the resident step, at most 1.03";

std::vector<int64_t> lengths_of(const Session& session) {
  std::vector<int64_t> lengths;
  for (int layer = 0; layer < session.size(kLayers, 3); ++layer) {
    for (const auto& linear : kLinears) {
      lengths.push_back(session.size(kRank * linear[1], 300));
      lengths.push_back(session.size(linear[0] * kRank, 513));
    }
  }
  return lengths;
}

int64_t sum(const std::vector<int64_t>& values) {
  int64_t total = 0;
  for (const int64_t value : values) total += value;
  return total;
}

int64_t blocks_of(int64_t length) { return (length + kBlock - 1) / kBlock; }

/** The tensors of one kind in one allocation, each at a multiple of 256 bytes. */
struct Tensors {
  MemoryPointer memory;
  std::vector<void*> at;
};

int64_t padded(int64_t length) { return (length + 63) / 64 * 64; }

int64_t padded_sum(const std::vector<int64_t>& lengths) {
  int64_t total = 0;
  for (const int64_t length : lengths) total += padded(length);
  return total;
}

Tensors split(MemoryPointer memory, const std::vector<int64_t>& lengths) {
  Tensors all = {std::move(memory), {}};
  int64_t offset = 0;
  for (const int64_t length : lengths) {
    all.at.push_back(all.memory->at(offset * 4));
    offset += padded(length);
  }
  return all;
}

Tensors tensors(const Session& session, const std::vector<int64_t>& lengths, double deviation) {
  return split(session.normal(Q4J_F32, padded_sum(lengths), deviation), lengths);
}

template <typename P>
P settings(const std::vector<int64_t>& lengths, const std::vector<float>& decays, const Tensors& parameters,
           const Tensors& gradients) {
  auto p = params<P>();
  p.count = static_cast<int32_t>(lengths.size());
  p.t = 10;
  p.learning_rate = 2e-4;
  p.beta1 = 0.9;
  p.beta2 = 0.999;
  p.eps = 1e-8;
  p.gradient_scale = 0.5f;
  p.lengths = lengths.data();
  p.weight_decays = decays.data();
  p.parameters = parameters.at.data();
  p.gradients = gradients.at.data();
  return p;
}

void adamw(Session& session) {
  const std::vector<int64_t> lengths = lengths_of(session);
  const std::vector<float> decays(lengths.size(), 0.01f);
  const Tensors parameters = tensors(session, lengths, 0.02);
  const Tensors gradients = tensors(session, lengths, 1e-3);
  const Tensors first = tensors(session, lengths, 1e-3);
  const Tensors second = split(session.uniform(padded_sum(lengths), 1e-8, 1e-6), lengths);
  auto p = settings<q4j_adamw_params>(lengths, decays, parameters, gradients);
  p.first_moments = first.at.data();
  p.second_moments = second.at.data();
  const Work step = [&] { require(q4j_adamw(session.context(), &p), "adamw"); };
  const double time = session.seconds(step);
  // Four tensors are read and three written.
  session.add({"adamw", "210 M parameters in 320 tensors", time, 28.0 * static_cast<double>(sum(lengths))});
  session.judge(kTimeGoal, time * 1e3, Limit::kAtMost, kMostMilliseconds, "ms");
  std::string reason;
  const std::unique_ptr<Graph> graph = session.device().record(step, &reason);
  if (graph == nullptr) {
    session.cannot_judge(kLaunchGoal, "it cannot be recorded into a graph: " + reason);
  } else {
    session.judge(kLaunchGoal, graph->kernels(), Limit::kAtMost, 1, "launches");
  }
}

/** The 8-bit states of all tensors, laid out by the caller. */
struct States8 {
  std::vector<void*> first_codes, first_absmax, second_codes, second_absmax;

  void bind(q4j_adamw_8bit_params* p, size_t from) const {
    p->first_moment_codes = first_codes.data() + from;
    p->first_moment_absmax = first_absmax.data() + from;
    p->second_moment_codes = second_codes.data() + from;
    p->second_moment_absmax = second_absmax.data() + from;
  }
};

int64_t aligned(int64_t bytes) { return (bytes + 255) / 256 * 256; }

/** Bytes of the states of `count` tensors from `from` on, each part at a multiple of 256. */
int64_t state_bytes(const std::vector<int64_t>& lengths, size_t from, size_t count) {
  int64_t bytes = 0;
  for (size_t i = from; i < from + count; ++i) bytes += 2 * aligned(lengths[i]) + 2 * aligned(blocks_of(lengths[i]) * 4);
  return bytes;
}

/** Places the states of `count` tensors at `memory`. */
void place(const std::vector<int64_t>& lengths, size_t from, size_t count, void* memory, States8* states) {
  auto* next = static_cast<unsigned char*>(memory);
  for (size_t i = from; i < from + count; ++i) {
    const int64_t codes = aligned(lengths[i]);
    const int64_t absmax = aligned(blocks_of(lengths[i]) * 4);
    states->first_codes[i] = next;
    states->second_codes[i] = next + codes;
    states->first_absmax[i] = next + 2 * codes;
    states->second_absmax[i] = next + 2 * codes + absmax;
    next += 2 * (codes + absmax);
  }
}

States8 unplaced(size_t count) {
  const std::vector<void*> none(count, nullptr);
  return {none, none, none, none};
}

void adamw_8bit(Session& session) {
  const std::vector<int64_t> lengths = lengths_of(session);
  const std::vector<float> decays(lengths.size(), 0.01f);
  const Tensors parameters = tensors(session, lengths, 0.02);
  const Tensors gradients = tensors(session, lengths, 1e-3);
  // Zeros are the states before the first step; the warm-up makes them real ones.
  const MemoryPointer memory = session.allocate(state_bytes(lengths, 0, lengths.size()));
  require(q4j_fill(session.context(), memory->at(), 0, memory->bytes()), "fill");
  States8 states = unplaced(lengths.size());
  place(lengths, 0, lengths.size(), memory->at(), &states);
  auto p = settings<q4j_adamw_8bit_params>(lengths, decays, parameters, gradients);
  p.block_size = kBlock;
  states.bind(&p, 0);
  const double time = session.seconds([&] { require(q4j_adamw_8bit(session.context(), &p), "adamw_8bit"); });
  // Parameter, gradient and two codes are read, parameter and codes written; the maxima of blocks are 1/64 of that.
  const double bytes = 16.0 * static_cast<double>(sum(lengths)) + 16.0 * static_cast<double>(sum(lengths)) / kBlock;
  session.add({"adamw_8bit", "210 M parameters in 320 tensors", time, bytes});
}

/** A store of one page per layer. */
class Store {
 public:
  Store(const Session& session, int64_t pages, int64_t page_bytes, int64_t resident) : session_(session) {
    auto p = params<q4j_paged_store_create_params>();
    p.pages = pages;
    p.page_bytes = page_bytes;
    p.resident_bytes = resident * page_bytes;
    p.store = &store_;
    require(q4j_paged_store_create(session_.context(), &p), "paged_store_create");
    std::vector<int64_t> order(static_cast<size_t>(pages));
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
    auto plan = params<q4j_paged_store_plan_params>();
    plan.store = store_;
    plan.count = pages;
    plan.order = order.data();
    require(q4j_paged_store_plan(session_.context(), &plan), "paged_store_plan");
  }
  ~Store() {
    auto p = params<q4j_paged_store_destroy_params>();
    p.store = store_;
    q4j_paged_store_destroy(session_.context(), &p);
  }
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  void* acquire(int64_t page) const {
    void* memory = nullptr;
    auto p = params<q4j_paged_store_acquire_params>();
    p.store = store_;
    p.page = page;
    p.memory = &memory;
    require(q4j_paged_store_acquire(session_.context(), &p), "paged_store_acquire");
    return memory;
  }
  void release(int64_t page) const {
    auto p = params<q4j_paged_store_release_params>();
    p.store = store_;
    p.page = page;
    p.dirty = 1;
    require(q4j_paged_store_release(session_.context(), &p), "paged_store_release");
  }

 private:
  const Session& session_;
  void* store_ = nullptr;
};

void paged(Session& session) {
  if (!session.supports("adamw_8bit")) {
    session.cannot_judge(kPagedGoal, "the pack lacks adamw_8bit");
    return;
  }
  const std::vector<int64_t> lengths = lengths_of(session);
  const auto pages = static_cast<int64_t>(lengths.size()) / kTensorsPerLayer;
  const std::vector<float> decays(lengths.size(), 0.01f);
  const Tensors parameters = tensors(session, lengths, 0.02);
  const Tensors gradients = tensors(session, lengths, 1e-3);
  const int64_t page_bytes = state_bytes(lengths, 0, kTensorsPerLayer);  // all layers are alike
  const Store half(session, pages, page_bytes, std::max<int64_t>(pages / 2, 2));
  const Store all(session, pages, page_bytes, pages);

  // In place of forward and backward: copies within the device, which contend for its memory as those do.
  const int64_t bytes = session.size(int64_t{1} << 28, 1 << 12);
  const MemoryPointer from = session.random_bytes(bytes);
  const MemoryPointer to = session.allocate(bytes);
  const double copy = 2.0 * static_cast<double>(bytes) / session.copy_rate();
  const int copies = session.small() ? 1 : static_cast<int>(kStandInSeconds / copy) + 1;

  auto p = settings<q4j_adamw_8bit_params>(lengths, decays, parameters, gradients);
  p.count = kTensorsPerLayer;
  p.block_size = kBlock;
  States8 states = unplaced(lengths.size());
  const auto step = [&](const Store& store) {
    for (int i = 0; i < copies; ++i) session.device().copy(to->at(), from->at(), bytes);
    for (int64_t page = 0; page < pages; ++page) {
      const auto first = static_cast<size_t>(page) * kTensorsPerLayer;
      place(lengths, first, kTensorsPerLayer, store.acquire(page), &states);
      p.lengths = lengths.data() + first;
      p.weight_decays = decays.data() + first;
      p.parameters = parameters.at.data() + first;
      p.gradients = gradients.at.data() + first;
      states.bind(&p, first);
      require(q4j_adamw_8bit(session.context(), &p), "adamw_8bit");
      store.release(page);
    }
  };
  const std::vector<double> times = session.device().seconds({[&] { step(half); }, [&] { step(all); }}, 7);
  session.add({"paged_store_acquire", "step of 250 ms, 210 M 8-bit states, half resident", times[0]});
  session.add({"paged_store_acquire", "step of 250 ms, 210 M 8-bit states, all resident", times[1]});
  session.judge(kPagedGoal, times[0] / times[1], Limit::kAtMost, kMostPagedRatio, "x resident");
}

void gradient_norm(Session& session) {
  const std::vector<int64_t> lengths = lengths_of(session);
  const Tensors gradients = tensors(session, lengths, 1e-3);
  const MemoryPointer result = session.allocate(8);
  auto p = params<q4j_gradient_norm_params>();
  p.count = static_cast<int32_t>(lengths.size());
  p.tensors = gradients.at.data();
  p.lengths = lengths.data();
  p.result = result->at();
  const double time = session.seconds([&] { require(q4j_gradient_norm(session.context(), &p), "gradient_norm"); });
  session.add({"gradient_norm", "210 M elements in 320 tensors", time, 4.0 * static_cast<double>(sum(lengths))});
}

const Entry norm_entry("gradient_norm", &gradient_norm);
const Entry adamw_entry("adamw", &adamw, {kTimeGoal, kLaunchGoal});
const Entry adamw_8bit_entry("adamw_8bit", &adamw_8bit);
const Entry paged_entry("paged_store_acquire", &paged, {kPagedGoal});

}  // namespace
}  // namespace q4j::bench
