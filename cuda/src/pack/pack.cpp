// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The table of the packs `cuda` and `cuda-on-host`. */
#include <cstdlib>
#include <new>

#include "build_info.h"
#include "error.h"
#include "pack/context.h"
#include "pack/operators.h"

#if !defined(Q4J_PACK_NAME) || !defined(Q4J_PACK_DEVICE_KIND) || !defined(Q4J_PACK_ARCHITECTURES)
#error "the build defines the pack's name, device kind and architectures"
#endif

namespace q4j::cuda {

namespace {

q4j_status make_scratch(q4j_pack_context* context) {
  void* memory = nullptr;
  Q4J_RETURN_IF_ERROR(allocate(context, sizeof(Scratch), &memory));
  context->scratch = static_cast<Scratch*>(memory);
  return fill(context, memory, 0, sizeof(Scratch));
}

void destroy(q4j_pack_context* context) {
  if (context->scratch != nullptr) free_memory(context, context->scratch);
  if (context->dense != nullptr) {
    const CurrentDevice current(*context);  // its streams and events are the device's
    context->dense.reset();
  }
  delete context;
}

q4j_status create(const q4j_context_options* options, q4j_pack_context** context) {
  *context = nullptr;
  auto* made = new (std::nothrow) q4j_pack_context;
  Q4J_REQUIRE(made != nullptr, Q4J_OUT_OF_DEVICE_MEMORY, "the host has no memory for a context");
  q4j_status status = describe_device(options, made);
  if (status == Q4J_OK) status = override_rungs(std::getenv("Q4J_CUDA_RUNGS"), &made->rungs);
  if (status == Q4J_OK) status = make_scratch(made);
  if (status != Q4J_OK) {
    destroy(made);
    return status;
  }
  *context = made;
  return Q4J_OK;
}

// Threads of the CPU that work for a context: the caller's.
int32_t threads(const q4j_pack_context*) { return 1; }

/** Runs an operator with the context's device current. */
template <typename Parameters, q4j_status (*Operator)(q4j_pack_context*, const Parameters*)>
q4j_status on_device(q4j_pack_context* context, const Parameters* parameters) {
  const CurrentDevice current(*context);
  Q4J_RETURN_IF_ERROR(current.status());
  return Operator(context, parameters);
}

/** Measures a workspace, with the device current too: a library that is opened for it makes its streams on that device. */
template <typename Parameters, q4j_status (*Size)(q4j_pack_context*, const Parameters*, int64_t*)>
q4j_status size_on_device(q4j_pack_context* context, const Parameters* parameters, int64_t* bytes) {
  const CurrentDevice current(*context);
  Q4J_RETURN_IF_ERROR(current.status());
  return Size(context, parameters, bytes);
}

constexpr q4j_pack_operators make_operators() {
  q4j_pack_operators table = {};
  table.size = sizeof table;
  table.quantize_4bit = &on_device<q4j_quantize_4bit_params, &quantize_4bit>;
  table.dequantize_4bit = &on_device<q4j_dequantize_4bit_params, &dequantize_4bit>;
  table.quantize_8bit_blockwise = &on_device<q4j_quantize_8bit_blockwise_params, &quantize_8bit_blockwise>;
  table.dequantize_8bit_blockwise = &on_device<q4j_dequantize_8bit_blockwise_params, &dequantize_8bit_blockwise>;
  table.quantize_int8_rowwise = &on_device<q4j_quantize_int8_rowwise_params, &quantize_int8_rowwise>;
  table.dequantize_int8_rowwise = &on_device<q4j_dequantize_int8_rowwise_params, &dequantize_int8_rowwise>;
  table.quantize_fp8_rowwise = &on_device<q4j_quantize_fp8_rowwise_params, &quantize_fp8_rowwise>;
  table.dequantize_fp8_rowwise = &on_device<q4j_dequantize_fp8_rowwise_params, &dequantize_fp8_rowwise>;
  table.pack_weight = &on_device<q4j_pack_weight_params, &pack_weight>;
  table.unpack_weight = &on_device<q4j_unpack_weight_params, &unpack_weight>;
  table.linear_forward = &on_device<q4j_linear_forward_params, &linear_forward>;
  table.linear_backward_input = &on_device<q4j_linear_backward_input_params, &linear_backward_input>;
  table.lora_weight_gradient = &on_device<q4j_lora_weight_gradient_params, &lora_weight_gradient>;
  table.linear_weight_gradient = &on_device<q4j_linear_weight_gradient_params, &linear_weight_gradient>;
  table.gradient_norm = &on_device<q4j_gradient_norm_params, &gradient_norm>;
  table.adamw = &on_device<q4j_adamw_params, &adamw>;
  table.adamw_8bit = &on_device<q4j_adamw_8bit_params, &adamw_8bit>;
  table.paged_store_create = &on_device<q4j_paged_store_create_params, &paged_store_create>;
  table.paged_store_destroy = &on_device<q4j_paged_store_destroy_params, &paged_store_destroy>;
  table.paged_store_plan = &on_device<q4j_paged_store_plan_params, &paged_store_plan>;
  table.paged_store_acquire = &on_device<q4j_paged_store_acquire_params, &paged_store_acquire>;
  table.paged_store_release = &on_device<q4j_paged_store_release_params, &paged_store_release>;
  table.paged_store_copy = &on_device<q4j_paged_store_copy_params, &paged_store_copy>;
  table.paged_store_statistics = &on_device<q4j_paged_store_statistics_params, &paged_store_statistics>;
  table.rms_norm_forward = &on_device<q4j_rms_norm_forward_params, &rms_norm_forward>;
  table.rms_norm_backward = &on_device<q4j_rms_norm_backward_params, &rms_norm_backward>;
  table.layer_norm_forward = &on_device<q4j_layer_norm_forward_params, &layer_norm_forward>;
  table.layer_norm_backward = &on_device<q4j_layer_norm_backward_params, &layer_norm_backward>;
  table.rotary = &on_device<q4j_rotary_params, &rotary>;
  table.activation_forward = &on_device<q4j_activation_forward_params, &activation_forward>;
  table.activation_backward = &on_device<q4j_activation_backward_params, &activation_backward>;
  table.cross_entropy = &on_device<q4j_cross_entropy_params, &cross_entropy>;
  return table;
}

constexpr q4j_pack_workspaces make_workspaces() {
  q4j_pack_workspaces table = {};
  table.size = sizeof table;
  table.quantize_4bit_workspace_size = &size_on_device<q4j_quantize_4bit_params, &quantize_4bit_workspace_size>;
  table.linear_forward_workspace_size = &size_on_device<q4j_linear_forward_params, &linear_forward_workspace_size>;
  table.linear_backward_input_workspace_size =
      &size_on_device<q4j_linear_backward_input_params, &linear_backward_input_workspace_size>;
  table.lora_weight_gradient_workspace_size =
      &size_on_device<q4j_lora_weight_gradient_params, &lora_weight_gradient_workspace_size>;
  table.linear_weight_gradient_workspace_size =
      &size_on_device<q4j_linear_weight_gradient_params, &linear_weight_gradient_workspace_size>;
  table.rms_norm_backward_workspace_size = &size_on_device<q4j_rms_norm_backward_params, &rms_norm_backward_workspace_size>;
  table.layer_norm_backward_workspace_size =
      &size_on_device<q4j_layer_norm_backward_params, &layer_norm_backward_workspace_size>;
  return table;
}

constexpr q4j_pack_operators kOperators = make_operators();
constexpr q4j_pack_workspaces kWorkspaces = make_workspaces();

constexpr q4j_pack kPack = {
    sizeof(q4j_pack),
    Q4J_ABI_VERSION,
    Q4J_PACK_DEVICE_KIND,
    Q4J_PACK_NAME,
    Q4J_BUILD_INFO " architectures=" Q4J_PACK_ARCHITECTURES,
    &create,
    &destroy,
    &threads,
    &allocate,
    &free_memory,
    &copy_in,
    &copy_out,
    &fill,
    &synchronize,
    &kOperators,
    &kWorkspaces,
    nullptr,  // measure: not on a GPU yet
};

}  // namespace

}  // namespace q4j::cuda

extern "C" const q4j_pack* q4j_pack_open(const q4j_host* host) {
  q4j::error_sink = host->set_error;
  return q4j::cuda::find_device() == Q4J_OK ? &q4j::cuda::kPack : nullptr;
}
