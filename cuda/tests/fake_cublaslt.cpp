// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * A libcublasLt that multiplies on the CPU by the documented meaning of its arguments: D = alpha * op(A) * op(B) + beta * C
 * with matrices stored by columns. For the test of support/cublaslt.h and for rehearsing benchmarks without a GPU.
 */
#include <cstdint>
#include <cstring>

#include "half.h"

namespace {

struct Desc {
  int transposed[2] = {0, 0};
};

struct Layout {
  int type;
  uint64_t rows;
  uint64_t cols;
  int64_t ld;
};

struct Algorithm {
  uint64_t data[8];
  size_t workspace_bytes;
  int32_t status;
  float waves;
  int32_t reserved[4];
};

constexpr int kBf16 = 14;
constexpr int kNotSupported = 15;

float at(const void* matrix, const Layout& layout, bool transposed, uint64_t row, uint64_t col) {
  const uint64_t r = transposed ? col : row;
  const uint64_t c = transposed ? row : col;
  return q4j::to_f32(static_cast<const q4j::bf16*>(matrix)[c * static_cast<uint64_t>(layout.ld) + r]);
}

}  // namespace

#define Q4J_FAKE extern "C" __attribute__((visibility("default")))

Q4J_FAKE int cublasLtCreate(void** handle) {
  *handle = new int(0);
  return 0;
}
Q4J_FAKE int cublasLtDestroy(void* handle) {
  delete static_cast<int*>(handle);
  return 0;
}
Q4J_FAKE size_t cublasLtGetVersion() { return 0; }

Q4J_FAKE int cublasLtMatmulDescCreate(void** desc, int compute_type, int scale_type) {
  *desc = new Desc;
  return compute_type == 68 && scale_type == 0 ? 0 : kNotSupported;
}
Q4J_FAKE int cublasLtMatmulDescDestroy(void* desc) {
  delete static_cast<Desc*>(desc);
  return 0;
}
Q4J_FAKE int cublasLtMatmulDescSetAttribute(void* desc, int attribute, const void* value, size_t bytes) {
  if (bytes != 4 || (attribute != 3 && attribute != 4)) return kNotSupported;
  std::memcpy(&static_cast<Desc*>(desc)->transposed[attribute - 3], value, 4);
  return 0;
}

Q4J_FAKE int cublasLtMatrixLayoutCreate(void** layout, int type, uint64_t rows, uint64_t cols, int64_t ld) {
  *layout = new Layout{type, rows, cols, ld};
  return type == kBf16 && ld >= static_cast<int64_t>(rows) ? 0 : kNotSupported;
}
Q4J_FAKE int cublasLtMatrixLayoutDestroy(void* layout) {
  delete static_cast<Layout*>(layout);
  return 0;
}

Q4J_FAKE int cublasLtMatmulPreferenceCreate(void** preference) {
  *preference = new uint64_t(0);
  return 0;
}
Q4J_FAKE int cublasLtMatmulPreferenceDestroy(void* preference) {
  delete static_cast<uint64_t*>(preference);
  return 0;
}
Q4J_FAKE int cublasLtMatmulPreferenceSetAttribute(void* preference, int attribute, const void* value, size_t bytes) {
  if (attribute != 1 || bytes != 8) return kNotSupported;
  std::memcpy(preference, value, 8);
  return 0;
}

Q4J_FAKE int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void* preference, int requested,
                                            Algorithm* results, int* returned) {
  *returned = requested < 2 ? requested : 2;
  for (int i = 0; i < *returned; ++i) {
    results[i] = {};
    results[i].data[0] = 0x51u + static_cast<uint64_t>(i);
    results[i].workspace_bytes = *static_cast<uint64_t*>(preference) / 2;
  }
  return 0;
}

Q4J_FAKE int cublasLtMatmul(void*, void* desc, const void* alpha, const void* a, void* a_layout, const void* b, void* b_layout,
                            const void* beta, const void* c, void* c_layout, void* d, void* d_layout, const void* algorithm,
                            void* workspace, size_t workspace_bytes, void*) {
  const Desc& how = *static_cast<Desc*>(desc);
  const Layout& la = *static_cast<Layout*>(a_layout);
  const Layout& lb = *static_cast<Layout*>(b_layout);
  const Layout& lc = *static_cast<Layout*>(c_layout);
  const Layout& ld = *static_cast<Layout*>(d_layout);
  const bool ta = how.transposed[0] == 1;
  const bool tb = how.transposed[1] == 1;
  const uint64_t inner = ta ? la.rows : la.cols;
  if ((ta ? la.cols : la.rows) != ld.rows || (tb ? lb.rows : lb.cols) != ld.cols || inner != (tb ? lb.cols : lb.rows)) return 7;
  const uint64_t proposal = *static_cast<const uint64_t*>(algorithm);
  if (proposal != 0x51u && proposal != 0x52u) return 7;
  if (workspace_bytes > 0) std::memset(workspace, 0x5a, workspace_bytes);
  float scale[2];
  std::memcpy(&scale[0], alpha, 4);
  std::memcpy(&scale[1], beta, 4);
  for (uint64_t i = 0; i < ld.rows; ++i) {
    for (uint64_t j = 0; j < ld.cols; ++j) {
      float sum = 0;
      for (uint64_t l = 0; l < inner; ++l) sum += at(a, la, ta, i, l) * at(b, lb, tb, l, j);
      sum = scale[0] * sum + (scale[1] == 0 ? 0.0f : scale[1] * at(c, lc, false, i, j));
      static_cast<q4j::bf16*>(d)[j * static_cast<uint64_t>(ld.ld) + i] = q4j::bf16_from_f32(sum);
    }
  }
  return 0;
}
