// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * A pack that computes nothing, for the tests of the loader. The environment variable Q4J_FAKE_PACK, read at every opening,
 * says how it misbehaves.
 */
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "qlora4j/pack.h"

namespace {

const q4j_host* host = nullptr;

#define Q4J_FAKE(name) \
  q4j_status name(q4j_pack_context*, const q4j_##name##_params*) { return Q4J_OK; }
Q4J_FOR_EACH_OPERATOR(Q4J_FAKE)
#undef Q4J_FAKE
#define Q4J_FAKE(name)                                                                              \
  q4j_status name##_workspace_size(q4j_pack_context*, const q4j_##name##_params*, int64_t* bytes) { \
    *bytes = 0;                                                                                     \
    return Q4J_OK;                                                                                  \
  }
Q4J_FOR_EACH_WORKSPACE(Q4J_FAKE)
#undef Q4J_FAKE

// The mark by which a test sees that this pack ran.
q4j_status rms_norm_forward_marked(q4j_pack_context*, const q4j_rms_norm_forward_params* p) {
  if (p->rstd != nullptr) *static_cast<float*>(p->rstd) = 42.0f;
  return Q4J_OK;
}

q4j_status linear_forward_marked(q4j_pack_context*, const q4j_linear_forward_params* p) {
  *static_cast<float*>(p->y) = 42.0f;
  return Q4J_OK;
}

q4j_status rms_norm_forward_silent_failure(q4j_pack_context*, const q4j_rms_norm_forward_params*) { return Q4J_DEVICE_ERROR; }

q4j_status rms_norm_forward_failure(q4j_pack_context*, const q4j_rms_norm_forward_params*) {
  host->set_error("the fake device caught fire");
  return Q4J_DEVICE_ERROR_FATAL;
}

struct Variant {
  q4j_pack pack;
  q4j_pack_operators operators;
  q4j_pack_workspaces workspaces;
};

// Every opening gets a table of its own, kept for the life of the process as a real pack's static table is.
std::map<std::string, Variant>& variants() {
  static std::map<std::string, Variant> all;
  return all;
}

int context_object = 0;

q4j_status create(const q4j_context_options*, q4j_pack_context** context) {
  *context = reinterpret_cast<q4j_pack_context*>(&context_object);
  return Q4J_OK;
}
q4j_status create_fails(const q4j_context_options* options, q4j_pack_context**) {
  if (options->device == 7) host->set_error("there is no device 7");
  return Q4J_UNSUPPORTED;
}
void destroy(q4j_pack_context*) {}
int32_t threads(const q4j_pack_context*) { return 3; }
q4j_status allocate(q4j_pack_context*, int64_t bytes, void** memory) {
  *memory = std::aligned_alloc(64, static_cast<std::size_t>((bytes + 63) / 64 * 64));
  return *memory == nullptr ? Q4J_OUT_OF_DEVICE_MEMORY : Q4J_OK;
}
q4j_status free_memory(q4j_pack_context*, void* memory) {
  std::free(memory);
  return Q4J_OK;
}
q4j_status copy(q4j_pack_context*, void* target, const void* source, int64_t bytes) {
  std::memcpy(target, source, static_cast<std::size_t>(bytes));
  return Q4J_OK;
}
q4j_status fill(q4j_pack_context*, void* memory, int32_t value, int64_t bytes) {
  std::memset(memory, value, static_cast<std::size_t>(bytes));
  return Q4J_OK;
}
q4j_status measure(q4j_pack_context*, int32_t limit, const void*, int64_t bytes, double* per_second) {
  *per_second = limit + 1000.0 * static_cast<double>(bytes);
  return Q4J_OK;
}

q4j_status synchronize(q4j_pack_context*) { return Q4J_OK; }

}  // namespace

const q4j_pack* q4j_pack_open(const q4j_host* loader) {
  host = loader;
  const char* wanted = std::getenv("Q4J_FAKE_PACK");
  const std::string kind = wanted == nullptr ? "" : wanted;
  if (kind == "refuses") {
    host->set_error("pack fake cannot run on this machine: no flux capacitor");
    return nullptr;
  }
  if (kind == "refuses-silently") return nullptr;

  Variant& v = variants()[kind];
#define Q4J_ENTRY(name) name,
  v.operators = {sizeof(q4j_pack_operators), Q4J_FOR_EACH_OPERATOR(Q4J_ENTRY)};
#undef Q4J_ENTRY
#define Q4J_ENTRY(name) name##_workspace_size,
  v.workspaces = {sizeof(q4j_pack_workspaces), Q4J_FOR_EACH_WORKSPACE(Q4J_ENTRY)};
#undef Q4J_ENTRY
  v.pack = {sizeof(q4j_pack),
            Q4J_ABI_VERSION,
            Q4J_DEVICE_CPU,
            "fake",
            "revision=none compiler=none architectures=none",
            create,
            destroy,
            threads,
            allocate,
            free_memory,
            copy,
            copy,
            fill,
            synchronize,
            &v.operators,
            &v.workspaces,
            measure};

  if (kind == "old-abi") v.pack.abi_version = Q4J_ABI_VERSION + 98;
  if (kind == "short-table") v.pack.size = 16;
  if (kind == "older-pack-table") v.pack.size = static_cast<uint32_t>(offsetof(q4j_pack, measure));
  if (kind == "no-memory-functions") v.pack.copy_in = nullptr;
  if (kind == "no-workspace-function") v.workspaces.linear_forward_workspace_size = nullptr;
  if (kind == "other-device") v.pack.device_kind = Q4J_DEVICE_CUDA;
  if (kind == "no-device") v.pack.create = create_fails;
  if (kind == "silent-failure") v.operators.rms_norm_forward = rms_norm_forward_silent_failure;
  if (kind == "failure") v.operators.rms_norm_forward = rms_norm_forward_failure;
  if (kind == "all-linear") {
    v.operators.linear_forward = linear_forward_marked;
    v.operators.rms_norm_forward = nullptr;
  }
  if (kind == "partial") {  // two operators; one belongs to the linear group
    v.operators = {};
    v.operators.size = sizeof(q4j_pack_operators);
    v.operators.rms_norm_forward = rms_norm_forward_marked;
    v.operators.linear_forward = linear_forward_marked;
  }
  if (kind == "early-end") {  // built when the table had only two operators
    v.operators.size = static_cast<uint32_t>(offsetof(q4j_pack_operators, quantize_8bit_blockwise));
  }
  return &v.pack;
}
