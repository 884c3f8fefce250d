// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** qlora4j/context.h: opening packs, resolving who serves which operator, and device memory. */
#include "context.h"

#include <cstring>
#include <memory>
#include <new>

#include "build_info.h"
#include "error.h"
#include "last_error.h"
#include "sized_struct.h"

namespace {

using q4j::loader::OpenPack;

bool has_all_linear(const OpenPack& pack) {
  return pack.find(&q4j_pack_operators::linear_forward) != nullptr &&
         pack.find(&q4j_pack_operators::linear_backward_input) != nullptr &&
         pack.find(&q4j_pack_operators::linear_weight_gradient) != nullptr &&
         pack.find(&q4j_pack_operators::lora_weight_gradient) != nullptr;
}

/** What an operator shares with others, which decides who may serve it. */
enum class Group {
  kNone,
  kLinear,     // hand each other xa and dyb in the rounding of one pack, and share its weight layout
  kLayout,     // make and read that layout
  kPagedStore  // a store is an object of the pack that made it
};

Group group_of(const char* name) {
  if (std::strcmp(name, "linear_forward") == 0 || std::strcmp(name, "linear_backward_input") == 0 ||
      std::strcmp(name, "linear_weight_gradient") == 0 || std::strcmp(name, "lora_weight_gradient") == 0) {
    return Group::kLinear;
  }
  if (std::strcmp(name, "pack_weight") == 0 || std::strcmp(name, "unpack_weight") == 0) return Group::kLayout;
  return std::strncmp(name, "paged_store_", 12) == 0 ? Group::kPagedStore : Group::kNone;
}

void resolve_providers(q4j_context& context) {
  const bool borrow_linear = context.base.is_open() && !has_all_linear(context.pack);
  const bool borrow_store = context.base.is_open() && context.pack.find(&q4j_pack_operators::paged_store_create) == nullptr;
#define Q4J_RESOLVE(operator_name)                                                                                        \
  {                                                                                                                       \
    const Group group = group_of(#operator_name);                                                                         \
    const bool own = context.pack.find(&q4j_pack_operators::operator_name) != nullptr;                                    \
    const bool borrowed = context.base.is_open() && context.base.find(&q4j_pack_operators::operator_name) != nullptr;     \
    const bool from_base = ((group == Group::kLinear || group == Group::kLayout) && borrow_linear) ||                     \
                           (group == Group::kPagedStore && borrow_store) || (group == Group::kNone && !own);              \
    context.provider.operator_name = !from_base && own ? &context.pack : from_base && borrowed ? &context.base : nullptr; \
  }
  Q4J_FOR_EACH_OPERATOR(Q4J_RESOLVE)
#undef Q4J_RESOLVE
}

q4j_status check_memory_call(const char* function, const q4j_context* context, int64_t bytes) {
  Q4J_REQUIRE(context != nullptr, Q4J_INVALID_ARGUMENT, "%s: the context is NULL", function);
  Q4J_REQUIRE(bytes >= 0, Q4J_INVALID_ARGUMENT, "%s: bytes must be at least 0, found %lld", function,
              static_cast<long long>(bytes));
  return Q4J_OK;
}

q4j_status finish(const char* function, const OpenPack& pack, q4j_status status) {
  if (status == Q4J_OK || q4j::loader::last_error()[0] != '\0') return status;
  Q4J_FAIL(status, "%s: pack '%s' failed with status %d and gave no reason", function, pack.table().name,
           static_cast<int>(status));
}

}  // namespace

q4j_status q4j_context_create(const char* path, const char* base_path, const q4j_context_options* options,
                              q4j_context** context) {
  Q4J_REQUIRE(context != nullptr, Q4J_INVALID_ARGUMENT, "context_create: there is nowhere to put the context, context is NULL");
  *context = nullptr;
  Q4J_REQUIRE(path != nullptr && path[0] != '\0', Q4J_INVALID_ARGUMENT, "context_create: the path of the kernel pack is %s",
              path == nullptr ? "NULL" : "empty");
  q4j_context_options chosen = {};
  chosen.size = sizeof chosen;
  if (options != nullptr) Q4J_RETURN_IF_ERROR(q4j::loader::adopt("context_create", "options", options, &chosen));
  Q4J_REQUIRE(chosen.device >= 0, Q4J_INVALID_ARGUMENT, "context_create: device must be at least 0, found %d", chosen.device);
  Q4J_REQUIRE(chosen.threads >= 0 && chosen.threads <= 4096, Q4J_INVALID_ARGUMENT,
              "context_create: threads must be in [0, 4096] (0: as many as the process may use), found %d", chosen.threads);

  std::unique_ptr<q4j_context> created(new (std::nothrow) q4j_context);
  Q4J_REQUIRE(created != nullptr, Q4J_INTERNAL_ERROR, "context_create: no host memory for a context");
  Q4J_RETURN_IF_ERROR(created->pack.open(path, chosen));
  if (base_path != nullptr && base_path[0] != '\0') {
    Q4J_RETURN_IF_ERROR(created->base.open(base_path, chosen));
    const q4j_pack& own = created->pack.table();
    const q4j_pack& base = created->base.table();
    Q4J_REQUIRE(own.device_kind == base.device_kind, Q4J_INVALID_ARGUMENT,
                "context_create: base pack '%s' works on device kind %d, pack '%s' on %d: they cannot share memory", base.name,
                base.device_kind, own.name, own.device_kind);
  }
  resolve_providers(*created);
  *context = created.release();
  return Q4J_OK;
}

void q4j_context_destroy(q4j_context* context) { delete context; }

int32_t q4j_abi_version(void) { return Q4J_ABI_VERSION; }

const char* q4j_loader_build_info(void) { return Q4J_BUILD_INFO; }

const char* q4j_pack_name(const q4j_context* context) { return context == nullptr ? "" : context->pack.table().name; }

const char* q4j_pack_build_info(const q4j_context* context) {
  return context == nullptr ? "" : context->pack.table().build_info;
}

int32_t q4j_pack_device_kind(const q4j_context* context) { return context == nullptr ? -1 : context->pack.table().device_kind; }

int32_t q4j_context_threads(const q4j_context* context) {
  return context == nullptr ? 0 : context->pack.table().threads(context->pack.context());
}

int32_t q4j_supports(const q4j_context* context, const char* operator_name) {
  if (context == nullptr || operator_name == nullptr) return 0;
#define Q4J_SUPPORTS(name) \
  if (std::strcmp(operator_name, #name) == 0) return context->provider.name != nullptr ? 1 : 0;
  Q4J_FOR_EACH_OPERATOR(Q4J_SUPPORTS)
#undef Q4J_SUPPORTS
  return 0;
}

q4j_status q4j_allocate(q4j_context* context, int64_t bytes, void** memory) {
  Q4J_RETURN_IF_ERROR(check_memory_call("allocate", context, bytes));
  Q4J_REQUIRE(memory != nullptr, Q4J_INVALID_ARGUMENT, "allocate: there is nowhere to put the address, memory is NULL");
  *memory = nullptr;
  if (bytes == 0) return Q4J_OK;
  q4j::loader::set_last_error(nullptr);
  return finish("allocate", context->pack, context->pack.table().allocate(context->pack.context(), bytes, memory));
}

q4j_status q4j_free(q4j_context* context, void* memory) {
  Q4J_RETURN_IF_ERROR(check_memory_call("free", context, 0));
  if (memory == nullptr) return Q4J_OK;
  q4j::loader::set_last_error(nullptr);
  return finish("free", context->pack, context->pack.table().free_memory(context->pack.context(), memory));
}

q4j_status q4j_copy_in(q4j_context* context, void* device, const void* host, int64_t bytes) {
  Q4J_RETURN_IF_ERROR(check_memory_call("copy_in", context, bytes));
  if (bytes == 0) return Q4J_OK;
  Q4J_REQUIRE(device != nullptr && host != nullptr, Q4J_INVALID_ARGUMENT, "copy_in: %s is NULL with %lld bytes to copy",
              device == nullptr ? "device" : "host", static_cast<long long>(bytes));
  q4j::loader::set_last_error(nullptr);
  return finish("copy_in", context->pack, context->pack.table().copy_in(context->pack.context(), device, host, bytes));
}

q4j_status q4j_copy_out(q4j_context* context, void* host, const void* device, int64_t bytes) {
  Q4J_RETURN_IF_ERROR(check_memory_call("copy_out", context, bytes));
  if (bytes == 0) return Q4J_OK;
  Q4J_REQUIRE(device != nullptr && host != nullptr, Q4J_INVALID_ARGUMENT, "copy_out: %s is NULL with %lld bytes to copy",
              device == nullptr ? "device" : "host", static_cast<long long>(bytes));
  q4j::loader::set_last_error(nullptr);
  return finish("copy_out", context->pack, context->pack.table().copy_out(context->pack.context(), host, device, bytes));
}

q4j_status q4j_fill(q4j_context* context, void* device, int32_t value, int64_t bytes) {
  Q4J_RETURN_IF_ERROR(check_memory_call("fill", context, bytes));
  Q4J_REQUIRE(value >= 0 && value <= 255, Q4J_INVALID_ARGUMENT, "fill: value must be a byte in [0, 255], found %d", value);
  if (bytes == 0) return Q4J_OK;
  Q4J_REQUIRE(device != nullptr, Q4J_INVALID_ARGUMENT, "fill: device is NULL with %lld bytes to fill",
              static_cast<long long>(bytes));
  q4j::loader::set_last_error(nullptr);
  return finish("fill", context->pack, context->pack.table().fill(context->pack.context(), device, value, bytes));
}

q4j_status q4j_synchronize(q4j_context* context) {
  Q4J_RETURN_IF_ERROR(check_memory_call("synchronize", context, 0));
  q4j::loader::set_last_error(nullptr);
  return finish("synchronize", context->pack, context->pack.table().synchronize(context->pack.context()));
}

q4j_status q4j_measure(q4j_context* context, int32_t limit, const void* memory, int64_t bytes, double* per_second) {
  Q4J_RETURN_IF_ERROR(check_memory_call("measure", context, bytes));
  Q4J_REQUIRE(per_second != nullptr, Q4J_INVALID_ARGUMENT, "measure: there is nowhere to put the result, per_second is NULL");
  *per_second = 0;
  Q4J_REQUIRE(limit >= Q4J_LIMIT_READ && limit <= Q4J_LIMIT_INT8, Q4J_INVALID_ARGUMENT,
              "measure: limit must be a q4j_limit, found %d", limit);
  Q4J_REQUIRE((limit == Q4J_LIMIT_READ) == (memory != nullptr) && (memory != nullptr) == (bytes > 0), Q4J_INVALID_ARGUMENT,
              "measure: reading needs memory and nothing else does, found limit %d with %lld bytes at %p", limit,
              static_cast<long long>(bytes), memory);
  const auto measure = context->pack.find(&q4j_pack::measure);
  Q4J_REQUIRE(measure != nullptr, Q4J_UNSUPPORTED, "measure: kernel pack '%s' measures no limits", context->pack.table().name);
  q4j::loader::set_last_error(nullptr);
  return finish("measure", context->pack, measure(context->pack.context(), limit, memory, bytes, per_second));
}

q4j_status q4j_profile(q4j_context* context, int32_t on) {
  Q4J_REQUIRE(context != nullptr, Q4J_INVALID_ARGUMENT, "profile: the context is NULL");
  if (on != 0) context->spent = {};
  context->profiling = on != 0;
  return Q4J_OK;
}

const char* q4j_operator_name(int32_t index) {
#define Q4J_NAME(name) #name,
  static constexpr const char* kNames[] = {Q4J_FOR_EACH_OPERATOR(Q4J_NAME)};
#undef Q4J_NAME
  return index < 0 || index >= q4j::loader::kOperators ? nullptr : kNames[index];
}

q4j_status q4j_profile_read(const q4j_context* context, int32_t index, int64_t* calls, int64_t* nanoseconds) {
  Q4J_REQUIRE(context != nullptr, Q4J_INVALID_ARGUMENT, "profile_read: the context is NULL");
  Q4J_REQUIRE(calls != nullptr && nanoseconds != nullptr, Q4J_INVALID_ARGUMENT,
              "profile_read: there is nowhere to put the figures, calls is %p, nanoseconds %p", static_cast<void*>(calls),
              static_cast<void*>(nanoseconds));
  Q4J_REQUIRE(index >= 0 && index < q4j::loader::kOperators, Q4J_INVALID_ARGUMENT,
              "profile_read: index must be in [0, %d), found %d", static_cast<int>(q4j::loader::kOperators), index);
  const q4j::loader::Spent& spent = context->spent[static_cast<std::size_t>(index)];
  *calls = spent.calls;
  *nanoseconds = spent.nanoseconds;
  return Q4J_OK;
}
