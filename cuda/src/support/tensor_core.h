// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Matrix instructions of sm_80 and newer, and the loads that feed them, with a device body and a host body each.
 *
 * A warp holds a matrix in fragments. With g = lane / 4 and t = lane % 4 a lane holds, as the PTX ISA lays it down:
 *
 *   multiply_add_bf16, m16n8k16
 *     A [16 x 16]  word 0: row g, columns 2t and 2t+1 (low half first); word 1: row g+8; words 2 and 3: the same, columns + 8
 *     B [16 x 8]   word 0: rows 2t and 2t+1 of column g; word 1: rows + 8
 *     C [16 x 8]   0, 1: row g, columns 2t, 2t+1; 2, 3: row g+8
 *   multiply_add_s8, m16n8k32: a word holds four bytes, lowest first
 *     A [16 x 32]  word 0: row g, columns 4t to 4t+3; word 1: row g+8; words 2 and 3: columns + 16
 *     B [32 x 8]   word 0: rows 4t to 4t+3 of column g; word 1: rows + 16
 *     C [16 x 8]   as above
 *
 * load_matrices reads four 8 x 8 matrices of 16-bit elements, whose rows of 16 bytes may lie anywhere in shared memory: lane l
 * names row l % 8 of matrix l / 8 (a multiple of 16 bytes). A lane gets of matrix i, as word i, row g, columns 2t and 2t+1:
 * four matrices are an A fragment, two a B fragment whose columns are the rows in memory. load_matrices_transposed gives rows
 * 2t and 2t+1 of column g: the fragment of the transposed matrices. transpose_matrix does the same to one 8 x 8 matrix that is
 * in registers.
 */
#ifndef QLORA4J_CUDA_SUPPORT_TENSOR_CORE_H_
#define QLORA4J_CUDA_SUPPORT_TENSOR_CORE_H_

#include "support/device.h"

namespace q4j::cuda {

#if defined(__CUDACC__)

/** c += a * b. f32 sums of exact products, in an order of the hardware's own. */
Q4J_DEVICE void multiply_add_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/** c += a * b, exact modulo 2^32. */
Q4J_DEVICE void multiply_add_s8(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

Q4J_DEVICE void load_matrices(uint32_t (&words)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(shared_address(row))
               : "memory");
}

Q4J_DEVICE void load_matrices_transposed(uint32_t (&words)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(shared_address(row))
               : "memory");
}

/** Row g, columns 2t and 2t+1 of an 8 x 8 matrix of 16-bit elements become those of its transpose. */
Q4J_DEVICE uint32_t transpose_matrix(uint32_t word) {
  uint32_t transposed;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(word));
  return transposed;
}

#else

namespace host {

/** What a lane brings to a matrix product and takes from it. */
template <typename Sum>
struct Product {
  Sum* c;
  const uint32_t* a;
  uint32_t b[2];
};

/** The tile's product: a sum over k in ascending order for every element, on top of c. */
template <typename Sum, typename Factor, int K, typename Unpack>
inline void multiply_tile(void* const (&lanes)[32], Unpack unpack) {
  constexpr int kPerWord = K / 8;  // a row of A is eight words: two in each of four lanes
  Factor a[16][K];
  Factor b[K][8];
  Sum c[16][8];
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto& own = *static_cast<const Product<Sum>*>(lanes[lane]);
    const int g = lane / 4;
    const int t = lane % 4;
    for (int i = 0; i < kPerWord; ++i) {
      const int k = t * kPerWord + i;
      a[g][k] = unpack(own.a[0], i);
      a[g + 8][k] = unpack(own.a[1], i);
      a[g][k + K / 2] = unpack(own.a[2], i);
      a[g + 8][k + K / 2] = unpack(own.a[3], i);
      b[k][g] = unpack(own.b[0], i);
      b[k + K / 2][g] = unpack(own.b[1], i);
    }
    for (int i = 0; i < 4; ++i) c[g + i / 2 * 8][t * 2 + i % 2] = own.c[i];
  }
  for (int m = 0; m < 16; ++m) {
    Sum sum[8];
    for (int n = 0; n < 8; ++n) sum[n] = c[m][n];
    for (int k = 0; k < K; ++k) {
      for (int n = 0; n < 8; ++n) sum[n] += a[m][k] * b[k][n];
    }
    for (int n = 0; n < 8; ++n) c[m][n] = sum[n];
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto& own = *static_cast<const Product<Sum>*>(lanes[lane]);
    for (int i = 0; i < 4; ++i) own.c[i] = c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
  }
}

/** Where a lane's row lies and where its words go. */
struct MatrixRow {
  const unsigned char* row;
  uint32_t* words;
};

inline uint32_t element_16(const void* const (&lanes)[32], int matrix, int row, int column) {
  const auto& source = *static_cast<const MatrixRow*>(lanes[matrix * 8 + row]);
  uint16_t value;
  std::memcpy(&value, source.row + column * 2, sizeof value);
  return value;
}

template <bool Transposed>
inline void load_matrices(void* const (&lanes)[32]) {
  const void* sources[32];
  for (int lane = 0; lane < kWarp; ++lane) sources[lane] = lanes[lane];
  for (int lane = 0; lane < kWarp; ++lane) {
    const int g = lane / 4;
    const int t = lane % 4;
    for (int matrix = 0; matrix < 4; ++matrix) {
      const uint32_t low = Transposed ? element_16(sources, matrix, 2 * t, g) : element_16(sources, matrix, g, 2 * t);
      const uint32_t high = Transposed ? element_16(sources, matrix, 2 * t + 1, g) : element_16(sources, matrix, g, 2 * t + 1);
      static_cast<const MatrixRow*>(lanes[lane])->words[matrix] = low | high << 16;
    }
  }
}

inline MatrixRow matrix_row(const void* row, uint32_t (&words)[4]) {
  check_alignment(row, 16);
  check_shared(row, 16);
  return {static_cast<const unsigned char*>(row), words};
}

/** Words of one 8 x 8 matrix, in place. */
inline void transpose_matrix(void* const (&lanes)[32]) {
  uint32_t words[32];
  for (int lane = 0; lane < kWarp; ++lane) words[lane] = *static_cast<const uint32_t*>(lanes[lane]);
  const auto element = [&](int row, int column) { return words[row * 4 + column / 2] >> (column % 2 * 16) & 0xffffu; };
  for (int lane = 0; lane < kWarp; ++lane) {
    const int g = lane / 4;
    const int t = lane % 4;
    *static_cast<uint32_t*>(lanes[lane]) = element(2 * t, g) | element(2 * t + 1, g) << 16;
  }
}

}  // namespace host

inline void multiply_add_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  host::Product<float> own = {c, a, {b0, b1}};
  host::warp_together(&own, [](void* const(&lanes)[32]) {
    host::multiply_tile<float, float, 16>(
        lanes, [](uint32_t word, int i) { return bits_float(i == 0 ? word << 16 : word & 0xffff0000u); });
  });
}

inline void multiply_add_s8(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  // Unsigned, so that it wraps as the device does.
  uint32_t sum[4];
  std::memcpy(sum, c, sizeof sum);
  host::Product<uint32_t> own = {sum, a, {b0, b1}};
  host::warp_together(&own, [](void* const(&lanes)[32]) {
    host::multiply_tile<uint32_t, uint32_t, 32>(lanes, [](uint32_t word, int i) {
      return static_cast<uint32_t>(static_cast<int32_t>(static_cast<int8_t>(word >> (8 * i) & 0xffu)));
    });
  });
  std::memcpy(c, sum, sizeof sum);
}

inline void load_matrices(uint32_t (&words)[4], const void* row) {
  host::MatrixRow own = host::matrix_row(row, words);
  host::warp_together(&own, &host::load_matrices<false>);
}

inline void load_matrices_transposed(uint32_t (&words)[4], const void* row) {
  host::MatrixRow own = host::matrix_row(row, words);
  host::warp_together(&own, &host::load_matrices<true>);
}

inline uint32_t transpose_matrix(uint32_t word) {
  host::warp_together(&word, &host::transpose_matrix);
  return word;
}

#endif

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_SUPPORT_TENSOR_CORE_H_
