// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Dense bf16 products by a library: cuBLASLt on a GPU, opened at run time because the pack is built without its headers and
 * must load where it is missing; plain loops in cuda-on-host, so that what stands on these products is tested without a GPU.
 */
#ifndef QLORA4J_CUDA_LINEAR_DENSE_PRODUCT_H_
#define QLORA4J_CUDA_LINEAR_DENSE_PRODUCT_H_

#include <cstdint>
#include <memory>

#include "qlora4j/types.h"

struct q4j_pack_context;

namespace q4j::cuda {

/**
 * d = scale * op(a) * op(b), plus c where given; row-major, accumulated in f32 and rounded once. a and b are bf16, c and d bf16
 * or f32. Pointers and rows are aligned to 16 bytes. c may be d where it is f32; a bf16 c must not be, because
 * cuBLASLt then rounds twice (strip.cpp).
 */
struct DenseProduct {
  int64_t m;
  int64_t n;
  int64_t k;
  const void* a; /* [m, k], or [k, m] where it is transposed */
  int64_t lda;
  bool a_transposed;
  const void* b; /* [k, n], or [n, k] where it is transposed */
  int64_t ldb;
  bool b_transposed;
  float scale;
  const void* c; /* [m, n], or NULL */
  int64_t ldc;
  void* d; /* [m, n] */
  int64_t ldd;
  int32_t dtype; /* of c and d: Q4J_BF16 or Q4J_F32 */
};

/** The library's handle and what it has planned so far. */
class DenseMultiplier {
 public:
  /** Device memory that a product may use as scratch. 32 MiB is what cuBLAS advises for Hopper. */
  static constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;
  /** It begins at a multiple of this. */
  static constexpr int64_t kWorkspaceAlignment = 256;
  /** Bytes that the pointers of a product are aligned to. */
  static constexpr int64_t kAlignment = 16;

  /** Where the library's scratch begins in memory that has kScratchBytes and is aligned to 64 bytes. */
  static void* scratch_in(void* memory) {
    constexpr auto alignment = static_cast<uintptr_t>(kWorkspaceAlignment);
    return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory) + alignment - 1) / alignment * alignment);
  }
  static constexpr int64_t kScratchBytes = kWorkspaceBytes + kWorkspaceAlignment - 64;

  /** Opens the library; Q4J_UNSUPPORTED with the reason where it is missing. */
  static q4j_status open(const q4j_pack_context& context, std::unique_ptr<DenseMultiplier>* multiplier);
  virtual ~DenseMultiplier() = default;
  DenseMultiplier(const DenseMultiplier&) = delete;
  DenseMultiplier& operator=(const DenseMultiplier&) = delete;

  /** Ordered on the context's stream. The first product of a shape is planned on the host and remembered. */
  virtual q4j_status multiply(const q4j_pack_context& context, const DenseProduct& product, void* workspace) = 0;

 protected:
  DenseMultiplier() = default;
};

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_LINEAR_DENSE_PRODUCT_H_
