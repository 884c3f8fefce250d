// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The product all linear operators are made of, and what its kernels share.
 *
 * Launch contract
 *   C[m, n] = sum over k of A[m, k] B[k, n], in f32, and an Output that says what becomes of C. Each factor is a matrix in
 *   memory (Operand) whose rows run along k (Order::kContraction) or whose rows are a k each (Order::kOuter):
 *
 *     operator                    C           A                    B                       orders
 *     linear_forward              y  [m, n]   x  [m, k]            W [n, k]                contraction, contraction
 *                         inner   xa [m, r]   dropout(x) [m, k]    a [r, k]                contraction, contraction
 *     linear_backward_input       dx [m, k]   dy [m, n]            W [n, k]                contraction, outer
 *                         inner   dyb [m, r]  dy [m, n]            b [n, r]                contraction, outer
 *     lora_weight_gradient        da [r, k]   dropout(x) [m, k]    dyb [m, r]              outer, outer; C is transposed
 *                                 db [n, r]   dy [m, n]            xa [m, r]               outer, outer
 *     linear_weight_gradient      dw [n, k]   dy [m, n]            x [m, k]                outer, outer
 *
 *   m, n and k are 1 or more. Outputs do not overlap factors; Output::added may be the output itself.
 *
 * Every element is one sum in an order that only the shapes decide, so results do not change from run to run, nor from device
 * to device as long as the same kernels run. A LoRA branch is summed first, in the same accumulators, multiplied by its scale
 * (and masked, in the backward) there, and joined by the product: nothing is rounded in between.
 */
#ifndef QLORA4J_CUDA_LINEAR_PRODUCT_H_
#define QLORA4J_CUDA_LINEAR_PRODUCT_H_

#include <cstdint>

#include "linear/operand.h"
#include "pack/context.h"

namespace q4j::cuda {

/** Which index of a factor is contiguous in memory: the one that is summed over, or the other. */
enum class Order { kContraction, kOuter };

/** scale * (inner * factor), masked: joins the sum. */
struct Branch {
  int32_t rank;     /* 0: none */
  bool exact;       /* nothing is rounded below f32; else the factor counts rounded to bf16 */
  float scale;      /* s, and in the backward dropout's factor too */
  Operand inner;    /* xa or dyb, f32 [m, rank] */
  Operand factor;   /* b [n, rank] or a [rank, n], f32, in the order of B */
  DropoutMask mask; /* of C; off in the forward */
};

/**
 * What becomes of the sums: rounded(scale * sum + bias + added). Of a transposed output the rows are C's columns; it has no
 * bias.
 */
struct Output {
  void* data;
  int64_t ld;
  int32_t dtype; /* f32 or bf16 */
  bool transposed;
  bool rounds; /* f32 results are rounded to bf16 */
  float scale;
  const void* added; /* like data, of the same type and order; or NULL */
  int64_t added_ld;
  const void* bias;   /* [n], or NULL */
  int32_t bias_dtype; /* f32 or bf16 */
};

struct Product {
  int64_t m;
  int64_t n;
  int64_t k;
  Operand a;
  Operand b;
  DropoutMask a_mask; /* of A as it lies in memory; only where B is slim */
  bool exact;         /* a slim B counts as the f32 it is, not rounded to bf16 */
  Branch branch;
  Output output;
};

/** Writes one element. */
Q4J_DEVICE void write_one(const Output& output, int64_t row, int64_t column, float sum) {
  float value = multiply(sum, output.scale);
  if (output.bias != nullptr) {
    value = add(value, output.bias_dtype == Q4J_F32 ? load_read_only(static_cast<const float*>(output.bias) + column)
                                                    : widen(static_cast<const bf16*>(output.bias)[column]));
  }
  if (output.rounds) value = widen(narrow<bf16>(value));
  const int64_t at = row * output.ld + column;
  const int64_t added_at = row * output.added_ld + column;
  if (output.dtype == Q4J_F32) {
    if (output.added != nullptr) value = add(value, static_cast<const float*>(output.added)[added_at]);
    static_cast<float*>(output.data)[at] = value;
  } else {
    if (output.added != nullptr) value = add(value, widen(static_cast<const bf16*>(output.added)[added_at]));
    static_cast<bf16*>(output.data)[at] = narrow<bf16>(value);
  }
}

/** Whether four neighbouring elements of a row can be written at once, and what is added read so. */
Q4J_DEVICE bool writes_four(const Output& output) {
  const uintptr_t bytes = output.dtype == Q4J_F32 ? sizeof(Words4) : sizeof(Words2);
  return output.ld % 4 == 0 && output.added_ld % 4 == 0 && is_aligned(output.data, bytes) && is_aligned(output.added, bytes);
}

/** Writes the elements at `column` to `column` + 3 of a row, as far as n goes. `four`: writes_four. */
Q4J_DEVICE void write_four(const Output& output, int64_t row, int64_t column, int64_t n, bool four, const Words4& sums) {
  if (!four || column + 4 > n) {
    Q4J_UNROLL
    for (int i = 0; i < 4; ++i) {
      if (column + i < n) write_one(output, row, column + i, bits_float(sums.word[i]));
    }
    return;
  }
  float value[4];
  Q4J_UNROLL
  for (int i = 0; i < 4; ++i) value[i] = multiply(bits_float(sums.word[i]), output.scale);
  if (output.bias != nullptr) {
    Q4J_UNROLL
    for (int i = 0; i < 4; ++i) {
      value[i] =
          add(value[i], output.bias_dtype == Q4J_F32 ? load_read_only(static_cast<const float*>(output.bias) + column + i)
                                                     : widen(static_cast<const bf16*>(output.bias)[column + i]));
    }
  }
  if (output.rounds) {
    Q4J_UNROLL
    for (int i = 0; i < 4; ++i) value[i] = widen(narrow<bf16>(value[i]));
  }
  const int64_t at = row * output.ld + column;
  const int64_t added_at = row * output.added_ld + column;
  if (output.dtype == Q4J_F32) {
    if (output.added != nullptr) {
      const Words4 added = load(reinterpret_cast<const Words4*>(static_cast<const float*>(output.added) + added_at));
      Q4J_UNROLL
      for (int i = 0; i < 4; ++i) value[i] = add(value[i], bits_float(added.word[i]));
    }
    store(reinterpret_cast<Words4*>(static_cast<float*>(output.data) + at),
          Words4{{float_bits(value[0]), float_bits(value[1]), float_bits(value[2]), float_bits(value[3])}});
    return;
  }
  if (output.added != nullptr) {
    const Words2 added = load(reinterpret_cast<const Words2*>(static_cast<const bf16*>(output.added) + added_at));
    Q4J_UNROLL
    for (int i = 0; i < 4; ++i) {
      value[i] = add(value[i], bits_float(i % 2 == 0 ? added.word[i / 2] << 16 : added.word[i / 2] & 0xffff0000u));
    }
  }
  store(reinterpret_cast<Words2*>(static_cast<bf16*>(output.data) + at),
        Words2{{narrow_pair<bf16>(value[0], value[1]), narrow_pair<bf16>(value[2], value[3])}});
}

/** Plain sums: f32 [m, n], or [n, m] where the output is transposed. */
Q4J_DEVICE Output partial_output(const Output& output, float* partial, int64_t m, int64_t n) {
  Output result = {};
  result.data = partial;
  result.ld = output.transposed ? m : n;
  result.dtype = Q4J_F32;
  result.transposed = output.transposed;
  result.scale = 1.0f;
  return result;
}

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_LINEAR_PRODUCT_H_
