// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** support/cublaslt.h against a library that does what cuBLASLt documents (fake_cublaslt.cpp). */
#include "support/cublaslt.h"

#include <cstdio>
#include <vector>

#include "expect.h"
#include "half.h"

namespace {

using q4j::bf16;
using q4j::bf16_from_f32;

void multiplies_row_major_matrices() {
  const char* reason = nullptr;
  const q4j::cuda::CublasLt* library = q4j::cuda::open_cublaslt(&reason);
  if (!EXPECT(library != nullptr)) {
    std::fprintf(stderr, "    %s\n", reason);
    return;
  }
  constexpr int64_t m = 3, n = 5, k = 4, ldx = 6, ldw = 4, ldy = 7;
  std::vector<bf16> x(m * ldx), w(n * ldw), y(m * ldy, bf16_from_f32(-1.0f));
  for (size_t i = 0; i < x.size(); ++i) x[i] = bf16_from_f32(static_cast<float>(i % 7));
  for (size_t i = 0; i < w.size(); ++i) w[i] = bf16_from_f32(static_cast<float>(i % 5) - 2.0f);
  q4j::cuda::CublasLtProduct product;
  std::vector<unsigned char> workspace(64);
  EXPECT(product.plan(*library, m, n, k, ldx, ldw, ldy, workspace.size()));
  EXPECT(product.algorithms() == 2);
  for (int algorithm = 0; algorithm < product.algorithms(); ++algorithm) {
    EXPECT(product.run(algorithm, x.data(), w.data(), y.data(), workspace.data(), nullptr));
    EXPECT(workspace[31] == 0x5a && workspace[32] == 0);
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < ldy; ++j) {
        float sum = 0;
        for (int64_t l = 0; l < k; ++l)
          sum += to_f32(x[static_cast<size_t>(i * ldx + l)]) * (j < n ? to_f32(w[static_cast<size_t>(j * ldw + l)]) : 0.0f);
        EXPECT(to_f32(y[static_cast<size_t>(i * ldy + j)]) == (j < n ? sum : -1.0f));
      }
    }
  }
  EXPECT(!product.plan(*library, m, n, k, k - 1, ldw, ldy, 0));
}

}  // namespace

int main() {
  multiplies_row_major_matrices();
  return q4j::test::finish("cublaslt");
}
