// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Norms, rotary embedding, activations, loss and attention at the shapes of a 12.8B model: 4096 tokens of 5120 in bf16. */
#include <string>

#include "bench.h"

namespace q4j::bench {
namespace {

constexpr int64_t kTokens = 4096;
constexpr int64_t kHidden = 5120;
constexpr int64_t kInner = 20480;
constexpr int64_t kClasses = 32000;
constexpr int32_t kHeads = 40;
constexpr int32_t kHeadSize = 128;

struct Shape {
  explicit Shape(const Session& session, int64_t full_cols = kHidden)
      : m(session.size(kTokens, 7)), n(session.size(full_cols, 160)), elements(m * n) {}
  int64_t m;
  int64_t n;
  int64_t elements;
};

double bf16_bytes(int64_t elements, int times) { return 2.0 * static_cast<double>(elements) * times; }

void rms_norm_forward(Session& session) {
  const Shape s(session);
  const MemoryPointer x = session.normal(Q4J_BF16, s.elements, 1.0);
  const MemoryPointer residual = session.normal(Q4J_BF16, s.elements, 1.0);
  const MemoryPointer weight = session.normal(Q4J_BF16, s.n, 1.0);
  const MemoryPointer sum = session.allocate(s.elements * 2);
  const MemoryPointer y = session.allocate(s.elements * 2);
  const MemoryPointer rstd = session.allocate(s.m * 4);
  auto p = params<q4j_rms_norm_forward_params>();
  p.dtype = Q4J_BF16;
  p.m = s.m;
  p.n = s.n;
  p.eps = 1e-5f;
  p.weight_dtype = Q4J_BF16;
  p.x = x->at();
  p.residual = residual->at();
  p.weight = weight->at();
  p.sum = sum->at();
  p.y = y->at();
  p.rstd = rstd->at();
  const double time = session.seconds([&] { require(q4j_rms_norm_forward(session.context(), &p), "rms_norm_forward"); });
  session.add({"rms_norm_forward", "4096 x 5120 bf16, residual", time, bf16_bytes(s.elements, 4)});
}

void rms_norm_backward(Session& session) {
  const Shape s(session);
  const MemoryPointer u = session.normal(Q4J_BF16, s.elements, 1.0);
  const MemoryPointer weight = session.normal(Q4J_BF16, s.n, 1.0);
  const MemoryPointer rstd = session.uniform(s.m, 0.9, 1.1);
  const MemoryPointer dy = session.normal(Q4J_BF16, s.elements, 1.0);
  const MemoryPointer dresidual = session.normal(Q4J_BF16, s.elements, 1.0);
  const MemoryPointer dx = session.allocate(s.elements * 2);
  auto p = params<q4j_rms_norm_backward_params>();
  p.dtype = Q4J_BF16;
  p.m = s.m;
  p.n = s.n;
  p.weight_dtype = Q4J_BF16;
  p.u = u->at();
  p.weight = weight->at();
  p.rstd = rstd->at();
  p.dy = dy->at();
  p.dresidual = dresidual->at();
  p.dx = dx->at();
  const MemoryPointer scratch = workspace(session, q4j_rms_norm_backward_workspace_size, &p);
  const double time = session.seconds([&] { require(q4j_rms_norm_backward(session.context(), &p), "rms_norm_backward"); });
  session.add({"rms_norm_backward", "4096 x 5120 bf16, residual", time, bf16_bytes(s.elements, 4)});
}

void layer_norm_forward(Session& session) {
  const Shape s(session);
  const MemoryPointer x = session.normal(Q4J_BF16, s.elements, 1.0);
  const MemoryPointer weight = session.normal(Q4J_BF16, s.n, 1.0);
  const MemoryPointer bias = session.normal(Q4J_BF16, s.n, 1.0);
  const MemoryPointer y = session.allocate(s.elements * 2);
  const MemoryPointer mean = session.allocate(s.m * 4);
  const MemoryPointer rstd = session.allocate(s.m * 4);
  auto p = params<q4j_layer_norm_forward_params>();
  p.dtype = Q4J_BF16;
  p.m = s.m;
  p.n = s.n;
  p.eps = 1e-5f;
  p.weight_dtype = Q4J_BF16;
  p.x = x->at();
  p.weight = weight->at();
  p.bias = bias->at();
  p.y = y->at();
  p.mean = mean->at();
  p.rstd = rstd->at();
  const double time = session.seconds([&] { require(q4j_layer_norm_forward(session.context(), &p), "layer_norm_forward"); });
  session.add({"layer_norm_forward", "4096 x 5120 bf16", time, bf16_bytes(s.elements, 2)});
}

void layer_norm_backward(Session& session) {
  const Shape s(session);
  const MemoryPointer u = session.normal(Q4J_BF16, s.elements, 1.0);
  const MemoryPointer weight = session.normal(Q4J_BF16, s.n, 1.0);
  const MemoryPointer mean = session.uniform(s.m, -0.1, 0.1);
  const MemoryPointer rstd = session.uniform(s.m, 0.9, 1.1);
  const MemoryPointer dy = session.normal(Q4J_BF16, s.elements, 1.0);
  const MemoryPointer dx = session.allocate(s.elements * 2);
  auto p = params<q4j_layer_norm_backward_params>();
  p.dtype = Q4J_BF16;
  p.m = s.m;
  p.n = s.n;
  p.weight_dtype = Q4J_BF16;
  p.u = u->at();
  p.weight = weight->at();
  p.mean = mean->at();
  p.rstd = rstd->at();
  p.dy = dy->at();
  p.dx = dx->at();
  const MemoryPointer scratch = workspace(session, q4j_layer_norm_backward_workspace_size, &p);
  const double time = session.seconds([&] { require(q4j_layer_norm_backward(session.context(), &p), "layer_norm_backward"); });
  session.add({"layer_norm_backward", "4096 x 5120 bf16", time, bf16_bytes(s.elements, 3)});
}

void rotary(Session& session) {
  const int64_t tokens = session.size(kTokens, 7);
  const int64_t heads = session.size(kHeads, 3);
  std::vector<int32_t> at(static_cast<size_t>(tokens));
  for (size_t i = 0; i < at.size(); ++i) at[i] = static_cast<int32_t>(i);
  const MemoryPointer positions = session.holding(at);
  const MemoryPointer frequencies = session.uniform(kHeadSize / 2, 1e-4, 1.0);
  const MemoryPointer x = session.normal(Q4J_BF16, tokens * heads * kHeadSize, 1.0);
  auto p = params<q4j_rotary_params>();
  p.dtype = Q4J_BF16;
  p.tokens = tokens;
  p.heads = heads;
  p.rotary_dim = kHeadSize;
  p.attention_scale = 1.0f;
  p.positions = positions->at();
  p.inverse_frequencies = frequencies->at();
  p.x = x->at();
  p.token_stride = heads * kHeadSize;
  p.head_stride = kHeadSize;
  const double time = session.seconds([&] { require(q4j_rotary(session.context(), &p), "rotary"); });
  session.add({"rotary", "4096 tokens, 40 heads of 128, bf16", time, bf16_bytes(tokens * heads * kHeadSize, 2)});
}

void activation_forward(Session& session) {
  const Shape s(session, kInner);
  const MemoryPointer x = session.normal(Q4J_BF16, s.elements, 1.0);
  const MemoryPointer up = session.normal(Q4J_BF16, s.elements, 1.0);
  const MemoryPointer y = session.allocate(s.elements * 2);
  auto p = params<q4j_activation_forward_params>();
  p.dtype = Q4J_BF16;
  p.activation = Q4J_ACTIVATION_SILU;
  p.m = s.m;
  p.n = s.n;
  p.x = x->at();
  p.ldx = s.n;
  p.up = up->at();
  p.ldup = s.n;
  p.y = y->at();
  const double time = session.seconds([&] { require(q4j_activation_forward(session.context(), &p), "activation_forward"); });
  session.add({"activation_forward", "swiglu 4096 x 20480 bf16", time, bf16_bytes(s.elements, 3)});
}

void activation_backward(Session& session) {
  const Shape s(session, kInner);
  const MemoryPointer x = session.normal(Q4J_BF16, s.elements, 1.0);
  const MemoryPointer up = session.normal(Q4J_BF16, s.elements, 1.0);
  const MemoryPointer dy = session.normal(Q4J_BF16, s.elements, 1.0);
  const MemoryPointer dx = session.allocate(s.elements * 2);
  const MemoryPointer dup = session.allocate(s.elements * 2);
  auto p = params<q4j_activation_backward_params>();
  p.dtype = Q4J_BF16;
  p.activation = Q4J_ACTIVATION_SILU;
  p.m = s.m;
  p.n = s.n;
  p.x = x->at();
  p.ldx = s.n;
  p.up = up->at();
  p.ldup = s.n;
  p.dy = dy->at();
  p.dx = dx->at();
  p.lddx = s.n;
  p.dup = dup->at();
  p.lddup = s.n;
  const double time = session.seconds([&] { require(q4j_activation_backward(session.context(), &p), "activation_backward"); });
  session.add({"activation_backward", "swiglu 4096 x 20480 bf16", time, bf16_bytes(s.elements, 5)});
}

void cross_entropy(Session& session) {
  const Shape s(session, kClasses);
  parity::Random random(14);
  const MemoryPointer logits = session.normal(Q4J_BF16, s.elements, 2.0);
  const MemoryPointer labels = session.holding(random.integers(s.m, static_cast<int32_t>(s.n)));
  const MemoryPointer loss = session.allocate(s.m * 4);
  const MemoryPointer dlogits = session.allocate(s.elements * 2);
  auto p = params<q4j_cross_entropy_params>();
  p.dtype = Q4J_BF16;
  p.m = s.m;
  p.n = s.n;
  p.scale = 1.0f / static_cast<float>(s.m);
  p.logits = logits->at();
  p.ldlogits = s.n;
  p.labels = labels->at();
  p.loss = loss->at();
  p.dlogits = dlogits->at();
  p.lddlogits = s.n;
  const double time = session.seconds([&] { require(q4j_cross_entropy(session.context(), &p), "cross_entropy"); });
  session.add({"cross_entropy", "4096 x 32000 bf16, loss and gradient", time, bf16_bytes(s.elements, 2)});
}

/** Causal self-attention of one sequence, forward and, from its results, backward. */
void attention(Session& session, bool backward) {
  const int64_t tokens = session.size(2048, 40);
  const auto heads = static_cast<int32_t>(session.size(kHeads, 2));
  const int64_t row = static_cast<int64_t>(heads) * kHeadSize;
  const std::vector<int32_t> ends = {0, static_cast<int32_t>(tokens)};
  std::vector<MemoryPointer> operands;
  for (int i = 0; i < 8; ++i) operands.push_back(session.normal(Q4J_BF16, tokens * row, 1.0));
  const MemoryPointer lse = session.allocate(heads * tokens * 4);
  auto f = params<q4j_attention_forward_params>();
  f.dtype = Q4J_BF16;
  f.heads = heads;
  f.kv_heads = heads;
  f.head_dim = kHeadSize;
  f.sequences = 1;
  f.max_q = static_cast<int32_t>(tokens);
  f.max_k = static_cast<int32_t>(tokens);
  f.scale = 0.0883883476f;
  f.cu_q = ends.data();
  f.cu_k = ends.data();
  f.q = operands[0]->at();
  f.k = operands[1]->at();
  f.v = operands[2]->at();
  f.out = operands[3]->at();
  f.q_token_stride = f.k_token_stride = f.v_token_stride = f.out_token_stride = row;
  f.q_head_stride = f.k_head_stride = f.v_head_stride = f.out_head_stride = kHeadSize;
  f.lse = lse->at();
  const MemoryPointer scratch = workspace(session, q4j_attention_forward_workspace_size, &f);
  const Work forward = [&] { require(q4j_attention_forward(session.context(), &f), "attention_forward"); };
  // Two products per pair of tokens, half of the pairs.
  const double operations = 4.0 * static_cast<double>(tokens) * static_cast<double>(tokens) / 2 * static_cast<double>(row);
  const char* what = "2048 tokens, 40 heads of 128, causal, bf16";
  if (!backward) {
    session.add({"attention_forward", what, session.seconds(forward), 0, operations});
    return;
  }
  forward();
  auto b = params<q4j_attention_backward_params>();
  b.forward = &f;
  b.dout = operands[4]->at();
  b.dq = operands[5]->at();
  b.dk = operands[6]->at();
  b.dv = operands[7]->at();
  b.dout_token_stride = b.dq_token_stride = b.dk_token_stride = b.dv_token_stride = row;
  b.dout_head_stride = b.dq_head_stride = b.dk_head_stride = b.dv_head_stride = kHeadSize;
  const MemoryPointer backward_scratch = workspace(session, q4j_attention_backward_workspace_size, &b);
  const double time = session.seconds([&] { require(q4j_attention_backward(session.context(), &b), "attention_backward"); });
  session.add({"attention_backward", what, time, 0, 2.5 * operations});
}

const Entry rms_forward_entry("rms_norm_forward", &rms_norm_forward);
const Entry rms_backward_entry("rms_norm_backward", &rms_norm_backward);
const Entry layer_forward_entry("layer_norm_forward", &layer_norm_forward);
const Entry layer_backward_entry("layer_norm_backward", &layer_norm_backward);
const Entry rotary_entry("rotary", &rotary);
const Entry activation_forward_entry("activation_forward", &activation_forward);
const Entry activation_backward_entry("activation_backward", &activation_backward);
const Entry cross_entropy_entry("cross_entropy", &cross_entropy);
const Entry attention_forward_entry("attention_forward", [](Session& s) { attention(s, false); });
const Entry attention_backward_entry("attention_backward", [](Session& s) {
  if (s.supports("attention_forward")) attention(s, true);
});

}  // namespace
}  // namespace q4j::bench
