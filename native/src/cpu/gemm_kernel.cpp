// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#include "gemm_kernel.h"

namespace q4j::cpu {

namespace {

using KernelF32 = void (*)(int64_t, const float*, const float*, float*, Accumulate, float);

template <int Rows>
void kernel_f32(int64_t k, const float* a, const float* b, float* c, Accumulate accumulate, float alpha) {
  multiply_rows_f32<Rows>(k, a, b, c, accumulate, alpha);
}

#if defined(__AVX512F__)
constexpr KernelF32 kKernelsF32[kKernelRows] = {
    kernel_f32<1>, kernel_f32<2>, kernel_f32<3>, kernel_f32<4>,  kernel_f32<5>,  kernel_f32<6>,
    kernel_f32<7>, kernel_f32<8>, kernel_f32<9>, kernel_f32<10>, kernel_f32<11>, kernel_f32<12>,
};
#else
constexpr KernelF32 kKernelsF32[kKernelRows] = {
    kernel_f32<1>, kernel_f32<2>, kernel_f32<3>, kernel_f32<4>, kernel_f32<5>, kernel_f32<6>,
};
#endif

#if defined(__AVX512BF16__) && !defined(Q4J_AMX)
using KernelBf16 = void (*)(int64_t, const uint32_t*, const uint32_t*, float*, Accumulate, float);

template <int Rows>
void kernel_bf16(int64_t k, const uint32_t* a, const uint32_t* b, float* c, Accumulate accumulate, float alpha) {
  multiply_rows_bf16<Rows>(k, a, b, c, accumulate, alpha);
}

constexpr KernelBf16 kKernelsBf16[kKernelRows] = {
    kernel_bf16<1>, kernel_bf16<2>, kernel_bf16<3>, kernel_bf16<4>,  kernel_bf16<5>,  kernel_bf16<6>,
    kernel_bf16<7>, kernel_bf16<8>, kernel_bf16<9>, kernel_bf16<10>, kernel_bf16<11>, kernel_bf16<12>,
};
#endif

}  // namespace

void multiply_tile_f32(int rows, int64_t k, const float* a, const float* b, float* c, Accumulate accumulate, float alpha) {
  for (int row = 0; row < rows; row += kKernelRows) {
    const int count = rows - row < kKernelRows ? rows - row : kKernelRows;
    kKernelsF32[count - 1](k, a + row, b, c + row * kTileColumns, accumulate, alpha);
  }
}

#if defined(Q4J_AMX)

void multiply_tile_bf16(int, int64_t k, const void* a, const void* b, float* c, Accumulate accumulate, float alpha) {
  multiply_amx<false>(k / 32, a, b, c, accumulate);
  if (alpha != 1.0f) {
    const Vec factor = broadcast(alpha);
    for (int i = 0; i < kTileElements; i += kLanes) store(c + i, load(c + i) * factor);
  }
}

#elif defined(__AVX512BF16__)

void multiply_tile_bf16(int rows, int64_t k, const void* a, const void* b, float* c, Accumulate accumulate, float alpha) {
  kKernelsBf16[rows - 1](k, static_cast<const uint32_t*>(a), static_cast<const uint32_t*>(b), c, accumulate, alpha);
}

#endif

}  // namespace q4j::cpu
