// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Maps are encoded by the driver, whose function is asked for by name: the pack does not link to libcuda. */
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstring>

#include "error.h"
#include "pack/context.h"
#include "pack/cuda_status.h"
#include "support/tensor_map.h"

namespace q4j::cuda {

static_assert(sizeof(TensorMap) == sizeof(CUtensorMap), "a map is CUDA's");

q4j_status make_tensor_map(const q4j_pack_context&, const void* base, int64_t rows, int64_t columns, int64_t ld,
                           int32_t box_rows, TensorMap* map) {
  using Encode = decltype(&cuTensorMapEncodeTiled);
  static const Encode encode = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
    return error == cudaSuccess && result == cudaDriverEntryPointSuccess ? reinterpret_cast<Encode>(found) : nullptr;
  }();
  Q4J_REQUIRE(encode != nullptr, Q4J_UNSUPPORTED, "the driver has no cuTensorMapEncodeTiled");
  const cuuint64_t extents[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(ld) * 2};
  const cuuint32_t box[2] = {64, static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[2] = {1, 1};
  CUtensorMap encoded;
  const CUresult result = encode(&encoded, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(base), extents, strides, box,
                                 steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  Q4J_REQUIRE(result == CUDA_SUCCESS, Q4J_DEVICE_ERROR,
              "no tensor map of a matrix of %lld x %lld, ld %lld (CUDA driver error %d)", static_cast<long long>(rows),
              static_cast<long long>(columns), static_cast<long long>(ld), static_cast<int>(result));
  std::memcpy(map, &encoded, sizeof encoded);
  return Q4J_OK;
}

}  // namespace q4j::cuda
