// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The operators this pack has. Each is defined in its own folder. */
#ifndef QLORA4J_CUDA_PACK_OPERATORS_H_
#define QLORA4J_CUDA_PACK_OPERATORS_H_

#include "qlora4j/pack.h"

namespace q4j::cuda {

q4j_status quantize_4bit(q4j_pack_context* context, const q4j_quantize_4bit_params* params);
q4j_status quantize_4bit_workspace_size(q4j_pack_context* context, const q4j_quantize_4bit_params* params, int64_t* bytes);
q4j_status dequantize_4bit(q4j_pack_context* context, const q4j_dequantize_4bit_params* params);
q4j_status quantize_8bit_blockwise(q4j_pack_context* context, const q4j_quantize_8bit_blockwise_params* params);
q4j_status dequantize_8bit_blockwise(q4j_pack_context* context, const q4j_dequantize_8bit_blockwise_params* params);
q4j_status quantize_int8_rowwise(q4j_pack_context* context, const q4j_quantize_int8_rowwise_params* params);
q4j_status dequantize_int8_rowwise(q4j_pack_context* context, const q4j_dequantize_int8_rowwise_params* params);
q4j_status quantize_fp8_rowwise(q4j_pack_context* context, const q4j_quantize_fp8_rowwise_params* params);
q4j_status dequantize_fp8_rowwise(q4j_pack_context* context, const q4j_dequantize_fp8_rowwise_params* params);
q4j_status gradient_norm(q4j_pack_context* context, const q4j_gradient_norm_params* params);
q4j_status adamw(q4j_pack_context* context, const q4j_adamw_params* params);
q4j_status adamw_8bit(q4j_pack_context* context, const q4j_adamw_8bit_params* params);
q4j_status paged_store_create(q4j_pack_context* context, const q4j_paged_store_create_params* params);
q4j_status paged_store_destroy(q4j_pack_context* context, const q4j_paged_store_destroy_params* params);
q4j_status paged_store_plan(q4j_pack_context* context, const q4j_paged_store_plan_params* params);
q4j_status paged_store_acquire(q4j_pack_context* context, const q4j_paged_store_acquire_params* params);
q4j_status paged_store_release(q4j_pack_context* context, const q4j_paged_store_release_params* params);
q4j_status paged_store_copy(q4j_pack_context* context, const q4j_paged_store_copy_params* params);
q4j_status paged_store_statistics(q4j_pack_context* context, const q4j_paged_store_statistics_params* params);
q4j_status pack_weight(q4j_pack_context* context, const q4j_pack_weight_params* params);
q4j_status unpack_weight(q4j_pack_context* context, const q4j_unpack_weight_params* params);
q4j_status linear_forward(q4j_pack_context* context, const q4j_linear_forward_params* params);
q4j_status linear_forward_workspace_size(q4j_pack_context* context, const q4j_linear_forward_params* params, int64_t* bytes);
q4j_status linear_backward_input(q4j_pack_context* context, const q4j_linear_backward_input_params* params);
q4j_status linear_backward_input_workspace_size(q4j_pack_context* context, const q4j_linear_backward_input_params* params,
                                                int64_t* bytes);
q4j_status lora_weight_gradient(q4j_pack_context* context, const q4j_lora_weight_gradient_params* params);
q4j_status lora_weight_gradient_workspace_size(q4j_pack_context* context, const q4j_lora_weight_gradient_params* params,
                                               int64_t* bytes);
q4j_status linear_weight_gradient(q4j_pack_context* context, const q4j_linear_weight_gradient_params* params);
q4j_status linear_weight_gradient_workspace_size(q4j_pack_context* context, const q4j_linear_weight_gradient_params* params,
                                                 int64_t* bytes);
q4j_status rms_norm_forward(q4j_pack_context* context, const q4j_rms_norm_forward_params* params);
q4j_status rms_norm_backward(q4j_pack_context* context, const q4j_rms_norm_backward_params* params);
q4j_status rms_norm_backward_workspace_size(q4j_pack_context* context, const q4j_rms_norm_backward_params* params,
                                            int64_t* bytes);
q4j_status layer_norm_forward(q4j_pack_context* context, const q4j_layer_norm_forward_params* params);
q4j_status layer_norm_backward(q4j_pack_context* context, const q4j_layer_norm_backward_params* params);
q4j_status layer_norm_backward_workspace_size(q4j_pack_context* context, const q4j_layer_norm_backward_params* params,
                                              int64_t* bytes);
q4j_status rotary(q4j_pack_context* context, const q4j_rotary_params* params);
q4j_status activation_forward(q4j_pack_context* context, const q4j_activation_forward_params* params);
q4j_status activation_backward(q4j_pack_context* context, const q4j_activation_backward_params* params);
q4j_status cross_entropy(q4j_pack_context* context, const q4j_cross_entropy_params* params);

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_PACK_OPERATORS_H_
