// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** lora_weight_gradient and linear_weight_gradient: all gradients are added to what was there. */
#include <cmath>
#include <cstring>
#include <limits>

#include "harness.h"

namespace q4j::parity {
namespace {

struct Setup {
  int32_t dtype = Q4J_BF16;
  int64_t m = 1;
  int64_t n = 1;
  int64_t k = 1;
  int32_t rank = 1;
  int32_t compute = Q4J_LORA_FAST;
  float dropout = 0;
  int64_t gap = 0;
  int64_t offset = 0;
  bool infinity = false;

  std::string name(bool lora) const {
    std::string result = text("%s m %lld n %lld k %lld", dtype == Q4J_F32 ? "f32" : "bf16", static_cast<long long>(m),
                              static_cast<long long>(n), static_cast<long long>(k));
    if (lora) {
      result += text(" rank %d %s dropout %g", rank, compute == Q4J_LORA_FAST ? "fast" : "exact", static_cast<double>(dropout));
    }
    if (gap > 0) result += text(" gap %lld", static_cast<long long>(gap));
    if (offset > 0) result += text(" offset %lld", static_cast<long long>(offset));
    return result + (infinity ? " infinity" : "");
  }

  /** Sums of m products of numbers of size 1, added to such a number. */
  Tolerance tolerance() const {
    return (Tolerance::rounded(Q4J_F32, 1) + Tolerance::sum(m)).of_terms(std::sqrt(static_cast<double>(m)) + 1);
  }
};

const Tensor& activations(Run& run, const Setup& s, int64_t cols) {
  std::vector<float> values = run.random.normal(s.m * cols, 1.0);
  if (s.infinity && s.m > 2) {
    values[static_cast<size_t>(cols / 2)] = std::numeric_limits<float>::infinity();
    values[static_cast<size_t>(2 * cols)] = std::numeric_limits<float>::quiet_NaN();
  }
  return run.input(s.dtype, s.m, cols, values, {cols + s.gap, s.offset});
}

/** What the forward leaves: rounded to bf16 in the fast mode. */
const Tensor& inner(Run& run, const Setup& s) {
  std::vector<float> values = run.random.normal(s.m * s.rank, 1.0);
  if (s.dtype == Q4J_BF16 && s.compute == Q4J_LORA_FAST) {
    const std::vector<uint8_t> rounded = narrow(values, Q4J_BF16);
    for (size_t i = 0; i < values.size(); ++i) {
      const uint32_t bits = (static_cast<uint32_t>(rounded[2 * i + 1]) << 8 | rounded[2 * i]) << 16;
      std::memcpy(&values[i], &bits, sizeof bits);
    }
  }
  return run.input(Q4J_F32, s.m, s.rank, values);
}

void lora_gradient(Run& run, const Setup& s) {
  const q4j_lora lora = run.lora(s.rank, s.n, s.k, s.compute, s.dropout);
  const Tensor& x = activations(run, s, s.k);
  const Tensor& dy = activations(run, s, s.n);
  const Tensor& xa = inner(run, s);
  const Tensor& dyb = inner(run, s);
  const Tensor& da = run.input(Q4J_F32, s.rank, s.k, run.random.normal(s.rank * s.k, 1.0));
  const Tensor& db = run.input(Q4J_F32, s.n, s.rank, run.random.normal(s.n * s.rank, 1.0));
  auto p = params<q4j_lora_weight_gradient_params>();
  p.dtype = s.dtype;
  p.m = s.m;
  p.n = s.n;
  p.k = s.k;
  p.lora = &lora;
  p.x = x.data();
  p.ldx = x.ld();
  p.dy = dy.data();
  p.lddy = dy.ld();
  p.xa = xa.data();
  p.dyb = dyb.data();
  p.da = da.data();
  p.db = db.data();
  run.call(q4j_lora_weight_gradient, q4j_lora_weight_gradient_workspace_size, p);
  run.compare("da", da, s.tolerance());
  run.compare("db", db, s.tolerance());
}

void linear_gradient(Run& run, const Setup& s, bool wants_dw, bool wants_dbias) {
  const Tensor& x = activations(run, s, s.k);
  const Tensor& dy = activations(run, s, s.n);
  const Tensor& dw = run.input(Q4J_F32, s.n, s.k, run.random.normal(s.n * s.k, 1.0));
  const Tensor& dbias = run.input(Q4J_F32, 1, s.n, run.random.normal(s.n, 1.0));
  auto p = params<q4j_linear_weight_gradient_params>();
  p.dtype = s.dtype;
  p.m = s.m;
  p.n = s.n;
  p.k = s.k;
  p.x = x.data();
  p.ldx = x.ld();
  p.dy = dy.data();
  p.lddy = dy.ld();
  if (wants_dw) p.dw = dw.data();
  if (wants_dbias) p.dbias = dbias.data();
  run.call(q4j_linear_weight_gradient, q4j_linear_weight_gradient_workspace_size, p);
  run.compare("dw", dw, s.tolerance());
  run.compare("dbias", dbias, s.tolerance());
}

void add(const Setup& s) {
  register_case("lora_weight_gradient", s.name(true), [=](Run& run) { lora_gradient(run, s); });
  register_case("linear_weight_gradient", s.name(false), [=](Run& run) { linear_gradient(run, s, true, true); });
}

void cases(const Options& options) {
  Random random(29);
  const int64_t shapes[][4] = {{0, 8, 16, 4},    {1, 1, 1, 1},     {2, 3, 5, 2},      {7, 17, 33, 3},     {16, 64, 64, 8},
                               {31, 65, 63, 16}, {64, 96, 136, 8}, {129, 70, 257, 5}, {40, 128, 128, 64}, {33, 136, 72, 70}};
  for (const int32_t dtype : {Q4J_F32, Q4J_BF16}) {
    for (const auto& shape : shapes) {
      if (options.small && shape[0] > 40) continue;
      for (const int32_t compute : {Q4J_LORA_FAST, Q4J_LORA_F32}) {
        Setup s;
        s.dtype = dtype;
        s.m = shape[0];
        s.n = shape[1];
        s.k = shape[2];
        s.rank = static_cast<int32_t>(shape[3]);
        s.compute = compute;
        s.dropout = random.one_in(2) ? 0.0f : 0.3f;
        add(s);
        s.dropout = s.dropout > 0 ? 0.0f : 0.1f;
        s.gap = random.one_in(2) ? 8 : 7;
        s.offset = random.one_in(2) ? 0 : 1;
        add(s);
      }
    }
    Setup s;
    s.dtype = dtype;
    s.m = 11;
    s.n = 40;
    s.k = 24;
    s.rank = 8;
    s.infinity = true;
    add(s);
    s.compute = Q4J_LORA_F32;
    s.dropout = 0.5f;
    add(s);
    s.infinity = false;
    register_case("linear_weight_gradient", "dw alone " + s.name(false),
                  [=](Run& run) { linear_gradient(run, s, true, false); });
    register_case("linear_weight_gradient", "dbias alone " + s.name(false),
                  [=](Run& run) { linear_gradient(run, s, false, true); });
  }
  if (options.small) return;
  // More blocks than a device has multiprocessors: 18 by 17 tiles, with and without rows of whole pieces.
  for (const int64_t odd : {0, 1}) {
    Setup s;
    s.m = 40;
    s.n = 2200 + odd;
    s.k = 2120 - odd;
    register_case("linear_weight_gradient", s.name(false), [=](Run& run) { linear_gradient(run, s, true, true); });
  }
  // Sums that are split into parts.
  for (const int32_t dtype : {Q4J_F32, Q4J_BF16}) {
    for (const int32_t compute : {Q4J_LORA_FAST, Q4J_LORA_F32}) {
      Setup s;
      s.dtype = dtype;
      s.compute = compute;
      s.m = 1030;
      s.n = 264;
      s.k = 136;
      s.rank = 72;
      s.dropout = 0.2f;
      add(s);
      s.n = 65;
      s.k = 131;
      add(s);
    }
  }
}

const Family family(&cases);

}  // namespace
}  // namespace q4j::parity
