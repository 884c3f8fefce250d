// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** CUDA error codes as statuses of the ABI. */
#ifndef QLORA4J_CUDA_PACK_CUDA_STATUS_H_
#define QLORA4J_CUDA_PACK_CUDA_STATUS_H_

#include <cuda_runtime_api.h>

#include "qlora4j/types.h"

namespace q4j::cuda {

/**
 * Records "<what>: <CUDA's name> (<code>), <CUDA's text>" and returns the status of the code: out of device memory, device
 * error, or fatal where CUDA keeps answering with the error, which only a new process ends. Clears the runtime's last error.
 */
q4j_status fail_cuda(cudaError_t error, const char* what, const char* file, int line);

}  // namespace q4j::cuda

/** Returns the status of a CUDA runtime call that failed. A macro, because it records its place and returns. */
#define Q4J_CUDA(call)                                                                                 \
  do {                                                                                                 \
    const cudaError_t q4j_error = (call);                                                              \
    if (q4j_error != cudaSuccess) return ::q4j::cuda::fail_cuda(q4j_error, #call, __FILE__, __LINE__); \
  } while (false)

#endif  // QLORA4J_CUDA_PACK_CUDA_STATUS_H_
