// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * What the entry point (compiled for any x86-64) and the rest of a CPU pack (compiled for its instructions) share. Only
 * declarations: an inline function here could be kept in its AVX-512 form and run before the CPU was asked.
 */
#ifndef QLORA4J_SRC_CPU_PACK_TABLE_H_
#define QLORA4J_SRC_CPU_PACK_TABLE_H_

#include "qlora4j/pack.h"

#if defined(__AMX_TILE__)
#define Q4J_ARCHITECTURES_TEXT "x86-64+avx512+avx512bf16+amx"
#elif defined(__AVX512BF16__)
#define Q4J_ARCHITECTURES_TEXT "x86-64+avx512+avx512bf16"
#elif defined(__AVX512F__)
#define Q4J_ARCHITECTURES_TEXT "x86-64+avx512"
#else
#define Q4J_ARCHITECTURES_TEXT "x86-64+avx2+fma"
#endif

namespace q4j::cpu {

/** The pack's table. Call it only once the CPU is known to have the pack's instructions. */
const q4j_pack* pack_table();

/** Hands the text of an error on this thread to the loader. */
void set_error(const char* text);

}  // namespace q4j::cpu

#endif  // QLORA4J_SRC_CPU_PACK_TABLE_H_
