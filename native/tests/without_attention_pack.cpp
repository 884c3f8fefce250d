// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The reference pack without attention, as packs for a GPU are: for the tests of what stands in for it. */
#include "build_info.h"
#include "host_memory.h"
#include "reference/reference.h"

namespace {

q4j_status create(const q4j_context_options*, q4j_pack_context** context) {
  static q4j_pack_context stateless = {0};
  *context = &stateless;
  return Q4J_OK;
}

void destroy(q4j_pack_context*) {}

int32_t threads(const q4j_pack_context*) { return 1; }

#define Q4J_ENTRY(name) q4j::reference::name,
#define Q4J_SIZE_ENTRY(name) q4j::reference::name##_workspace_size,
constexpr q4j_pack_operators table_of_operators() {
  q4j_pack_operators table = {sizeof(q4j_pack_operators), Q4J_FOR_EACH_OPERATOR(Q4J_ENTRY)};
  table.attention_forward = nullptr;
  table.attention_backward = nullptr;
  return table;
}

constexpr q4j_pack_workspaces table_of_workspaces() {
  q4j_pack_workspaces table = {sizeof(q4j_pack_workspaces), Q4J_FOR_EACH_WORKSPACE(Q4J_SIZE_ENTRY)};
  table.attention_forward_workspace_size = nullptr;
  table.attention_backward_workspace_size = nullptr;
  return table;
}
#undef Q4J_ENTRY
#undef Q4J_SIZE_ENTRY

constexpr q4j_pack_operators operators = table_of_operators();
constexpr q4j_pack_workspaces workspaces = table_of_workspaces();

const q4j_pack pack = {
    sizeof(q4j_pack), Q4J_ABI_VERSION, Q4J_DEVICE_CPU, Q4J_PACK_NAME,         Q4J_BUILD_INFO " architectures=any",
    create,           destroy,         threads,        q4j::host_allocate,    q4j::host_free,
    q4j::host_copy,   q4j::host_copy,  q4j::host_fill, q4j::host_synchronize, &operators,
    &workspaces,      nullptr,
};

}  // namespace

const q4j_pack* q4j_pack_open(const q4j_host* host) {
  q4j::error_sink = host->set_error;
  return &pack;
}
