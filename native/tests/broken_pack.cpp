// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * A pack with defects of the kinds that kernels have, for the tests of the tests: a suite that passes it is worth nothing.
 *
 * rms_norm_forward leaves the last column unweighted, linear_forward forgets the end of a row that is no multiple of eight,
 * layer_norm_forward writes behind its output, and activation_forward reports a device error chosen by the number of rows. What
 * it computes is f32 only. Of the linear group it has one operator, so the others must not be borrowed.
 */
#include <cmath>

#include "build_info.h"
#include "host_memory.h"

struct q4j_pack_context {};

namespace {

q4j_status create(const q4j_context_options*, q4j_pack_context** context) {
  static q4j_pack_context stateless;
  *context = &stateless;
  return Q4J_OK;
}

void destroy(q4j_pack_context*) {}

int32_t threads(const q4j_pack_context*) { return 1; }

q4j_status allocate(q4j_pack_context*, int64_t bytes, void** memory) { return q4j::host_allocate(bytes, memory); }

q4j_status free_memory(q4j_pack_context*, void* memory) {
  q4j::host_free(memory);
  return Q4J_OK;
}

q4j_status copy(q4j_pack_context*, void* target, const void* source, int64_t bytes) {
  q4j::host_copy(target, source, bytes);
  return Q4J_OK;
}

q4j_status fill(q4j_pack_context*, void* memory, int32_t value, int64_t bytes) {
  q4j::host_fill(memory, value, bytes);
  return Q4J_OK;
}

q4j_status synchronize(q4j_pack_context*) { return Q4J_OK; }

q4j_status rms_norm_forward(q4j_pack_context*, const q4j_rms_norm_forward_params* p) {
  Q4J_REQUIRE(p->dtype == Q4J_F32 && p->weight_dtype == Q4J_F32 && p->residual == nullptr && p->unit_offset == 0,
              Q4J_UNSUPPORTED, "broken: only the plain f32 form");
  const float* x = static_cast<const float*>(p->x);
  const float* weight = static_cast<const float*>(p->weight);
  float* y = static_cast<float*>(p->y);
  for (int64_t i = 0; i < p->m; ++i, x += p->n, y += p->n) {
    double squares = 0.0;
    for (int64_t j = 0; j < p->n; ++j) squares += static_cast<double>(x[j]) * static_cast<double>(x[j]);
    const double rstd = 1.0 / std::sqrt(squares / static_cast<double>(p->n) + static_cast<double>(p->eps));
    if (p->rstd != nullptr) static_cast<float*>(p->rstd)[i] = static_cast<float>(rstd);
    // The defect: the last column keeps weight 1.
    for (int64_t j = 0; j < p->n; ++j) y[j] = (j + 1 < p->n ? weight[j] : 1.0f) * (x[j] * static_cast<float>(rstd));
  }
  return Q4J_OK;
}

q4j_status linear_forward_workspace_size(q4j_pack_context*, const q4j_linear_forward_params*, int64_t* bytes) {
  *bytes = 0;
  return Q4J_OK;
}

q4j_status linear_forward(q4j_pack_context*, const q4j_linear_forward_params* p) {
  Q4J_REQUIRE(p->dtype == Q4J_F32 && p->weight->format == Q4J_WEIGHT_DENSE && p->weight->dtype == Q4J_F32 &&
                  p->lora == nullptr && p->bias == nullptr && p->residual == nullptr,
              Q4J_UNSUPPORTED, "broken: only a dense f32 product");
  const float* x = static_cast<const float*>(p->x);
  const float* w = static_cast<const float*>(p->weight->data);
  float* y = static_cast<float*>(p->y);
  for (int64_t i = 0; i < p->m; ++i) {
    for (int64_t j = 0; j < p->weight->rows; ++j) {
      double sum = 0.0;
      // The defect: no code for the elements behind the last full group of eight.
      for (int64_t c = 0; c < p->weight->cols / 8 * 8; ++c) {
        sum += static_cast<double>(x[i * p->ldx + c]) * static_cast<double>(w[j * p->weight->ld + c]);
      }
      y[i * p->ldy + j] = static_cast<float>(sum);
    }
  }
  return Q4J_OK;
}

q4j_status layer_norm_forward(q4j_pack_context*, const q4j_layer_norm_forward_params* p) {
  Q4J_REQUIRE(p->dtype == Q4J_F32, Q4J_UNSUPPORTED, "broken: only f32");
  // The defect: one element too many.
  for (int64_t i = 0; i <= p->m * p->n; ++i) static_cast<float*>(p->y)[i] = 0.0f;
  return Q4J_OK;
}

q4j_status activation_forward(q4j_pack_context*, const q4j_activation_forward_params* p) {
  switch (p->m) {
    case 1:
      Q4J_FAIL(Q4J_UNSUPPORTED, "broken: one row");
    case 2:
      Q4J_FAIL(Q4J_OUT_OF_DEVICE_MEMORY, "broken: two rows");
    case 3:
      Q4J_FAIL(Q4J_DEVICE_ERROR, "broken: three rows, code=2");
    case 4:
      Q4J_FAIL(Q4J_DEVICE_ERROR_FATAL, "broken: four rows, cudaErrorLaunchFailure (719)");
    case 5:
      Q4J_FAIL(Q4J_INTERNAL_ERROR, "broken: five rows");
    case 6:
      return Q4J_DEVICE_ERROR;  // and says nothing
    default:
      Q4J_FAIL(Q4J_INVALID_ARGUMENT, "broken: %lld rows", static_cast<long long>(p->m));
  }
}

constexpr q4j_pack_operators table_of_operators() {
  q4j_pack_operators table{};
  table.size = sizeof(q4j_pack_operators);
  table.rms_norm_forward = rms_norm_forward;
  table.linear_forward = linear_forward;
  table.layer_norm_forward = layer_norm_forward;
  table.activation_forward = activation_forward;
  return table;
}

constexpr q4j_pack_workspaces table_of_workspaces() {
  q4j_pack_workspaces table{};
  table.size = sizeof(q4j_pack_workspaces);
  table.linear_forward_workspace_size = linear_forward_workspace_size;
  return table;
}

const q4j_pack_operators operators = table_of_operators();
const q4j_pack_workspaces workspaces = table_of_workspaces();

const q4j_pack pack = {
    sizeof(q4j_pack),
    Q4J_ABI_VERSION,
    Q4J_DEVICE_CPU,
    Q4J_PACK_NAME,
    Q4J_BUILD_INFO " architectures=any",
    create,
    destroy,
    threads,
    allocate,
    free_memory,
    copy,
    copy,
    fill,
    synchronize,
    &operators,
    &workspaces,
    nullptr,
};

}  // namespace

const q4j_pack* q4j_pack_open(const q4j_host* host) {
  q4j::error_sink = host->set_error;
  return &pack;
}
