// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The CPU behind the pack `cuda-on-host`. Kernels have finished when a launch returns, so every order of calls is a stream's.
 */
#include "error.h"
#include "host_memory.h"
#include "pack/context.h"
#include "support/host_execution.h"

namespace q4j::cuda {

CurrentDevice::CurrentDevice(const q4j_pack_context&) {}
CurrentDevice::~CurrentDevice() = default;

q4j_status find_device() { return Q4J_OK; }

q4j_status describe_device(const q4j_context_options* options, q4j_pack_context* context) {
  const int device = options == nullptr ? 0 : options->device;
  Q4J_REQUIRE(device == 0, Q4J_INVALID_ARGUMENT, "device %d: the CPU is device 0", device);
  context->multiprocessors = host::kResidentBlocks;
  context->block_shared_bytes = static_cast<int32_t>(host::kMostSharedBytes);
  context->cooperative = true;
  return Q4J_OK;
}

q4j_status allocate(q4j_pack_context*, int64_t bytes, void** memory) { return host_allocate(bytes, memory); }

q4j_status free_memory(q4j_pack_context*, void* memory) {
  host_free(memory);
  return Q4J_OK;
}

q4j_status copy_in(q4j_pack_context*, void* device, const void* host, int64_t bytes) {
  host_copy(device, host, bytes);
  return Q4J_OK;
}

q4j_status copy_out(q4j_pack_context*, void* host, const void* device, int64_t bytes) {
  host_copy(host, device, bytes);
  return Q4J_OK;
}

q4j_status fill(q4j_pack_context*, void* device, int32_t value, int64_t bytes) {
  host_fill(device, value, bytes);
  return Q4J_OK;
}

q4j_status synchronize(q4j_pack_context*) { return Q4J_OK; }

}  // namespace q4j::cuda
