// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The few functions of cuBLASLt that the project calls, found at run time: machines that build it have neither its headers nor
 * its library. Names and numbers are those of cublasLt.h, the same in CUDA 12 and 13.
 */
#ifndef QLORA4J_CUDA_SUPPORT_CUBLASLT_H_
#define QLORA4J_CUDA_SUPPORT_CUBLASLT_H_

#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>

namespace q4j::cuda {

/** cublasLtMatmulHeuristicResult_t: an algorithm and what it needs. */
struct CublasLtAlgorithm {
  uint64_t data[8];
  size_t workspace_bytes;
  int32_t status;
  float waves;
  int32_t reserved[4];
};
static_assert(sizeof(CublasLtAlgorithm) == 96, "cuBLASLt writes an array of these");

/** The library's functions; a status of 0 is success. Handles, descriptors and streams are opaque pointers. */
struct CublasLt {
  int (*create)(void** handle);
  int (*destroy)(void* handle);
  int (*matmul_desc_create)(void** desc, int compute_type, int scale_type);
  int (*matmul_desc_destroy)(void* desc);
  int (*matmul_desc_set_attribute)(void* desc, int attribute, const void* value, size_t bytes);
  int (*layout_create)(void** layout, int type, uint64_t rows, uint64_t cols, int64_t ld);
  int (*layout_destroy)(void* layout);
  int (*preference_create)(void** preference);
  int (*preference_destroy)(void* preference);
  int (*preference_set_attribute)(void* preference, int attribute, const void* value, size_t bytes);
  int (*heuristic)(void* handle, void* desc, void* a, void* b, void* c, void* d, void* preference, int requested,
                   CublasLtAlgorithm* results, int* returned);
  int (*matmul)(void* handle, void* desc, const void* alpha, const void* a, void* a_layout, const void* b, void* b_layout,
                const void* beta, const void* c, void* c_layout, void* d, void* d_layout, const void* algorithm,
                void* workspace, size_t workspace_bytes, void* stream);
  size_t (*version)();

  static constexpr int kF32 = 0;          // CUDA_R_32F
  static constexpr int kBf16 = 14;        // CUDA_R_16BF
  static constexpr int kComputeF32 = 68;  // CUBLAS_COMPUTE_32F
  static constexpr int kTransA = 3;       // CUBLASLT_MATMUL_DESC_TRANSA
  static constexpr int kTransB = 4;       // CUBLASLT_MATMUL_DESC_TRANSB
  static constexpr int kNotTransposed = 0;
  static constexpr int kTransposed = 1;
  static constexpr int kWorkspaceBytes = 1;    // CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES
  static constexpr int kReductions = 3;        // CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK
  static constexpr uint32_t kReduceInF32 = 2;  // CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE; no reduction is always allowed
  static constexpr int kLeastAlignmentA = 5;   // CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, then of B, C
  static constexpr int kLeastAlignmentD = 8;   // and D; 256 where it is not set
};

/** The opened library, or why there is none. */
class CublasLtLibrary {
 public:
  CublasLtLibrary() {
    void* library = dlopen("libcublasLt.so.13", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) library = dlopen("libcublasLt.so.12", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      std::snprintf(reason_, sizeof reason_, "no libcublasLt.so.13 or .12: %s", dlerror());
      return;
    }
    CublasLt& f = functions_;
    complete_ = find(library, "cublasLtCreate", &f.create) && find(library, "cublasLtDestroy", &f.destroy) &&
                find(library, "cublasLtMatmulDescCreate", &f.matmul_desc_create) &&
                find(library, "cublasLtMatmulDescDestroy", &f.matmul_desc_destroy) &&
                find(library, "cublasLtMatmulDescSetAttribute", &f.matmul_desc_set_attribute) &&
                find(library, "cublasLtMatrixLayoutCreate", &f.layout_create) &&
                find(library, "cublasLtMatrixLayoutDestroy", &f.layout_destroy) &&
                find(library, "cublasLtMatmulPreferenceCreate", &f.preference_create) &&
                find(library, "cublasLtMatmulPreferenceDestroy", &f.preference_destroy) &&
                find(library, "cublasLtMatmulPreferenceSetAttribute", &f.preference_set_attribute) &&
                find(library, "cublasLtMatmulAlgoGetHeuristic", &f.heuristic) && find(library, "cublasLtMatmul", &f.matmul) &&
                find(library, "cublasLtGetVersion", &f.version);
  }

  const CublasLt* functions() const { return complete_ ? &functions_ : nullptr; }
  const char* reason() const { return reason_; }

 private:
  template <typename Function>
  bool find(void* library, const char* name, Function* function) {
    *function = reinterpret_cast<Function>(dlsym(library, name));
    if (*function == nullptr) std::snprintf(reason_, sizeof reason_, "libcublasLt lacks %s", name);
    return *function != nullptr;
  }

  CublasLt functions_ = {};
  bool complete_ = false;
  char reason_[256] = {};
};

/** The functions of CUDA 13's library, else of CUDA 12's, opened once per process; NULL where there is none. */
inline const CublasLt* open_cublaslt(const char** reason = nullptr) {
  static const CublasLtLibrary library;
  if (reason != nullptr) *reason = library.reason();
  return library.functions();
}

/**
 * The plan of y[m, n] = x[m, k] * w[n, k]^T, all bf16 and row-major, summed in f32. cuBLASLt counts by columns: it computes the
 * transpose y^T = w * x^T from the same memory.
 */
class CublasLtProduct {
 public:
  CublasLtProduct() = default;
  ~CublasLtProduct() { close(); }
  CublasLtProduct(const CublasLtProduct&) = delete;
  CublasLtProduct& operator=(const CublasLtProduct&) = delete;

  static constexpr int kMostAlgorithms = 8;

  /** False where cuBLASLt refuses the shape. `workspace_bytes` may be used by an algorithm. */
  bool plan(const CublasLt& library, int64_t m, int64_t n, int64_t k, int64_t ldx, int64_t ldw, int64_t ldy,
            size_t workspace_bytes) {
    close();
    library_ = &library;
    const int transposed = CublasLt::kTransposed;
    void* preference = nullptr;
    bool ok = library.create(&handle_) == 0 && library.matmul_desc_create(&desc_, CublasLt::kComputeF32, CublasLt::kF32) == 0 &&
              library.matmul_desc_set_attribute(desc_, CublasLt::kTransA, &transposed, sizeof transposed) == 0 &&
              library.layout_create(&w_, CublasLt::kBf16, static_cast<uint64_t>(k), static_cast<uint64_t>(n), ldw) == 0 &&
              library.layout_create(&x_, CublasLt::kBf16, static_cast<uint64_t>(k), static_cast<uint64_t>(m), ldx) == 0 &&
              library.layout_create(&y_, CublasLt::kBf16, static_cast<uint64_t>(n), static_cast<uint64_t>(m), ldy) == 0 &&
              library.preference_create(&preference) == 0;
    const auto bytes = static_cast<uint64_t>(workspace_bytes);
    ok = ok && library.preference_set_attribute(preference, CublasLt::kWorkspaceBytes, &bytes, sizeof bytes) == 0 &&
         library.heuristic(handle_, desc_, w_, x_, y_, y_, preference, kMostAlgorithms, algorithms_, &count_) == 0 &&
         count_ > 0;
    if (preference != nullptr) library.preference_destroy(preference);
    return ok;
  }

  /** How many algorithms the library proposes, its favourite first. */
  int algorithms() const { return count_; }

  /** Runs proposal `algorithm` on the stream. The workspace has the planned size. False when it was refused. */
  bool run(int algorithm, const void* x, const void* w, void* y, void* workspace, void* stream) const {
    const float one = 1.0f;
    const float zero = 0.0f;
    const CublasLtAlgorithm& chosen = algorithms_[algorithm];
    return library_->matmul(handle_, desc_, &one, w, w_, x, x_, &zero, y, y_, y, y_, chosen.data, workspace,
                            chosen.workspace_bytes, stream) == 0;
  }

 private:
  void close() {
    if (library_ == nullptr) return;
    if (x_ != nullptr) library_->layout_destroy(x_);
    if (w_ != nullptr) library_->layout_destroy(w_);
    if (y_ != nullptr) library_->layout_destroy(y_);
    if (desc_ != nullptr) library_->matmul_desc_destroy(desc_);
    if (handle_ != nullptr) library_->destroy(handle_);
    handle_ = desc_ = x_ = w_ = y_ = nullptr;
    count_ = 0;
  }

  const CublasLt* library_ = nullptr;
  void* handle_ = nullptr;
  void* desc_ = nullptr;
  void* x_ = nullptr;
  void* w_ = nullptr;
  void* y_ = nullptr;
  int count_ = 0;
  CublasLtAlgorithm algorithms_[kMostAlgorithms] = {};
};

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_SUPPORT_CUBLASLT_H_
