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

/** What bounds an operator on a device. */
typedef enum q4j_limit {
  Q4J_LIMIT_READ = 0, /* bytes read from memory */
  Q4J_LIMIT_F32 = 1,  /* operations of the instruction the pack multiplies f32 with; a multiply-add is two */
  Q4J_LIMIT_BF16 = 2, /* the same for bf16 */
  Q4J_LIMIT_INT8 = 3  /* the same for signed 8-bit integers summed in 32 bits */
} q4j_limit;

/**
 * Measures a limit of the machine with all threads of the context: for arithmetic, chains of one instruction whose operands
 * stay in registers; for reading, one pass over `memory`. Best of a few runs, some 20 milliseconds in all for arithmetic.
 *
 * limit: a q4j_limit
 * memory, bytes: device memory to read; several times the last-level cache, and written before; NULL and 0 for arithmetic
 * per_second: bytes or operations
 *
 * Errors: Q4J_UNSUPPORTED where the pack measures nothing, or the machine has no instruction of that kind.
 */
q4j_status q4j_measure(q4j_context* context, int32_t limit, const void* memory, int64_t bytes, double* per_second);

/**
 * With on = 1, counts from zero how often each operator is called and how long the pack takes; with 0, stops. The time is the
 * pack's alone: on a GPU, of putting the work on the stream.
 */
q4j_status q4j_profile(q4j_context* context, int32_t on);

/** Name of operator `index`, in the order of the table; NULL behind the last. */
const char* q4j_operator_name(int32_t index);

/** What q4j_profile counted for operator `index`. */
q4j_status q4j_profile_read(const q4j_context* context, int32_t index, int64_t* calls, int64_t* nanoseconds);

#ifdef __cplusplus
}
#endif

#endif /* QLORA4J_CONTEXT_H_ */
