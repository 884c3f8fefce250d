// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** <immintrin.h>, include it through this header: the AVX-512 headers of GCC 12 warn about their own deliberately undefined
 * registers. */
#ifndef QLORA4J_SRC_CPU_INTRINSICS_H_
#define QLORA4J_SRC_CPU_INTRINSICS_H_

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#endif  // QLORA4J_SRC_CPU_INTRINSICS_H_
