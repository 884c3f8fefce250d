// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** What a CPU pack keeps for one context. */
#ifndef QLORA4J_SRC_CPU_PACK_CONTEXT_H_
#define QLORA4J_SRC_CPU_PACK_CONTEXT_H_

#include "qlora4j/pack.h"
#include "thread_pool.h"

struct q4j_pack_context {
  explicit q4j_pack_context(int threads) : pool(threads) {}

  q4j::cpu::ThreadPool pool;
};

#endif  // QLORA4J_SRC_CPU_PACK_CONTEXT_H_
