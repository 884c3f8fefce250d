// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The linear operators on NF4 weights with a LoRA branch, against cuBLASLt's bf16 product of the same size without one. */
#include <algorithm>
#include <cmath>
#include <string>

#include "bench.h"

namespace q4j::bench {
namespace {

constexpr int32_t kRank = 64;
constexpr double kBandwidthShare = 0.8;

struct Shape {
  int64_t n;
  int64_t k;
};
constexpr Shape kShapes[] = {{4096, 4096}, {11008, 4096}, {15360, 5120}, {5120, 20480}};
constexpr int64_t kRows[] = {1, 8, 64, 512, 2048, 4096, 8192};

/** The ladder's simplest versions are a hundred times slower than its last ones. */
bool measured(const Session& session, const Shape& shape, int64_t rows) {
  return !session.is_ladder() || (shape.n != 11008 && shape.n != 15360 && (rows == 1 || rows == 64 || rows == 2048));
}

std::string name_of(const Shape& s) { return text("%lld x %lld", static_cast<long long>(s.n), static_cast<long long>(s.k)); }

/** What the forward with a branch may take, in times of cuBLASLt's product without one; 0: no goal. */
double most_ratio(int64_t m) { return m >= 2048 ? 1.05 : m >= 512 ? 1.15 : 0.0; }

std::string ratio_goal(const Shape& s, int64_t m) {
  return text("linear_forward lora %d %s m %lld: times cuBLASLt bf16 alone, at most %.2f", kRank, name_of(s).c_str(),
              static_cast<long long>(m), most_ratio(m));
}

std::string stream_goal(const Shape& s) {
  return text("linear_forward %s m 1, a graph over 1 GB of weights: share of the copy bandwidth, at least 0.8",
              name_of(s).c_str());
}

/** A branch of rank 64 and what a call needs beside the weight. */
struct Branch {
  Branch(const Session& session, int64_t m, int64_t n, int64_t k)
      : a(session.normal(Q4J_F32, kRank * k, 1.0 / std::sqrt(static_cast<double>(k)))),
        b(session.normal(Q4J_F32, n * kRank, 0.02)),
        inner(session.normal(Q4J_F32, m * kRank, 1.0)),
        lora(params<q4j_lora>()) {
    lora.rank = kRank;
    lora.s = 2.0f;
    lora.compute = Q4J_LORA_FAST;
    lora.a = a->at();
    lora.b = b->at();
    lora.dropout.size = sizeof lora.dropout;
  }

  MemoryPointer a, b, inner;
  q4j_lora lora;
};

double product(int64_t m, int64_t n, int64_t k) {
  return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
}

double branch_operations(int64_t m, int64_t n, int64_t k) { return product(m, kRank, k) + product(m, n, kRank); }

Shape sized(const Session& session, const Shape& shape) { return {session.size(shape.n, 48), session.size(shape.k, 128)}; }

/** Decoding: every weight is read once per token and nothing is read twice, as in a model that is larger than any cache. */
void stream(Session& session, const Shape& shape) {
  const Shape s = sized(session, shape);
  const std::string goal = stream_goal(shape);
  std::vector<std::unique_ptr<RandomWeight>> weights;
  double bytes = 0;
  while (weights.empty() || bytes < static_cast<double>(session.size(int64_t{1} << 30, 1))) {
    weights.push_back(std::make_unique<RandomWeight>(session, s.n, s.k));
    bytes += weights.back()->bytes();
  }
  const MemoryPointer x = session.normal(Q4J_BF16, s.k, 1.0);
  const MemoryPointer y = session.allocate(s.n * 2);
  auto p = params<q4j_linear_forward_params>();
  p.dtype = Q4J_BF16;
  p.m = 1;
  p.weight = weights[0]->get();
  p.x = x->at();
  p.ldx = s.k;
  p.y = y->at();
  p.ldy = s.n;
  const MemoryPointer scratch = workspace(session, q4j_linear_forward_workspace_size, &p);
  std::string reason;
  const std::unique_ptr<Graph> graph = session.device().record(
      [&] {
        for (const auto& weight : weights) {
          p.weight = weight->get();
          require(q4j_linear_forward(session.context(), &p), "linear_forward");
        }
      },
      &reason);
  if (graph == nullptr) {
    session.cannot_judge(goal, "it cannot be recorded into a graph: " + reason);
    return;
  }
  const double time = session.seconds([&] { graph->launch(); });
  session.add({"linear_forward",
               text("nf4+dq %s %s m 1, graph of %zu weights", weights[0]->layout(), name_of(shape).c_str(), weights.size()),
               time, bytes});
  session.judge(goal, bytes / time / session.copy_rate(), Limit::kAtLeast, kBandwidthShare, "of copy");
}

void forward(Session& session) {
  for (const Shape& shape : kShapes) {
    if (!measured(session, shape, 1)) continue;
    const Shape s = sized(session, shape);
    {
      const RandomWeight weight(session, s.n, s.k);
      for (const int64_t rows : kRows) {
        if (!measured(session, shape, rows)) continue;
        const int64_t m = session.size(rows, std::min<int64_t>(rows, 9));
        const Branch branch(session, m, s.n, s.k);
        const MemoryPointer x = session.normal(Q4J_BF16, m * s.k, 1.0);
        const MemoryPointer y = session.allocate(m * s.n * 2);
        auto p = params<q4j_linear_forward_params>();
        p.dtype = Q4J_BF16;
        p.m = m;
        p.weight = weight.get();
        p.x = x->at();
        p.ldx = s.k;
        p.y = y->at();
        p.ldy = s.n;
        q4j_linear_forward_params with_branch = p;
        with_branch.lora = &branch.lora;
        with_branch.xa = branch.inner->at();
        const MemoryPointer scratch = workspace(session, q4j_linear_forward_workspace_size, &p);
        const MemoryPointer branch_scratch = workspace(session, q4j_linear_forward_workspace_size, &with_branch);
        const Rival rival(session, m, s.n, s.k);
        std::vector<Work> works = {[&] { require(q4j_linear_forward(session.context(), &p), "linear_forward"); },
                                   [&] { require(q4j_linear_forward(session.context(), &with_branch), "linear_forward"); }};
        if (rival) works.emplace_back([&] { rival.run(); });
        const std::vector<double> times = session.seconds(works);
        const double rival_time = rival ? times[2] : 0.0;
        const std::string what =
            text("nf4+dq %s %s m %lld", weight.layout(), name_of(shape).c_str(), static_cast<long long>(rows));
        const double bytes = m > 64 ? 0.0 : weight.bytes() + 2.0 * static_cast<double>(m * (s.n + s.k));
        session.add({"linear_forward", what, times[0], bytes, product(m, s.n, s.k), rival_time});
        session.add({"linear_forward", what + text(" lora %d", kRank), times[1], bytes,
                     product(m, s.n, s.k) + branch_operations(m, s.n, s.k), rival_time});
        if (most_ratio(rows) == 0) continue;
        if (rival) {
          session.judge(ratio_goal(shape, rows), times[1] / rival_time, Limit::kAtMost, most_ratio(rows), "x cuBLASLt");
        } else {
          session.cannot_judge(ratio_goal(shape, rows), "no cuBLASLt");
        }
      }
    }
    stream(session, shape);
  }
}

void backward_input(Session& session) {
  for (const Shape& shape : kShapes) {
    const Shape s = sized(session, shape);
    const RandomWeight weight(session, s.n, s.k);
    for (const int64_t rows : {512, 2048, 8192}) {
      if (!measured(session, shape, rows)) continue;
      const int64_t m = session.size(rows, 9);
      const Branch branch(session, m, s.n, s.k);
      const MemoryPointer dy = session.normal(Q4J_BF16, m * s.n, 1.0);
      const MemoryPointer dx = session.allocate(m * s.k * 2);
      auto p = params<q4j_linear_backward_input_params>();
      p.dtype = Q4J_BF16;
      p.m = m;
      p.n = s.n;
      p.k = s.k;
      p.weight = weight.get();
      p.lora = &branch.lora;
      p.dy = dy->at();
      p.lddy = s.n;
      p.dx = dx->at();
      p.lddx = s.k;
      p.dyb = branch.inner->at();
      const MemoryPointer scratch = workspace(session, q4j_linear_backward_input_workspace_size, &p);
      const Rival rival(session, m, s.k, s.n);
      std::vector<Work> works = {[&] { require(q4j_linear_backward_input(session.context(), &p), "linear_backward_input"); }};
      if (rival) works.emplace_back([&] { rival.run(); });
      const std::vector<double> times = session.seconds(works);
      session.add(
          {"linear_backward_input",
           text("nf4+dq %s %s m %lld lora %d", weight.layout(), name_of(shape).c_str(), static_cast<long long>(rows), kRank),
           times[0], 0, product(m, s.n, s.k) + branch_operations(m, s.n, s.k), rival ? times[1] : 0.0});
    }
  }
}

void lora_weight_gradient(Session& session) {
  for (const Shape& shape : kShapes) {
    const Shape s = sized(session, shape);
    const int64_t m = session.size(4096, 9);
    const Branch branch(session, m, s.n, s.k);
    const MemoryPointer x = session.normal(Q4J_BF16, m * s.k, 1.0);
    const MemoryPointer dy = session.normal(Q4J_BF16, m * s.n, 1.0);
    const MemoryPointer dyb = session.normal(Q4J_F32, m * kRank, 1.0);
    const MemoryPointer da = session.normal(Q4J_F32, kRank * s.k, 1.0);
    const MemoryPointer db = session.normal(Q4J_F32, s.n * kRank, 1.0);
    auto p = params<q4j_lora_weight_gradient_params>();
    p.dtype = Q4J_BF16;
    p.m = m;
    p.n = s.n;
    p.k = s.k;
    p.lora = &branch.lora;
    p.x = x->at();
    p.ldx = s.k;
    p.dy = dy->at();
    p.lddy = s.n;
    p.xa = branch.inner->at();
    p.dyb = dyb->at();
    p.da = da->at();
    p.db = db->at();
    const MemoryPointer scratch = workspace(session, q4j_lora_weight_gradient_workspace_size, &p);
    const double time =
        session.seconds([&] { require(q4j_lora_weight_gradient(session.context(), &p), "lora_weight_gradient"); });
    // x and dy are read once; the rest is small.
    session.add({"lora_weight_gradient", text("%s m 4096 lora %d", name_of(shape).c_str(), kRank), time,
                 2.0 * static_cast<double>(m * (s.n + s.k)), product(m, s.n, kRank) + product(m, kRank, s.k)});
  }
}

void weight_gradient(Session& session) {
  const Shape s = sized(session, {4096, 4096});
  const int64_t m = session.size(4096, 9);
  const MemoryPointer x = session.normal(Q4J_BF16, m * s.k, 1.0);
  const MemoryPointer dy = session.normal(Q4J_BF16, m * s.n, 1.0);
  const MemoryPointer dw = session.normal(Q4J_F32, s.n * s.k, 1.0);
  auto p = params<q4j_linear_weight_gradient_params>();
  p.dtype = Q4J_BF16;
  p.m = m;
  p.n = s.n;
  p.k = s.k;
  p.x = x->at();
  p.ldx = s.k;
  p.dy = dy->at();
  p.lddy = s.n;
  p.dw = dw->at();
  const MemoryPointer scratch = workspace(session, q4j_linear_weight_gradient_workspace_size, &p);
  const Rival rival(session, s.n, s.k, m);
  std::vector<Work> works = {[&] { require(q4j_linear_weight_gradient(session.context(), &p), "linear_weight_gradient"); }};
  if (rival) works.emplace_back([&] { rival.run(); });
  const std::vector<double> times = session.seconds(works);
  session.add({"linear_weight_gradient", "4096 x 4096 m 4096", times[0], 0, product(m, s.n, s.k), rival ? times[1] : 0.0});
}

std::vector<std::string> goals() {
  std::vector<std::string> all;
  for (const Shape& shape : kShapes) {
    for (const int64_t m : kRows) {
      if (most_ratio(m) > 0) all.push_back(ratio_goal(shape, m));
    }
    all.push_back(stream_goal(shape));
  }
  return all;
}

const Entry forward_entry("linear_forward", &forward, goals());
const Entry backward_entry("linear_backward_input", &backward_input);
const Entry lora_entry("lora_weight_gradient", &lora_weight_gradient);
const Entry weight_entry("linear_weight_gradient", &weight_gradient);

}  // namespace
}  // namespace q4j::bench
