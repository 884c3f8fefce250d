// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** qlora4j/operators.h: every call is copied, validated and handed to the pack that serves the operator. */
#include <chrono>
#include <type_traits>

#include "context.h"
#include "error.h"
#include "last_error.h"
#include "sized_struct.h"
#include "validate.h"

namespace q4j::loader {

namespace {

template <typename Params, typename = void>
struct HasWeight : std::false_type {};
template <typename Params>
struct HasWeight<Params, std::void_t<decltype(std::declval<Params&>().weight)>>
    : std::is_same<decltype(std::declval<Params&>().weight), const q4j_weight*> {};

template <typename Params, typename = void>
struct HasLora : std::false_type {};
template <typename Params>
struct HasLora<Params, std::void_t<decltype(std::declval<Params&>().lora)>> : std::true_type {};

template <typename Params, typename = void>
struct HasForward : std::false_type {};
template <typename Params>
struct HasForward<Params, std::void_t<decltype(std::declval<Params&>().forward)>> : std::true_type {};

/** Our copy of a call's parameters and of the structs they point to. */
template <typename Params>
struct Call {
  Params params;
  q4j_weight weight;
  q4j_lora lora;
  q4j_attention_forward_params forward;

  q4j_status adopt_from(const char* operation, const Params* caller) {
    Q4J_RETURN_IF_ERROR(adopt(operation, "params", caller, &params));
    if constexpr (HasWeight<Params>::value) {
      if (params.weight != nullptr) {
        Q4J_RETURN_IF_ERROR(adopt(operation, "weight", params.weight, &weight));
        params.weight = &weight;
      }
    }
    if constexpr (HasLora<Params>::value) {
      if (params.lora != nullptr) {
        Q4J_RETURN_IF_ERROR(adopt(operation, "lora", params.lora, &lora));
        params.lora = &lora;
      }
    }
    if constexpr (HasForward<Params>::value) {
      if (params.forward != nullptr) {
        Q4J_RETURN_IF_ERROR(adopt(operation, "forward", params.forward, &forward));
        params.forward = &forward;
      }
    }
    return Q4J_OK;
  }
};

q4j_status check_provider(const char* operation, const q4j_context* context, const OpenPack* provider) {
  Q4J_REQUIRE(provider != nullptr, Q4J_UNSUPPORTED, "%s: kernel pack '%s' has no such operator%s%s%s", operation,
              context->pack.table().name, context->base.is_open() ? ", nor has its base pack '" : "",
              context->base.is_open() ? context->base.table().name : "", context->base.is_open() ? "'" : "");
  return Q4J_OK;
}

/** Adds the time until its end to what an operator has taken. */
class Stopwatch {
 public:
  Stopwatch(bool on, Spent& spent) : spent_(on ? &spent : nullptr) {
    if (on) start_ = std::chrono::steady_clock::now();
  }
  ~Stopwatch() {
    if (spent_ == nullptr) return;
    const auto time = std::chrono::steady_clock::now() - start_;
    ++spent_->calls;
    spent_->nanoseconds += std::chrono::duration_cast<std::chrono::nanoseconds>(time).count();
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  Spent* spent_;
  std::chrono::steady_clock::time_point start_;
};

template <typename Params, typename Function>
q4j_status call_pack(const char* operation, q4j_context& context, Operator number, const OpenPack& pack, Function function,
                     const Params& params) {
  set_last_error(nullptr);
  q4j_status status;
  {
    const Stopwatch stopwatch(context.profiling, context.spent[number]);
    status = function(pack.context(), &params);
  }
  if (status == Q4J_OK || last_error()[0] != '\0') return status;
  Q4J_FAIL(status, "%s: pack '%s' failed with status %d and gave no reason", operation, pack.table().name,
           static_cast<int>(status));
}

template <typename Params, typename Function>
q4j_status ask_workspace(const char* operation, const OpenPack& pack, Function function, const Params& params, int64_t* bytes) {
  set_last_error(nullptr);
  *bytes = 0;
  const q4j_status status = function(pack.context(), &params, bytes);
  if (status == Q4J_OK || last_error()[0] != '\0') return status;
  Q4J_FAIL(status, "%s_workspace_size: pack '%s' failed with status %d and gave no reason", operation, pack.table().name,
           static_cast<int>(status));
}

template <typename Params>
q4j_status prepare(const char* operation, const q4j_context* context, const OpenPack* provider, const Params* caller,
                   Phase phase, Call<Params>* call) {
  Q4J_RETURN_IF_ERROR(check_provider(operation, context, provider));
  Q4J_RETURN_IF_ERROR(call->adopt_from(operation, caller));
  return validate(call->params, phase);
}

/** Compares the caller's workspace with what the pack asks for these parameters. */
template <typename Params, typename Function>
q4j_status check_workspace(const char* operation, const OpenPack& pack, Function function, const Params& params) {
  int64_t needed = 0;
  Q4J_RETURN_IF_ERROR(ask_workspace(operation, pack, function, params, &needed));
  Q4J_REQUIRE(params.workspace_bytes >= needed, Q4J_INVALID_ARGUMENT,
              "%s: the workspace must have %lld bytes for these shapes, found %lld", operation, static_cast<long long>(needed),
              static_cast<long long>(params.workspace_bytes));
  if (needed == 0) return Q4J_OK;
  Q4J_REQUIRE(params.workspace != nullptr, Q4J_INVALID_ARGUMENT, "%s: workspace is NULL, %lld bytes are needed", operation,
              static_cast<long long>(needed));
  Q4J_REQUIRE(reinterpret_cast<std::uintptr_t>(params.workspace) % 64 == 0, Q4J_INVALID_ARGUMENT,
              "%s: the workspace must be aligned to 64 bytes, found %p", operation, params.workspace);
  return Q4J_OK;
}

}  // namespace

}  // namespace q4j::loader

namespace {

// Which operators have a workspace function: an overload per such name wins over the general template.
template <typename Params>
q4j_status check_workspace_of(const q4j::loader::OpenPack&, const Params&) {
  return Q4J_OK;
}
#define Q4J_CHECK_WORKSPACE(name)                                                                                     \
  q4j_status check_workspace_of(const q4j::loader::OpenPack& pack, const q4j_##name##_params& params) {               \
    return q4j::loader::check_workspace(#name, pack, pack.find(&q4j_pack_workspaces::name##_workspace_size), params); \
  }
Q4J_FOR_EACH_WORKSPACE(Q4J_CHECK_WORKSPACE)
#undef Q4J_CHECK_WORKSPACE

}  // namespace

#define Q4J_OPERATOR(name)                                                                                       \
  q4j_status q4j_##name(q4j_context* context, const q4j_##name##_params* params) {                               \
    Q4J_REQUIRE(context != nullptr, Q4J_INVALID_ARGUMENT, "%s: the context is NULL", #name);                     \
    const q4j::loader::OpenPack* provider = context->provider.name;                                              \
    q4j::loader::Call<q4j_##name##_params> call;                                                                 \
    Q4J_RETURN_IF_ERROR(q4j::loader::prepare(#name, context, provider, params, q4j::loader::Phase::run, &call)); \
    Q4J_RETURN_IF_ERROR(check_workspace_of(*provider, call.params));                                             \
    return q4j::loader::call_pack(#name, *context, q4j::loader::k_##name, *provider,                             \
                                  provider->find(&q4j_pack_operators::name), call.params);                       \
  }
Q4J_FOR_EACH_OPERATOR(Q4J_OPERATOR)
#undef Q4J_OPERATOR

#define Q4J_WORKSPACE(name)                                                                                                   \
  q4j_status q4j_##name##_workspace_size(q4j_context* context, const q4j_##name##_params* params, int64_t* bytes) {           \
    Q4J_REQUIRE(context != nullptr, Q4J_INVALID_ARGUMENT, "%s_workspace_size: the context is NULL", #name);                   \
    Q4J_REQUIRE(bytes != nullptr, Q4J_INVALID_ARGUMENT, "%s_workspace_size: there is nowhere to put the size, bytes is NULL", \
                #name);                                                                                                       \
    *bytes = 0;                                                                                                               \
    const q4j::loader::OpenPack* provider = context->provider.name;                                                           \
    q4j::loader::Call<q4j_##name##_params> call;                                                                              \
    Q4J_RETURN_IF_ERROR(q4j::loader::prepare(#name, context, provider, params, q4j::loader::Phase::measure, &call));          \
    return q4j::loader::ask_workspace(#name, *provider, provider->find(&q4j_pack_workspaces::name##_workspace_size),          \
                                      call.params, bytes);                                                                    \
  }
Q4J_FOR_EACH_WORKSPACE(Q4J_WORKSPACE)
#undef Q4J_WORKSPACE
