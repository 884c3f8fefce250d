// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Opening kernel packs, and the memory of their device. */
#ifndef QLORA4J_CONTEXT_H_
#define QLORA4J_CONTEXT_H_

#include "qlora4j/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/** An opened pack on one device with its stream and threads. Not thread-safe: one thread uses a context at a time. */
typedef struct q4j_context q4j_context;

typedef struct q4j_context_options {
  uint32_t size;
  int32_t device;  /* device number; 0 on the CPU */
  int32_t threads; /* CPU threads; 0: as many as the cgroup and affinity allow */
  int32_t reserved;
  void* stream; /* CUDA stream to order work on, or NULL for the default stream */
} q4j_context_options;

/**
 * Opens the kernel pack in the shared library `path` and makes a context on it.
 *
 * base_path: a second pack on the same device that serves the operators the first leaves out, or NULL. The linear
 * operators (linear_forward, linear_backward_input, linear_weight_gradient, lora_weight_gradient) are borrowed as one group;
 * pack_weight and unpack_weight always come from the pack that serves it, because the layout is that pack's own. The
 * paged_store operators are a group too.
 *
 * Errors: Q4J_INVALID_ARGUMENT when the library cannot be opened or has another ABI version,
 * Q4J_UNSUPPORTED when this machine lacks the device or the instructions the pack needs.
 */
q4j_status q4j_context_create(const char* path, const char* base_path, const q4j_context_options* options,
                              q4j_context** context);

/** Releases the context. Its device memory must have been freed before. NULL is ignored. */
void q4j_context_destroy(q4j_context* context);

/** ABI version this loader was built for. */
int32_t q4j_abi_version(void);

/** Build information of the loader: "revision=<git> compiler=<...>". */
const char* q4j_loader_build_info(void);

/** Name of the pack, for example "reference", "cpu-avx512", "cuda". Valid as long as the context. */
const char* q4j_pack_name(const q4j_context* context);

/** "revision=<git> compiler=<...> architectures=<...>" of the pack. Valid as long as the context. */
const char* q4j_pack_build_info(const q4j_context* context);

/** q4j_device_kind of the pack. */
int32_t q4j_pack_device_kind(const q4j_context* context);

/** Number of CPU threads the context uses. */
int32_t q4j_context_threads(const q4j_context* context);

/** 1 when the pack (or its base) has the operator, for example "rms_norm_forward"; 0 otherwise. */
int32_t q4j_supports(const q4j_context* context, const char* operator_name);

/** Text of the last error on this thread: condition, file:line and the values involved. Never NULL. */
const char* q4j_last_error(void);

/** Memory of the pack's device, aligned to 64 bytes on the CPU and 256 on a GPU. bytes = 0 gives NULL. */
q4j_status q4j_allocate(q4j_context* context, int64_t bytes, void** memory);
q4j_status q4j_free(q4j_context* context, void* memory);

/** Copies host memory to the device, ordered on the stream; the host buffer may be reused when the call returns. */
q4j_status q4j_copy_in(q4j_context* context, void* device, const void* host, int64_t bytes);

/** Copies device memory to the host; the data is there when the call returns. */
q4j_status q4j_copy_out(q4j_context* context, void* host, const void* device, int64_t bytes);

/** Fills device memory with a byte value, ordered on the stream. */
q4j_status q4j_fill(q4j_context* context, void* device, int32_t value, int64_t bytes);

/** Waits for all work of the context's stream. */
q4j_status q4j_synchronize(q4j_context* context);

#ifdef __cplusplus
}
#endif

#endif /* QLORA4J_CONTEXT_H_ */
