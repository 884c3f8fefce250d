// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * What a kernel pack exports: one symbol, q4j_pack_open, that returns its table. Only packs and the loader include this header.
 *
 * The loader validates pointers, shapes and types of every call before it reaches a pack (native/src/loader/validate.cpp), so
 * a pack answers Q4J_UNSUPPORTED for a combination it lacks and otherwise computes.
 */
#ifndef QLORA4J_PACK_H_
#define QLORA4J_PACK_H_

#include "qlora4j/context.h"
#include "qlora4j/operators.h"

#ifdef __cplusplus
extern "C" {
#endif

/** The operators, each with its parameter struct `q4j_<name>_params`. New ones are added at the end only. */
#define Q4J_FOR_EACH_OPERATOR(X) \
  X(quantize_4bit)               \
  X(dequantize_4bit)             \
  X(quantize_8bit_blockwise)     \
  X(dequantize_8bit_blockwise)   \
  X(quantize_int8_rowwise)       \
  X(dequantize_int8_rowwise)     \
  X(linear_forward)              \
  X(linear_backward_input)       \
  X(lora_weight_gradient)        \
  X(linear_weight_gradient)      \
  X(rms_norm_forward)            \
  X(rms_norm_backward)           \
  X(layer_norm_forward)          \
  X(layer_norm_backward)         \
  X(rotary)                      \
  X(activation_forward)          \
  X(activation_backward)         \
  X(cross_entropy)               \
  X(attention_forward)           \
  X(attention_backward)          \
  X(gradient_norm)               \
  X(adamw)                       \
  X(quantize_fp8_rowwise)        \
  X(dequantize_fp8_rowwise)      \
  X(pack_weight)                 \
  X(unpack_weight)               \
  X(adamw_8bit)                  \
  X(paged_store_create)          \
  X(paged_store_destroy)         \
  X(paged_store_plan)            \
  X(paged_store_acquire)         \
  X(paged_store_release)         \
  X(paged_store_copy)            \
  X(paged_store_statistics)

/** The operators that need scratch memory. */
#define Q4J_FOR_EACH_WORKSPACE(X) \
  X(quantize_4bit)                \
  X(linear_forward)               \
  X(linear_backward_input)        \
  X(lora_weight_gradient)         \
  X(linear_weight_gradient)       \
  X(rms_norm_backward)            \
  X(layer_norm_backward)          \
  X(attention_forward)            \
  X(attention_backward)

/** A pack's own state for one context. */
typedef struct q4j_pack_context q4j_pack_context;

/** Services of the loader. Filled before any other function of the pack runs. */
typedef struct q4j_host {
  uint32_t size;
  /** Sets the thread's error text; copied. */
  void (*set_error)(const char* text);
} q4j_host;

#define Q4J_DECLARE_OPERATOR(name) q4j_status (*name)(q4j_pack_context*, const q4j_##name##_params*);
#define Q4J_DECLARE_WORKSPACE(name) \
  q4j_status (*name##_workspace_size)(q4j_pack_context*, const q4j_##name##_params*, int64_t*);

/** NULL entries are operators the pack leaves out. */
typedef struct q4j_pack_operators {
  uint32_t size;
  Q4J_FOR_EACH_OPERATOR(Q4J_DECLARE_OPERATOR)
} q4j_pack_operators;

typedef struct q4j_pack_workspaces {
  uint32_t size;
  Q4J_FOR_EACH_WORKSPACE(Q4J_DECLARE_WORKSPACE)
} q4j_pack_workspaces;

typedef struct q4j_pack {
  uint32_t size;
  int32_t abi_version; /* Q4J_ABI_VERSION */
  int32_t device_kind; /* q4j_device_kind */
  const char* name;
  const char* build_info; /* "revision=<git> compiler=<...> architectures=<...>" */

  q4j_status (*create)(const q4j_context_options*, q4j_pack_context**);
  void (*destroy)(q4j_pack_context*);
  int32_t (*threads)(const q4j_pack_context*);

  q4j_status (*allocate)(q4j_pack_context*, int64_t bytes, void** memory);
  q4j_status (*free_memory)(q4j_pack_context*, void* memory);
  q4j_status (*copy_in)(q4j_pack_context*, void* device, const void* host, int64_t bytes);
  q4j_status (*copy_out)(q4j_pack_context*, void* host, const void* device, int64_t bytes);
  q4j_status (*fill)(q4j_pack_context*, void* device, int32_t value, int64_t bytes);
  q4j_status (*synchronize)(q4j_pack_context*);

  const q4j_pack_operators* operators;
  const q4j_pack_workspaces* workspaces;

  /* Optional, and absent from the tables of older packs: q4j_measure. */
  q4j_status (*measure)(q4j_pack_context*, int32_t limit, const void* memory, int64_t bytes, double* per_second);
} q4j_pack;

#undef Q4J_DECLARE_OPERATOR
#undef Q4J_DECLARE_WORKSPACE

/**
 * The one symbol of a pack. Returns NULL and sets the error text when this machine lacks what the pack needs
 * (the instructions, a driver); the table is static.
 */
#if defined(__GNUC__)
__attribute__((visibility("default")))
#endif
const q4j_pack*
q4j_pack_open(const q4j_host* host);

typedef const q4j_pack* (*q4j_pack_open_function)(const q4j_host*);

#ifdef __cplusplus
}
#endif

#endif /* QLORA4J_PACK_H_ */
