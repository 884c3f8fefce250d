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
 * d = a * b^T (b [n, k]) or a * b (b [k, n]), plus c where given; all bf16, row-major, accumulated in f32 and rounded once.
 * Pointers are aligned to 16 bytes and leading dimensions are multiples of 8. c may be d.
 */
struct DenseProduct {
  int64_t m;
  int64_t n;
  int64_t k;
  const void* a; /* [m, k] */
  int64_t lda;
  const void* b;
  int64_t ldb;
  bool b_transposed; /* b is [n, k] */
  const void* c;     /* [m, n], or NULL */
  int64_t ldc;
  void* d; /* [m, n] */
  int64_t ldd;
};

/** The library's handle and what it has planned so far, and the side stream on which operands are made ahead of a product. */
class DenseMultiplier {
 public:
  /** Device memory that a product may use as scratch. 32 MiB is what cuBLAS advises for Hopper. */
  static constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;
  /** It begins at a multiple of this. */
  static constexpr int64_t kWorkspaceAlignment = 256;
  /** Bytes that the pointers of a product are aligned to. */
  static constexpr int64_t kAlignment = 16;

  /** Opens the library; Q4J_UNSUPPORTED with the reason where it is missing. */
  static q4j_status open(const q4j_pack_context& context, std::unique_ptr<DenseMultiplier>* multiplier);
  virtual ~DenseMultiplier() = default;
  DenseMultiplier(const DenseMultiplier&) = delete;
  DenseMultiplier& operator=(const DenseMultiplier&) = delete;

  /** Ordered on the context's stream. The first product of a shape is planned on the host and remembered. */
  virtual q4j_status multiply(const q4j_pack_context& context, const DenseProduct& product, void* workspace) = 0;

  /** The side stream; work on it is ordered only by the calls below. */
  virtual void* side_stream() const = 0;

  /** Later work of the side stream waits for what the context's stream was given so far. */
  virtual q4j_status fork(const q4j_pack_context& context) = 0;
  /** Buffer `slot` (0 or 1) has been written by the side stream: later work of the context's stream waits for it. */
  virtual q4j_status filled(const q4j_pack_context& context, int slot) = 0;
  /** Buffer `slot` has been read by the context's stream: later work of the side stream waits for it. */
  virtual q4j_status consumed(const q4j_pack_context& context, int slot) = 0;

 protected:
  DenseMultiplier() = default;
};

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_LINEAR_DENSE_PRODUCT_H_
