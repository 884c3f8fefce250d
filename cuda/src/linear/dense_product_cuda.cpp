// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The products by cuBLASLt, which thinks in column-major matrices: a row-major d [m, n] is its d^T [n, m]. */
#include <map>
#include <tuple>

#include "error.h"
#include "linear/dense_product.h"
#include "pack/context.h"
#include "pack/cuda_status.h"
#include "support/cublaslt.h"

namespace q4j::cuda {

namespace {

/** Returns what a call of the library failed with. A macro, because it records its place and returns. */
#define Q4J_CUBLAS(call)                                                                                               \
  do {                                                                                                                 \
    const int q4j_status_code = (call);                                                                                \
    Q4J_REQUIRE(q4j_status_code == 0, Q4J_DEVICE_ERROR, "cuBLASLt: %s failed with status %d", #call, q4j_status_code); \
  } while (false)

/** What a product looks like to the library; equal shapes share a plan. */
using Shape = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int32_t, bool, bool, bool>;

Shape shape_of(const DenseProduct& p) {
  return {p.m,           p.n, p.k, p.lda, p.ldb, p.c == nullptr ? p.ldd : p.ldc, p.ldd, p.dtype, p.a_transposed, p.b_transposed,
          p.c != nullptr};
}

/** A shape's descriptors with the algorithm chosen for it. */
struct Planned {
  void* operation = nullptr;
  void* first = nullptr;
  void* second = nullptr;
  void* c = nullptr;
  void* d = nullptr;
  CublasLtAlgorithm algorithm = {};
};

class CublasMultiplier final : public DenseMultiplier {
 public:
  explicit CublasMultiplier(const CublasLt& library) : library_(library) {}

  ~CublasMultiplier() override {
    for (auto& entry : planned_) release(entry.second);
    if (handle_ != nullptr) library_.destroy(handle_);
  }

  q4j_status start() {
    Q4J_CUBLAS(library_.create(&handle_));
    return Q4J_OK;
  }

  q4j_status multiply(const q4j_pack_context& context, const DenseProduct& product, void* workspace) override {
    if (product.m == 0 || product.n == 0) return Q4J_OK;
    auto found = planned_.find(shape_of(product));
    if (found == planned_.end()) {
      Planned planned;
      const q4j_status status = plan(product, &planned);
      if (status != Q4J_OK) {
        release(planned);
        return status;
      }
      found = planned_.emplace(shape_of(product), planned).first;
    }
    const Planned& planned = found->second;
    const float beta = product.c != nullptr ? 1.0f : 0.0f;
    // The library's A is our b, its B our a.
    Q4J_CUBLAS(library_.matmul(handle_, planned.operation, &product.scale, product.b, planned.first, product.a, planned.second,
                               &beta, product.c != nullptr ? product.c : product.d, planned.c, product.d, planned.d,
                               planned.algorithm.data, workspace, static_cast<size_t>(kWorkspaceBytes), context.stream));
    return Q4J_OK;
  }

 private:
  q4j_status plan(const DenseProduct& p, Planned* planned) {
    const auto size = [](int64_t value) { return static_cast<uint64_t>(value); };
    Q4J_CUBLAS(library_.matmul_desc_create(&planned->operation, CublasLt::kComputeF32, CublasLt::kF32));
    const int first = p.b_transposed ? CublasLt::kTransposed : CublasLt::kNotTransposed;
    const int second = p.a_transposed ? CublasLt::kTransposed : CublasLt::kNotTransposed;
    Q4J_CUBLAS(library_.matmul_desc_set_attribute(planned->operation, CublasLt::kTransA, &first, sizeof first));
    Q4J_CUBLAS(library_.matmul_desc_set_attribute(planned->operation, CublasLt::kTransB, &second, sizeof second));
    // Row-major b [n, k] is the column-major matrix [k, n] here, and b [k, n] is [n, k].
    Q4J_CUBLAS(library_.layout_create(&planned->first, CublasLt::kBf16, size(p.b_transposed ? p.k : p.n),
                                      size(p.b_transposed ? p.n : p.k), p.ldb));
    Q4J_CUBLAS(library_.layout_create(&planned->second, CublasLt::kBf16, size(p.a_transposed ? p.m : p.k),
                                      size(p.a_transposed ? p.k : p.m), p.lda));
    const int type = p.dtype == Q4J_F32 ? CublasLt::kF32 : CublasLt::kBf16;
    Q4J_CUBLAS(library_.layout_create(&planned->c, type, size(p.n), size(p.m), p.c != nullptr ? p.ldc : p.ldd));
    Q4J_CUBLAS(library_.layout_create(&planned->d, type, size(p.n), size(p.m), p.ldd));

    void* preference = nullptr;
    Q4J_CUBLAS(library_.preference_create(&preference));
    const uint64_t workspace = static_cast<uint64_t>(kWorkspaceBytes);
    int found = 0;
    int status = library_.preference_set_attribute(preference, CublasLt::kWorkspaceBytes, &workspace, sizeof workspace);
    // Partial sums of a split contraction are added in f32: rounding them to bf16 first would round twice.
    if (status == 0) {
      status = library_.preference_set_attribute(preference, CublasLt::kReductions, &CublasLt::kReduceInF32,
                                                 sizeof CublasLt::kReduceInF32);
    }
    // Without being told, the library proposes algorithms for pointers aligned to 256 bytes.
    const uint32_t alignment = kAlignment;
    for (int matrix = CublasLt::kLeastAlignmentA; status == 0 && matrix <= CublasLt::kLeastAlignmentD; ++matrix) {
      status = library_.preference_set_attribute(preference, matrix, &alignment, sizeof alignment);
    }
    if (status == 0) {
      status = library_.heuristic(handle_, planned->operation, planned->first, planned->second, planned->c, planned->d,
                                  preference, 1, &planned->algorithm, &found);
    }
    library_.preference_destroy(preference);
    Q4J_REQUIRE(status == 0 && found > 0, Q4J_DEVICE_ERROR,
                "cuBLASLt has no plan for a product of bf16 factors of m=%lld n=%lld k=%lld (status %d)",
                static_cast<long long>(p.m), static_cast<long long>(p.n), static_cast<long long>(p.k), status);
    return Q4J_OK;
  }

  void release(Planned& planned) {
    if (planned.operation != nullptr) library_.matmul_desc_destroy(planned.operation);
    for (void* layout : {planned.first, planned.second, planned.c, planned.d}) {
      if (layout != nullptr) library_.layout_destroy(layout);
    }
  }

  const CublasLt& library_;
  void* handle_ = nullptr;
  std::map<Shape, Planned> planned_;
};

}  // namespace

q4j_status DenseMultiplier::open(const q4j_pack_context&, std::unique_ptr<DenseMultiplier>* multiplier) {
  const char* reason = "";
  const CublasLt* library = open_cublaslt(&reason);
  Q4J_REQUIRE(library != nullptr, Q4J_UNSUPPORTED, "cuBLASLt cannot be opened: %s", reason);
  auto opened = std::make_unique<CublasMultiplier>(*library);
  Q4J_RETURN_IF_ERROR(opened->start());
  *multiplier = std::move(opened);
  return Q4J_OK;
}

}  // namespace q4j::cuda
