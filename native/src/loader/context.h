// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The loader's context: a pack, perhaps a base pack, and which of the two serves each operator. */
#ifndef QLORA4J_LOADER_CONTEXT_H_
#define QLORA4J_LOADER_CONTEXT_H_

#include "open_pack.h"

struct q4j_context {
  q4j::loader::OpenPack pack;
  q4j::loader::OpenPack base;  // open only when a base path was given

  /** The pack that serves each operator; NULL: neither has it. */
  struct {
#define Q4J_PROVIDER(name) const q4j::loader::OpenPack* name = nullptr;
    Q4J_FOR_EACH_OPERATOR(Q4J_PROVIDER)
#undef Q4J_PROVIDER
  } provider;
};

#endif  // QLORA4J_LOADER_CONTEXT_H_
