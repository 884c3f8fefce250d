// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** One small valid call of every operator, as a starting point that tests bend. */
#ifndef QLORA4J_TESTS_VALID_CALLS_H_
#define QLORA4J_TESTS_VALID_CALLS_H_

#include <array>
#include <cstdint>

#include "qlora4j/pack.h"

namespace q4j::test {

/** Memory and parameters; not movable, because the parameters point into it. 64 KiB an array is more than any shape needs. */
struct ValidCalls {
  static constexpr int64_t array_bytes = 65536;
  static constexpr int64_t m = 5, n = 64, k = 96, rank = 4;

  alignas(64) std::array<std::array<unsigned char, array_bytes>, 12> memory{};
  std::array<int32_t, 3> cu_q = {0, 3, 5};
  std::array<int32_t, 3> cu_k = {0, 4, 9};
  std::array<int64_t, 2> lengths = {10, 20};
  std::array<float, 2> weight_decays = {0.0f, 0.1f};
  std::array<void*, 2> pointers = {at(0), at(1)};
  std::array<void*, 2> pointers2 = {at(2), at(3)};
  std::array<void*, 2> pointers3 = {at(4), at(5)};
  std::array<void*, 2> pointers4 = {at(6), at(7)};
  std::array<void*, 2> pointers5 = {at(8), at(9)};
  std::array<void*, 2> pointers6 = {at(10), at(11)};
  int64_t packed_bytes = 0;
  void* store = nullptr;
  void* page_memory = nullptr;

  q4j_weight weight = {};
  q4j_weight packed_weight = {};
  q4j_lora lora = {};
  q4j_quantize_4bit_params quantize_4bit = {};
  q4j_dequantize_4bit_params dequantize_4bit = {};
  q4j_quantize_8bit_blockwise_params quantize_8bit_blockwise = {};
  q4j_dequantize_8bit_blockwise_params dequantize_8bit_blockwise = {};
  q4j_quantize_int8_rowwise_params quantize_int8_rowwise = {};
  q4j_dequantize_int8_rowwise_params dequantize_int8_rowwise = {};
  q4j_linear_forward_params linear_forward = {};
  q4j_linear_backward_input_params linear_backward_input = {};
  q4j_lora_weight_gradient_params lora_weight_gradient = {};
  q4j_linear_weight_gradient_params linear_weight_gradient = {};
  q4j_rms_norm_forward_params rms_norm_forward = {};
  q4j_rms_norm_backward_params rms_norm_backward = {};
  q4j_layer_norm_forward_params layer_norm_forward = {};
  q4j_layer_norm_backward_params layer_norm_backward = {};
  q4j_rotary_params rotary = {};
  q4j_activation_forward_params activation_forward = {};
  q4j_activation_backward_params activation_backward = {};
  q4j_cross_entropy_params cross_entropy = {};
  q4j_attention_forward_params attention_forward = {};
  q4j_attention_backward_params attention_backward = {};
  q4j_gradient_norm_params gradient_norm = {};
  q4j_adamw_params adamw = {};
  q4j_quantize_fp8_rowwise_params quantize_fp8_rowwise = {};
  q4j_dequantize_fp8_rowwise_params dequantize_fp8_rowwise = {};
  q4j_pack_weight_params pack_weight = {};
  q4j_unpack_weight_params unpack_weight = {};
  q4j_adamw_8bit_params adamw_8bit = {};
  q4j_paged_store_create_params paged_store_create = {};
  q4j_paged_store_destroy_params paged_store_destroy = {};
  q4j_paged_store_plan_params paged_store_plan = {};
  q4j_paged_store_acquire_params paged_store_acquire = {};
  q4j_paged_store_release_params paged_store_release = {};
  q4j_paged_store_copy_params paged_store_copy = {};
  q4j_paged_store_statistics_params paged_store_statistics = {};

  void* at(std::size_t array) { return memory[array].data(); }

  ValidCalls() { reset(); }
  ValidCalls(const ValidCalls&) = delete;
  ValidCalls& operator=(const ValidCalls&) = delete;

  /** Makes every call valid again, with zeros in all memory. */
  void reset() {
    for (auto& array : memory) array.fill(0);
    reset_parameters();
  }

  /** Leaves the memory as it is. */
  void reset_parameters() {
    cu_q = {0, 3, 5};
    cu_k = {0, 4, 9};
    lengths = {10, 20};
    weight_decays = {0.0f, 0.1f};
    pointers = {at(0), at(1)};
    pointers2 = {at(2), at(3)};
    pointers3 = {at(4), at(5)};
    pointers4 = {at(6), at(7)};
    pointers5 = {at(8), at(9)};
    pointers6 = {at(10), at(11)};

    weight = {sizeof weight, Q4J_WEIGHT_NF4, Q4J_BF16, 64, 256, 0.5f, n, k, k, at(8), at(9), at(10), Q4J_LAYOUT_CANONICAL, 0};
    lora = {sizeof lora,
            static_cast<int32_t>(rank),
            2.0f,
            Q4J_LORA_F32,
            at(6),
            at(7),
            {sizeof(q4j_dropout), 0.5f, 42, 1, 2, 3, 0, 0}};
    quantize_4bit = {sizeof quantize_4bit, Q4J_WEIGHT_NF4, Q4J_F32, 64, 256, 0, 333, at(0), at(1), at(2), at(3), at(4), at(11),
                     array_bytes};
    dequantize_4bit = {sizeof dequantize_4bit, Q4J_F32, &weight, at(0)};
    quantize_8bit_blockwise = {sizeof quantize_8bit_blockwise, Q4J_MAP_DYNAMIC_SIGNED, 64, 0, 333, at(0), at(1), at(2)};
    dequantize_8bit_blockwise = {sizeof dequantize_8bit_blockwise, Q4J_MAP_DYNAMIC_SIGNED, 64, 0, 333, at(0), at(1), at(2)};
    quantize_int8_rowwise = {sizeof quantize_int8_rowwise, Q4J_F32, 6.0f, 0, m, n, at(0), at(1), at(2), at(3)};
    dequantize_int8_rowwise = {sizeof dequantize_int8_rowwise, Q4J_F32, m, n, at(0), at(1), at(2)};
    linear_forward = {sizeof linear_forward,
                      Q4J_F32,
                      m,
                      &weight,
                      &lora,
                      at(0),
                      k,
                      at(1),
                      Q4J_F32,
                      0,
                      at(2),
                      n,
                      at(3),
                      n,
                      at(4),
                      at(11),
                      array_bytes};
    linear_backward_input = {
        sizeof linear_backward_input, Q4J_F32, m, &weight, &lora, at(0), n, at(1), k, 0, 0, at(2), n, k, at(11), array_bytes};
    lora_weight_gradient = {sizeof lora_weight_gradient,
                            Q4J_F32,
                            m,
                            n,
                            k,
                            &lora,
                            at(0),
                            k,
                            at(1),
                            n,
                            at(2),
                            at(3),
                            at(4),
                            at(5),
                            at(11),
                            array_bytes};
    linear_weight_gradient = {
        sizeof linear_weight_gradient, Q4J_F32, m, n, k, at(0), k, at(1), n, at(2), at(3), at(11), array_bytes};
    rms_norm_forward = {sizeof rms_norm_forward, Q4J_F32, m, n, 1e-5f, 0, Q4J_F32, 0, at(0), at(1), at(2), at(3), at(4), at(5)};
    rms_norm_backward = {sizeof rms_norm_backward,
                         Q4J_F32,
                         m,
                         n,
                         0,
                         Q4J_F32,
                         at(0),
                         at(1),
                         at(2),
                         at(3),
                         at(4),
                         at(5),
                         at(6),
                         at(11),
                         array_bytes};
    layer_norm_forward = {
        sizeof layer_norm_forward, Q4J_F32, m, n, 1e-5f, Q4J_F32, at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)};
    layer_norm_backward = {sizeof layer_norm_backward,
                           Q4J_F32,
                           m,
                           n,
                           Q4J_F32,
                           0,
                           at(0),
                           at(1),
                           at(2),
                           at(3),
                           at(4),
                           at(5),
                           at(6),
                           at(7),
                           at(8),
                           at(11),
                           array_bytes};
    rotary = {sizeof rotary, Q4J_F32, m, 3, 8, 0, 1.0f, 0, at(0), at(1), at(2), 48, 16};
    activation_forward = {sizeof activation_forward, Q4J_F32, Q4J_ACTIVATION_SILU, 0, m, n, at(0), n, at(1), n, at(2)};
    activation_backward = {
        sizeof activation_backward, Q4J_F32, Q4J_ACTIVATION_SILU, 0, m, n, at(0), n, at(1), n, at(2), at(3), n, at(4), n};
    cross_entropy = {sizeof cross_entropy, Q4J_F32, m, n, 0.1f, 1e-4f, 0.2f, 0, at(0), n, at(1), at(2), at(3), n};
    attention_forward = {sizeof attention_forward,
                         Q4J_F32,
                         4,
                         2,
                         16,
                         0,
                         2,
                         3,
                         5,
                         0.25f,
                         cu_q.data(),
                         cu_k.data(),
                         at(0),
                         64,
                         16,
                         at(1),
                         32,
                         16,
                         at(2),
                         32,
                         16,
                         at(3),
                         64,
                         16,
                         at(4),
                         at(11),
                         array_bytes};
    attention_backward = {sizeof attention_backward,
                          0,
                          &attention_forward,
                          at(5),
                          64,
                          16,
                          at(6),
                          64,
                          16,
                          at(7),
                          32,
                          16,
                          at(8),
                          32,
                          16,
                          at(11),
                          array_bytes};
    gradient_norm = {sizeof gradient_norm, 2, pointers.data(), lengths.data(), at(11)};
    adamw = {sizeof adamw,
             2,
             1,
             1e-3,
             0.9,
             0.999,
             1e-8,
             1.0f,
             0,
             lengths.data(),
             weight_decays.data(),
             pointers.data(),
             pointers2.data(),
             pointers3.data(),
             pointers4.data()};
    quantize_fp8_rowwise = {sizeof quantize_fp8_rowwise, Q4J_F32, m, n, at(0), at(1), at(2)};
    dequantize_fp8_rowwise = {sizeof dequantize_fp8_rowwise, Q4J_F32, m, n, at(0), at(1), at(2)};
    packed_bytes = 0;
    pack_weight = {sizeof pack_weight, 0, &weight, at(0), &packed_bytes};
    packed_weight = weight;
    packed_weight.layout = Q4J_LAYOUT_PACKED;
    packed_weight.data = at(0);
    packed_weight.absmax = nullptr;
    packed_weight.nested_absmax = nullptr;
    unpack_weight = {sizeof unpack_weight, 0, &packed_weight, at(2), at(3), at(4)};
    adamw_8bit = {sizeof adamw_8bit,
                  2,
                  1,
                  1e-3,
                  0.9,
                  0.999,
                  1e-8,
                  1.0f,
                  256,
                  lengths.data(),
                  weight_decays.data(),
                  pointers.data(),
                  pointers2.data(),
                  pointers3.data(),
                  pointers4.data(),
                  pointers5.data(),
                  pointers6.data()};
    // A store that nobody opens: only packs look behind the pointer.
    store = nullptr;
    page_memory = nullptr;
    paged_store_create = {sizeof paged_store_create, Q4J_PAGING_AUTO, 3, 512, 1024, nullptr, &store};
    paged_store_destroy = {sizeof paged_store_destroy, 0, at(0)};
    paged_store_plan = {sizeof paged_store_plan, 0, at(0), 2, lengths.data()};
    paged_store_acquire = {sizeof paged_store_acquire, 0, at(0), 1, &page_memory};
    paged_store_release = {sizeof paged_store_release, 1, at(0), 1};
    paged_store_copy = {sizeof paged_store_copy, 1, at(0), 1, 0, 256, at(1)};
    paged_store_statistics = {
        sizeof paged_store_statistics, 0, at(0), &packed_bytes, nullptr, nullptr, nullptr, nullptr, nullptr};
  }
};

}  // namespace q4j::test

#endif  // QLORA4J_TESTS_VALID_CALLS_H_
