// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#include "open_pack.h"

#include <dlfcn.h>

#include "error.h"
#include "last_error.h"

namespace q4j::loader {

namespace {

constexpr const char* entry_symbol = "q4j_pack_open";

const q4j_host host = {sizeof(q4j_host), set_last_error};

}  // namespace

OpenPack::~OpenPack() {
  if (context_ != nullptr) table_->destroy(context_);
}

q4j_status OpenPack::open(const char* path, const q4j_context_options& options) {
  // RTLD_NODELETE: a pack may have thread-local state and, with a static CUDA runtime, exit handlers; both outlive a context.
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (library == nullptr) {
    const char* reason = dlerror();
    Q4J_FAIL(Q4J_INVALID_ARGUMENT, "kernel pack '%s' cannot be opened: %s", path,
             reason == nullptr ? "no reason given" : reason);
  }
  const auto entry = reinterpret_cast<q4j_pack_open_function>(dlsym(library, entry_symbol));
  Q4J_REQUIRE(entry != nullptr, Q4J_INVALID_ARGUMENT, "'%s' is a library but no kernel pack: it does not export %s", path,
              entry_symbol);

  set_last_error(nullptr);
  table_ = entry(&host);
  if (table_ == nullptr) {
    if (last_error()[0] != '\0') return Q4J_UNSUPPORTED;  // the pack has said what the machine lacks
    Q4J_FAIL(Q4J_UNSUPPORTED, "kernel pack '%s' cannot run on this machine and gives no reason", path);
  }
  Q4J_RETURN_IF_ERROR(check_table(path));

  set_last_error(nullptr);
  const q4j_status status = table_->create(&options, &context_);
  if (status != Q4J_OK) {
    context_ = nullptr;
    if (last_error()[0] != '\0') return status;
    Q4J_FAIL(status, "kernel pack '%s' could not create a context on device %d (status %d) and gives no reason", table_->name,
             options.device, static_cast<int>(status));
  }
  Q4J_REQUIRE(context_ != nullptr, Q4J_INTERNAL_ERROR, "kernel pack '%s' reported success but made no context", table_->name);
  return Q4J_OK;
}

q4j_status OpenPack::check_table(const char* path) const {
  const q4j_pack& t = *table_;
  // The version stands before everything that could differ between versions.
  Q4J_REQUIRE(t.abi_version == Q4J_ABI_VERSION, Q4J_INVALID_ARGUMENT,
              "kernel pack '%s' was built for ABI version %d, this loader needs version %d: rebuild the pack or use the "
              "matching qlora4j",
              path, t.abi_version, Q4J_ABI_VERSION);
  constexpr std::size_t least = offsetof(q4j_pack, measure);  // where the optional fields begin
  Q4J_REQUIRE(t.size >= least, Q4J_INVALID_ARGUMENT, "kernel pack '%s': its table has %u bytes, expected at least %zu", path,
              t.size, least);
  Q4J_REQUIRE(t.name != nullptr && t.build_info != nullptr, Q4J_INVALID_ARGUMENT,
              "kernel pack '%s': its table names no pack or build", path);
  Q4J_REQUIRE(t.create != nullptr && t.destroy != nullptr && t.threads != nullptr && t.allocate != nullptr &&
                  t.free_memory != nullptr && t.copy_in != nullptr && t.copy_out != nullptr && t.fill != nullptr &&
                  t.synchronize != nullptr,
              Q4J_INVALID_ARGUMENT, "kernel pack '%s': a context or memory function is missing from its table", path);
  Q4J_REQUIRE(t.operators != nullptr, Q4J_INVALID_ARGUMENT, "kernel pack '%s': its table has no operators", path);
#define Q4J_CHECK_WORKSPACE(name)                                                                                         \
  Q4J_REQUIRE(find(&q4j_pack_operators::name) == nullptr || find(&q4j_pack_workspaces::name##_workspace_size) != nullptr, \
              Q4J_INVALID_ARGUMENT, "kernel pack '%s' has %s but not %s_workspace_size", path, #name, #name);
  Q4J_FOR_EACH_WORKSPACE(Q4J_CHECK_WORKSPACE)
#undef Q4J_CHECK_WORKSPACE
  return Q4J_OK;
}

}  // namespace q4j::loader
