// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * A pack that says it computes on a GPU and has every operator but attention, as the CUDA pack does, and opens on any machine:
 * for the tests of how a device is chosen. Its operators only fail, its memory is the host's.
 */
#include "build_info.h"
#include "host_memory.h"

struct q4j_pack_context {};

namespace {

q4j_status create(const q4j_context_options*, q4j_pack_context** context) {
  static q4j_pack_context stateless;
  *context = &stateless;
  return Q4J_OK;
}

void destroy(q4j_pack_context*) {}

int32_t threads(const q4j_pack_context*) { return 1; }

q4j_status allocate(q4j_pack_context*, int64_t bytes, void** memory) { return q4j::host_allocate(bytes, memory); }

q4j_status free_memory(q4j_pack_context*, void* memory) {
  q4j::host_free(memory);
  return Q4J_OK;
}

q4j_status copy(q4j_pack_context*, void* target, const void* source, int64_t bytes) {
  q4j::host_copy(target, source, bytes);
  return Q4J_OK;
}

q4j_status fill(q4j_pack_context*, void* memory, int32_t value, int64_t bytes) {
  q4j::host_fill(memory, value, bytes);
  return Q4J_OK;
}

q4j_status synchronize(q4j_pack_context*) { return Q4J_OK; }

#define Q4J_FAILING(name)                                                       \
  q4j_status name(q4j_pack_context*, const q4j_##name##_params*) {              \
    Q4J_FAIL(Q4J_UNSUPPORTED, "pretended-cuda: there is no GPU for %s", #name); \
  }
#define Q4J_NO_BYTES(name)                                                                          \
  q4j_status name##_workspace_size(q4j_pack_context*, const q4j_##name##_params*, int64_t* bytes) { \
    *bytes = 0;                                                                                     \
    return Q4J_OK;                                                                                  \
  }
Q4J_FOR_EACH_OPERATOR(Q4J_FAILING)
Q4J_FOR_EACH_WORKSPACE(Q4J_NO_BYTES)
#undef Q4J_FAILING
#undef Q4J_NO_BYTES

#define Q4J_ENTRY(name) name,
#define Q4J_SIZE_ENTRY(name) name##_workspace_size,
constexpr q4j_pack_operators table_of_operators() {
  q4j_pack_operators table = {sizeof(q4j_pack_operators), Q4J_FOR_EACH_OPERATOR(Q4J_ENTRY)};
  table.attention_forward = nullptr;
  table.attention_backward = nullptr;
  return table;
}

constexpr q4j_pack_operators operators = table_of_operators();
constexpr q4j_pack_workspaces workspaces = {sizeof(q4j_pack_workspaces), Q4J_FOR_EACH_WORKSPACE(Q4J_SIZE_ENTRY)};
#undef Q4J_ENTRY
#undef Q4J_SIZE_ENTRY

const q4j_pack pack = {
    sizeof(q4j_pack),
    Q4J_ABI_VERSION,
    Q4J_DEVICE_CUDA,
    Q4J_PACK_NAME,
    Q4J_BUILD_INFO " architectures=any",
    create,
    destroy,
    threads,
    allocate,
    free_memory,
    copy,
    copy,
    fill,
    synchronize,
    &operators,
    &workspaces,
    nullptr,
};

}  // namespace

const q4j_pack* q4j_pack_open(const q4j_host* host) {
  q4j::error_sink = host->set_error;
  return &pack;
}
