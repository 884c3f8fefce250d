// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** quantize and dequantize of every format, against a copy within the device. */
#include <string>

#include "bench.h"

namespace q4j::bench {
namespace {

constexpr int64_t kShapes[][2] = {{4096, 4096}, {11008, 4096}, {15360, 5120}, {5120, 20480}};
constexpr double kShareOfCopy = 0.9;

std::string goal_of(const std::string& what) {
  return "dequantize_4bit " + what + ": share of the copy bandwidth, at least 0.9";
}

void measure_4bit(Session& session, bool quantize) {
  for (const auto& shape : kShapes) {
    const int64_t rows = session.size(shape[0], 32);
    const int64_t cols = session.size(shape[1], 160);
    const int64_t n = rows * cols;
    const int64_t blocks = (n + 63) / 64;
    const MemoryPointer dense = session.normal(Q4J_BF16, n, 0.02);
    const MemoryPointer packed = session.random_bytes((n + 1) / 2);
    const MemoryPointer nested_absmax = session.uniform((blocks + 255) / 256, 0.01, 0.03);
    const MemoryPointer nested_offset = session.allocate(4);
    for (const int32_t nested : {0, 256}) {
      const MemoryPointer absmax = nested > 0 ? session.random_bytes(blocks) : session.uniform(blocks, 0.01, 0.09);
      const std::string what = text("nf4%s bf16 %lld x %lld", nested > 0 ? "+dq" : "", static_cast<long long>(shape[0]),
                                    static_cast<long long>(shape[1]));
      const double bytes = 2.5 * static_cast<double>(n) + static_cast<double>(nested > 0 ? blocks : blocks * 4);
      if (quantize) {
        auto q = params<q4j_quantize_4bit_params>();
        q.format = Q4J_WEIGHT_NF4;
        q.dtype = Q4J_BF16;
        q.block_size = 64;
        q.nested_block_size = nested;
        q.n = n;
        q.input = dense->at();
        q.packed = packed->at();
        q.absmax = absmax->at();
        q.nested_absmax = nested > 0 ? nested_absmax->at() : nullptr;
        q.nested_offset = nested > 0 ? nested_offset->at() : nullptr;
        const MemoryPointer scratch = workspace(session, q4j_quantize_4bit_workspace_size, &q);
        const double time = session.seconds([&] { require(q4j_quantize_4bit(session.context(), &q), "quantize_4bit"); });
        session.add({"quantize_4bit", what, time, bytes});
        continue;
      }
      auto w = params<q4j_weight>();
      w.format = Q4J_WEIGHT_NF4;
      w.dtype = Q4J_BF16;
      w.block_size = 64;
      w.nested_block_size = nested;
      w.nested_offset = nested > 0 ? 0.05f : 0.0f;
      w.rows = rows;
      w.cols = cols;
      w.ld = cols;
      w.data = packed->at();
      w.absmax = absmax->at();
      w.nested_absmax = nested > 0 ? nested_absmax->at() : nullptr;
      auto d = params<q4j_dequantize_4bit_params>();
      d.dtype = Q4J_BF16;
      d.weight = &w;
      d.output = dense->at();
      const double time = session.seconds([&] { require(q4j_dequantize_4bit(session.context(), &d), "dequantize_4bit"); });
      session.add({"dequantize_4bit", what, time, bytes});
      session.judge(goal_of(what), bytes / time / session.copy_rate(), Limit::kAtLeast, kShareOfCopy, "of copy");
    }
  }
}

std::vector<std::string> goals_of_dequantize() {
  std::vector<std::string> goals;
  for (const auto& shape : kShapes) {
    for (const char* format : {"nf4", "nf4+dq"}) {
      goals.push_back(
          goal_of(text("%s bf16 %lld x %lld", format, static_cast<long long>(shape[0]), static_cast<long long>(shape[1]))));
    }
  }
  return goals;
}

void quantize_8bit(Session& session) {
  const int64_t n = session.size(1 << 26, 5000);
  const MemoryPointer input = session.normal(Q4J_F32, n, 1e-3);
  const MemoryPointer codes = session.allocate(n);
  const MemoryPointer absmax = session.allocate((n + 255) / 256 * 4);
  auto q = params<q4j_quantize_8bit_blockwise_params>();
  q.map = Q4J_MAP_DYNAMIC_SIGNED;
  q.block_size = 256;
  q.n = n;
  q.input = input->at();
  q.codes = codes->at();
  q.absmax = absmax->at();
  const double time = session.seconds([&] { require(q4j_quantize_8bit_blockwise(session.context(), &q), "quantize"); });
  session.add({"quantize_8bit_blockwise", "64 Mi elements, blocks of 256", time, 5.0 * static_cast<double>(n)});
}

void dequantize_8bit(Session& session) {
  const int64_t n = session.size(1 << 26, 5000);
  const MemoryPointer codes = session.random_bytes(n);
  const MemoryPointer absmax = session.uniform((n + 255) / 256, 0.1, 1.0);
  const MemoryPointer output = session.allocate(n * 4);
  auto d = params<q4j_dequantize_8bit_blockwise_params>();
  d.map = Q4J_MAP_DYNAMIC_SIGNED;
  d.block_size = 256;
  d.n = n;
  d.codes = codes->at();
  d.absmax = absmax->at();
  d.output = output->at();
  const double time = session.seconds([&] { require(q4j_dequantize_8bit_blockwise(session.context(), &d), "dequantize"); });
  session.add({"dequantize_8bit_blockwise", "64 Mi elements, blocks of 256", time, 5.0 * static_cast<double>(n)});
}

/** The two row-wise formats have structs of the same shape. */
template <typename P>
void quantize_rowwise(Session& session, const char* name, q4j_status (*function)(q4j_context*, const P*), void* P::*scales) {
  const int64_t rows = session.size(15360, 5);
  const int64_t cols = session.size(5120, 300);
  const MemoryPointer input = session.normal(Q4J_BF16, rows * cols, 0.02);
  const MemoryPointer codes = session.allocate(rows * cols);
  const MemoryPointer scale = session.allocate(rows * 4);
  auto q = params<P>();
  q.dtype = Q4J_BF16;
  q.rows = rows;
  q.cols = cols;
  q.input = input->at();
  q.codes = codes->at();
  q.*scales = scale->at();
  const double time = session.seconds([&] { require(function(session.context(), &q), name); });
  session.add({name, "bf16 15360 x 5120", time, 3.0 * static_cast<double>(rows * cols)});
}

template <typename P>
void dequantize_rowwise(Session& session, const char* name, q4j_status (*function)(q4j_context*, const P*),
                        const void* P::*scales) {
  const int64_t rows = session.size(15360, 5);
  const int64_t cols = session.size(5120, 300);
  const MemoryPointer codes = session.random_bytes(rows * cols);
  const MemoryPointer scale = session.uniform(rows, 0.01, 0.1);
  const MemoryPointer output = session.allocate(rows * cols * 2);
  auto d = params<P>();
  d.dtype = Q4J_BF16;
  d.rows = rows;
  d.cols = cols;
  d.codes = codes->at();
  d.*scales = scale->at();
  d.output = output->at();
  const double time = session.seconds([&] { require(function(session.context(), &d), name); });
  session.add({name, "bf16 15360 x 5120", time, 3.0 * static_cast<double>(rows * cols)});
}

/** pack_weight and its inverse read and write every byte of a weight once. */
void pack_weight(Session& session, bool unpack) {
  const int64_t rows = session.size(15360, 48);
  const int64_t cols = session.size(5120, 128);
  const int64_t blocks = rows * cols / 64;
  const MemoryPointer data = session.random_bytes(rows * cols / 2);
  const MemoryPointer absmax = session.random_bytes(blocks);
  const MemoryPointer nested_absmax = session.uniform((blocks + 255) / 256, 0.01, 0.03);
  auto w = params<q4j_weight>();
  w.format = Q4J_WEIGHT_NF4;
  w.dtype = Q4J_BF16;
  w.block_size = 64;
  w.nested_block_size = 256;
  w.rows = rows;
  w.cols = cols;
  w.ld = cols;
  w.data = data->at();
  w.absmax = absmax->at();
  w.nested_absmax = nested_absmax->at();
  int64_t bytes = 0;
  auto p = params<q4j_pack_weight_params>();
  p.weight = &w;
  p.packed_bytes = &bytes;
  require(q4j_pack_weight(session.context(), &p), "pack_weight");
  const MemoryPointer packed = session.allocate(bytes);
  p.packed = packed->at();
  const double moved = 2.0 * static_cast<double>(rows * cols / 2 + blocks);
  const double time = session.seconds([&] { require(q4j_pack_weight(session.context(), &p), "pack_weight"); });
  if (!unpack) {
    session.add({"pack_weight", "nf4+dq 15360 x 5120", time, moved});
    return;
  }
  q4j_weight in = w;
  in.layout = Q4J_LAYOUT_PACKED;
  in.data = packed->at();
  in.absmax = nullptr;
  in.nested_absmax = nullptr;
  auto u = params<q4j_unpack_weight_params>();
  u.weight = &in;
  u.data = data->at();
  u.absmax = absmax->at();
  u.nested_absmax = nested_absmax->at();
  session.add({"unpack_weight", "nf4+dq 15360 x 5120",
               session.seconds([&] { require(q4j_unpack_weight(session.context(), &u), "unpack_weight"); }), moved});
}

const Entry quantize_4bit_entry("quantize_4bit", [](Session& s) { measure_4bit(s, true); });
const Entry dequantize_4bit_entry(
    "dequantize_4bit", [](Session& s) { measure_4bit(s, false); }, goals_of_dequantize());
const Entry quantize_8bit_entry("quantize_8bit_blockwise", &quantize_8bit);
const Entry dequantize_8bit_entry("dequantize_8bit_blockwise", &dequantize_8bit);
const Entry quantize_int8_entry("quantize_int8_rowwise", [](Session& s) {
  quantize_rowwise(s, "quantize_int8_rowwise", q4j_quantize_int8_rowwise, &q4j_quantize_int8_rowwise_params::row_absmax);
});
const Entry dequantize_int8_entry("dequantize_int8_rowwise", [](Session& s) {
  dequantize_rowwise(s, "dequantize_int8_rowwise", q4j_dequantize_int8_rowwise,
                     &q4j_dequantize_int8_rowwise_params::row_absmax);
});
const Entry quantize_fp8_entry("quantize_fp8_rowwise", [](Session& s) {
  quantize_rowwise(s, "quantize_fp8_rowwise", q4j_quantize_fp8_rowwise, &q4j_quantize_fp8_rowwise_params::row_scale);
});
const Entry dequantize_fp8_entry("dequantize_fp8_rowwise", [](Session& s) {
  dequantize_rowwise(s, "dequantize_fp8_rowwise", q4j_dequantize_fp8_rowwise, &q4j_dequantize_fp8_rowwise_params::row_scale);
});
const Entry pack_entry("pack_weight", [](Session& s) { pack_weight(s, false); });
const Entry unpack_entry("unpack_weight", [](Session& s) { pack_weight(s, true); });

}  // namespace
}  // namespace q4j::bench
