// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * A pack whose kernels have one defect each, of the kinds that the sanitized configuration is there to find. A configuration
 * that lets it pass is worth nothing. The kernels are right but for the lines marked.
 */
#include "build_info.h"
#include "error.h"
#include "pack/context.h"
#include "support/codes.h"
#include "support/dispatch.h"
#include "support/elements.h"
#include "support/launch.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 256;

Q4J_TABLE Table<float, 16> nf4_by_code = table_of(nf4_values);
Q4J_TABLE Table<float, 256> signed_map = table_of(dynamic_signed_map);
Q4J_TABLE Table<float, 256> unsigned_map = table_of(dynamic_unsigned_map);

template <typename T>
Q4J_KERNEL(kThreads, 1)
writes_behind_its_output(const int8_t* codes, const float* row_absmax, T* output, int64_t rows, int64_t cols) {
  const int64_t i = static_cast<int64_t>(block_index()) * kThreads + thread_index();
  if (i > rows * cols) return;                                 // the defect: one element too many
  const int64_t from = i < rows * cols ? i : rows * cols - 1;  // what it reads is there
  output[i] = narrow<T>(multiply(multiply(static_cast<float>(codes[from]), row_absmax[from / cols]), 1.0f / 127.0f));
}

q4j_status dequantize_int8_rowwise(q4j_pack_context* context, const q4j_dequantize_int8_rowwise_params* p) {
  const Grid grid = {blocks_for(p->rows * p->cols + 1, kThreads), kThreads};
  return with_dtype(p->dtype, [&](auto type) {
    using T = decltype(type);
    return launch(*context, grid, "writes_behind_its_output", writes_behind_its_output<T>, static_cast<const int8_t*>(p->codes),
                  static_cast<const float*>(p->row_absmax), static_cast<T*>(p->output), p->rows, p->cols);
  });
}

template <typename T>
Q4J_KERNEL(kThreads, 1)
writes_behind_shared_memory(const uint8_t* packed, const float* absmax, T* output, int64_t n, int32_t block_size) {
  float* const value = block_shared<Table<float, 16>>().at;
  if (thread_index() <= 16) value[thread_index()] = nf4_by_code.at[thread_index() & 15];  // the defect: 17 values
  block_barrier();
  const int64_t i = static_cast<int64_t>(block_index()) * kThreads + thread_index();
  if (i >= n) return;
  const uint32_t code = i % 2 == 0 ? packed[i / 2] >> 4 : packed[i / 2] & 15u;
  output[i] = narrow<T>(multiply(value[code], absmax[i / block_size]));
}

q4j_status dequantize_4bit(q4j_pack_context* context, const q4j_dequantize_4bit_params* p) {
  const q4j_weight& w = *p->weight;
  Q4J_REQUIRE(w.format == Q4J_WEIGHT_NF4 && w.nested_block_size == 0, Q4J_UNSUPPORTED, "broken: only the plain NF4 form");
  const Grid grid = {blocks_for(w.rows * w.cols, kThreads), kThreads};
  return with_dtype(p->dtype, [&](auto type) {
    using T = decltype(type);
    return launch(*context, grid, "writes_behind_shared_memory", writes_behind_shared_memory<T>,
                  static_cast<const uint8_t*>(w.data), static_cast<const float*>(w.absmax), static_cast<T*>(p->output),
                  w.rows * w.cols, w.block_size);
  });
}

Q4J_KERNEL(kThreads, 1)
misses_a_barrier(const uint8_t* codes, const float* absmax, float* output, int64_t n, int32_t block_size, bool is_unsigned) {
  auto& map = block_shared<Table<float, 256>>();
  map.at[thread_index()] = is_unsigned ? unsigned_map.at[thread_index()] : signed_map.at[thread_index()];
  // The defect: other warps may not have written their part yet.
  const int64_t i = static_cast<int64_t>(block_index()) * kThreads + thread_index();
  if (i < n) output[i] = multiply(map.at[codes[i]], absmax[i / block_size]);
}

q4j_status dequantize_8bit_blockwise(q4j_pack_context* context, const q4j_dequantize_8bit_blockwise_params* p) {
  return launch(*context, {blocks_for(p->n, kThreads), kThreads}, "misses_a_barrier", misses_a_barrier,
                static_cast<const uint8_t*>(p->codes), static_cast<const float*>(p->absmax), static_cast<float*>(p->output),
                p->n, p->block_size, p->map == Q4J_MAP_DYNAMIC_UNSIGNED);
}

Q4J_KERNEL(kThreads, 1) shifts_too_far(void* codes) {
  // The defect: lane 31 shifts a word by 32.
  if (thread_index() < kWarp) static_cast<uint32_t*>(codes)[0] = 1u << (lane_index() + 1);
}

q4j_status quantize_8bit_blockwise(q4j_pack_context* context, const q4j_quantize_8bit_blockwise_params* p) {
  Q4J_REQUIRE(p->n >= 4, Q4J_UNSUPPORTED, "broken: four codes at least");
  return launch(*context, {1, kThreads}, "shifts_too_far", shifts_too_far, p->codes);
}

q4j_status create(const q4j_context_options* options, q4j_pack_context** context) {
  static q4j_pack_context only;
  *context = &only;
  return describe_device(options, &only);
}

void destroy(q4j_pack_context*) {}

int32_t threads(const q4j_pack_context*) { return 1; }

constexpr q4j_pack_operators make_operators() {
  q4j_pack_operators table = {};
  table.size = sizeof table;
  table.dequantize_int8_rowwise = &dequantize_int8_rowwise;
  table.dequantize_4bit = &dequantize_4bit;
  table.dequantize_8bit_blockwise = &dequantize_8bit_blockwise;
  table.quantize_8bit_blockwise = &quantize_8bit_blockwise;
  return table;
}

constexpr q4j_pack_workspaces make_workspaces() {
  q4j_pack_workspaces table = {};
  table.size = sizeof table;
  return table;
}

constexpr q4j_pack_operators kOperators = make_operators();
constexpr q4j_pack_workspaces kWorkspaces = make_workspaces();

constexpr q4j_pack kPack = {
    sizeof(q4j_pack), Q4J_ABI_VERSION, Q4J_DEVICE_CPU, Q4J_PACK_NAME, Q4J_BUILD_INFO " architectures=host",
    &create,          &destroy,        &threads,       &allocate,     &free_memory,
    &copy_in,         &copy_out,       &fill,          &synchronize,  &kOperators,
    &kWorkspaces,     nullptr,
};

}  // namespace

}  // namespace q4j::cuda

extern "C" const q4j_pack* q4j_pack_open(const q4j_host* host) {
  q4j::error_sink = host->set_error;
  return &q4j::cuda::kPack;
}
