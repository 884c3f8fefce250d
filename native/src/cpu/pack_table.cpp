// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The table of a CPU pack, and its memory: the host's own, aligned to cache lines. */
#include <new>

#include "build_info.h"
#include "cpu_operators.h"
#include "error.h"
#include "host_memory.h"
#include "pack_context.h"
#include "pack_table.h"

#ifndef Q4J_PACK_NAME
#error "define Q4J_PACK_NAME, for example -DQ4J_PACK_NAME=\"cpu-avx2\""
#endif

namespace q4j::cpu {

namespace {

q4j_status create(const q4j_context_options* options, q4j_pack_context** context) {
  const int threads = options != nullptr && options->threads > 0 ? options->threads : default_threads();
  try {
    *context = new q4j_pack_context(threads);
  } catch (const std::bad_alloc&) {
    set_error("no memory for the context of pack " Q4J_PACK_NAME);
    return Q4J_OUT_OF_DEVICE_MEMORY;
  }
  return Q4J_OK;
}

void destroy(q4j_pack_context* context) { delete context; }

int32_t threads(const q4j_pack_context* context) { return context->pool.threads(); }

#define Q4J_OPERATOR_ENTRY(name) &q4j::cpu::name,
#define Q4J_WORKSPACE_ENTRY(name) &q4j::cpu::name##_workspace_size,

const q4j_pack_operators kOperators = {sizeof(q4j_pack_operators), Q4J_FOR_EACH_OPERATOR(Q4J_OPERATOR_ENTRY)};
const q4j_pack_workspaces kWorkspaces = {sizeof(q4j_pack_workspaces), Q4J_FOR_EACH_WORKSPACE(Q4J_WORKSPACE_ENTRY)};

const q4j_pack kPack = {
    sizeof(q4j_pack),
    Q4J_ABI_VERSION,
    Q4J_DEVICE_CPU,
    Q4J_PACK_NAME,
    Q4J_BUILD_INFO " architectures=" Q4J_ARCHITECTURES_TEXT,
    &create,
    &destroy,
    &threads,
    &host_allocate,
    &host_free,
    &host_copy,
    &host_copy,
    &host_fill,
    &host_synchronize,
    &kOperators,
    &kWorkspaces,
    &measure,
};

}  // namespace

const q4j_pack* pack_table() {
  error_sink = &set_error;  // error.h: where the operators put their texts
  return &kPack;
}

}  // namespace q4j::cpu
