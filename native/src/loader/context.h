// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The loader's context: a pack, perhaps a base pack, and which of the two serves each operator. */
#ifndef QLORA4J_LOADER_CONTEXT_H_
#define QLORA4J_LOADER_CONTEXT_H_

#include <array>

#include "open_pack.h"

namespace q4j::loader {

/** The operators by number, in the order of the table. */
enum Operator {
#define Q4J_NUMBER(name) k_##name,
  Q4J_FOR_EACH_OPERATOR(Q4J_NUMBER)
#undef Q4J_NUMBER
      kOperators
};

/** Calls of one operator and the time they took in the pack. */
struct Spent {
  int64_t calls = 0;
  int64_t nanoseconds = 0;
};

}  // namespace q4j::loader

struct q4j_context {
  q4j::loader::OpenPack pack;
  q4j::loader::OpenPack base;  // open only when a base path was given

  /** The pack that serves each operator; NULL: neither has it. */
  struct {
#define Q4J_PROVIDER(name) const q4j::loader::OpenPack* name = nullptr;
    Q4J_FOR_EACH_OPERATOR(Q4J_PROVIDER)
#undef Q4J_PROVIDER
  } provider;

  /** What q4j_profile counts; nothing while it is off. */
  bool profiling = false;
  std::array<q4j::loader::Spent, q4j::loader::kOperators> spent = {};
};

#endif  // QLORA4J_LOADER_CONTEXT_H_
