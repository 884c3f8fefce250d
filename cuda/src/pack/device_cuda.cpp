// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The GPU behind the pack `cuda`: finding it, its memory, its errors. */
#include <cuda_runtime_api.h>

#include <mutex>
#include <set>
#include <utility>

#include "error.h"
#include "pack/context.h"
#include "pack/cuda_status.h"
#include "support/launch.h"

namespace q4j::cuda {

namespace {

// The oldest device the machine code is made for.
constexpr int kOldestMajor = 8;

/**
 * True for errors that leave the context unusable. The codes CUDA documents as such are named; for others a call that cannot
 * fail by itself is asked, because a corrupted context answers every call with its error.
 */
bool is_fatal(cudaError_t error) {
  switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
      return true;
    default:
      return cudaFree(nullptr) == error;
  }
}

}  // namespace

q4j_status fail_cuda(cudaError_t error, const char* what, const char* file, int line) {
  cudaGetLastError();  // an error that is not sticky must not turn up in a later, innocent check
  q4j_status status = Q4J_DEVICE_ERROR;
  const char* advice = "";
  if (error == cudaErrorMemoryAllocation) {
    status = Q4J_OUT_OF_DEVICE_MEMORY;
  } else if (error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver || error == cudaErrorNoKernelImageForDevice) {
    status = Q4J_UNSUPPORTED;
  } else if (is_fatal(error)) {
    status = Q4J_DEVICE_ERROR_FATAL;
    advice = "; the device cannot be used until the process restarts";
  }
  return fail(status, file, line, nullptr, "%s: %s (CUDA error %d), %s%s", what, cudaGetErrorName(error),
              static_cast<int>(error), cudaGetErrorString(error), advice);
}

CurrentDevice::CurrentDevice(const q4j_pack_context& context) {
  int current = -1;
  cudaError_t error = cudaGetDevice(&current);
  if (error == cudaSuccess && current != context.device) {
    error = cudaSetDevice(context.device);
    if (error == cudaSuccess) previous_ = current;
  }
  if (error != cudaSuccess) status_ = fail_cuda(error, "selecting the device", __FILE__, __LINE__);
}

CurrentDevice::~CurrentDevice() {
  if (previous_ >= 0) cudaSetDevice(previous_);
}

q4j_status find_device() {
  int count = 0;
  // On failure the count is left as it was, so the code decides.
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();
    Q4J_FAIL(Q4J_UNSUPPORTED, "no CUDA device: %s (CUDA error %d), %s", cudaGetErrorName(error), static_cast<int>(error),
             cudaGetErrorString(error));
  }
  Q4J_REQUIRE(count > 0, Q4J_UNSUPPORTED, "no CUDA device: the driver reports none");
  return Q4J_OK;
}

q4j_status describe_device(const q4j_context_options* options, q4j_pack_context* context) {
  int count = 0;
  Q4J_CUDA(cudaGetDeviceCount(&count));
  const int device = options == nullptr ? 0 : options->device;
  Q4J_REQUIRE(device >= 0 && device < count, Q4J_INVALID_ARGUMENT, "device %d: this machine has the CUDA devices 0 to %d",
              device, count - 1);
  int major = 0;
  int minor = 0;
  Q4J_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  Q4J_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  Q4J_REQUIRE(major >= kOldestMajor, Q4J_UNSUPPORTED, "device %d has compute capability %d.%d, the pack needs %d.0 or newer",
              device, major, minor, kOldestMajor);
  int multiprocessors = 0;
  int block_shared_bytes = 0;
  int cooperative = 0;
  Q4J_CUDA(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  Q4J_CUDA(cudaDeviceGetAttribute(&block_shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  Q4J_CUDA(cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, device));
  context->device = device;
  context->stream = options == nullptr ? nullptr : options->stream;
  context->multiprocessors = multiprocessors;
  context->capability = 10 * major + minor;
  context->block_shared_bytes = block_shared_bytes;
  context->cooperative = cooperative != 0;
  return Q4J_OK;
}

q4j_status allow_shared_memory(const q4j_pack_context& context, const void* kernel, const char* name, int bytes) {
  constexpr int kWithoutAsking = 48 * 1024;
  if (bytes <= kWithoutAsking) return Q4J_OK;
  // The permission belongs to the process, not to a context. It is always for all that the device has, so that no kernel is
  // ever granted less than before.
  static std::mutex mutex;
  static std::set<std::pair<const void*, int32_t>> allowed;
  const std::lock_guard<std::mutex> lock(mutex);
  const std::pair<const void*, int32_t> key(kernel, context.device);
  if (allowed.count(key) != 0) return Q4J_OK;
  int most = 0;
  Q4J_CUDA(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, context.device));
  cudaFuncAttributes attributes = {};
  Q4J_CUDA(cudaFuncGetAttributes(&attributes, kernel));
  most -= static_cast<int>(attributes.sharedSizeBytes);
  Q4J_REQUIRE(bytes <= most, Q4J_UNSUPPORTED, "%s needs %d bytes of shared memory per block, device %d has %d", name, bytes,
              context.device, most);
  Q4J_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most));
  allowed.insert(key);
  return Q4J_OK;
}

q4j_status allocate(q4j_pack_context* context, int64_t bytes, void** memory) {
  *memory = nullptr;
  if (bytes == 0) return Q4J_OK;
  const CurrentDevice current(*context);
  Q4J_RETURN_IF_ERROR(current.status());
  const cudaError_t error = cudaMalloc(memory, static_cast<size_t>(bytes));
  if (error == cudaSuccess) return Q4J_OK;
  *memory = nullptr;
  char what[96];
  std::snprintf(what, sizeof what, "allocating %lld bytes on device %d", static_cast<long long>(bytes), context->device);
  return fail_cuda(error, what, __FILE__, __LINE__);
}

q4j_status free_memory(q4j_pack_context* context, void* memory) {
  const CurrentDevice current(*context);
  Q4J_RETURN_IF_ERROR(current.status());
  Q4J_CUDA(cudaFree(memory));
  return Q4J_OK;
}

q4j_status copy_in(q4j_pack_context* context, void* device, const void* host, int64_t bytes) {
  if (bytes == 0) return Q4J_OK;
  const CurrentDevice current(*context);
  Q4J_RETURN_IF_ERROR(current.status());
  const auto stream = static_cast<cudaStream_t>(context->stream);
  Q4J_CUDA(cudaMemcpyAsync(device, host, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream));
  // Pageable memory was staged when the call returned. Memory the device reads directly (page-locked, registered, managed) is
  // still being read, and the caller may write to it as soon as this function returns.
  cudaPointerAttributes attributes = {};
  const cudaError_t error = cudaPointerGetAttributes(&attributes, host);
  if (error != cudaSuccess || attributes.type != cudaMemoryTypeUnregistered) {
    cudaGetLastError();
    Q4J_CUDA(cudaStreamSynchronize(stream));
  }
  return Q4J_OK;
}

q4j_status copy_out(q4j_pack_context* context, void* host, const void* device, int64_t bytes) {
  const CurrentDevice current(*context);
  Q4J_RETURN_IF_ERROR(current.status());
  const auto stream = static_cast<cudaStream_t>(context->stream);
  if (bytes > 0) Q4J_CUDA(cudaMemcpyAsync(host, device, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream));
  Q4J_CUDA(cudaStreamSynchronize(stream));
  return Q4J_OK;
}

q4j_status fill(q4j_pack_context* context, void* device, int32_t value, int64_t bytes) {
  if (bytes == 0) return Q4J_OK;
  const CurrentDevice current(*context);
  Q4J_RETURN_IF_ERROR(current.status());
  Q4J_CUDA(cudaMemsetAsync(device, value & 0xff, static_cast<size_t>(bytes), static_cast<cudaStream_t>(context->stream)));
  return Q4J_OK;
}

q4j_status synchronize(q4j_pack_context* context) {
  const CurrentDevice current(*context);
  Q4J_RETURN_IF_ERROR(current.status());
  Q4J_CUDA(cudaStreamSynchronize(static_cast<cudaStream_t>(context->stream)));
  return Q4J_OK;
}

}  // namespace q4j::cuda
