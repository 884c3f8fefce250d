// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The build information string. Include it in one small source file of a library: the generated header changes with every
 * edit of a native source, and what includes it is compiled again.
 */
#ifndef QLORA4J_SUPPORT_BUILD_INFO_H_
#define QLORA4J_SUPPORT_BUILD_INFO_H_

#include "q4j_build_info.h"  // generated: Q4J_REVISION and Q4J_SOURCES, see cmake/BuildInfo.cmake

#if defined(__clang__)
#define Q4J_COMPILER "clang-" __clang_version__
#elif defined(__GNUC__)
#define Q4J_COMPILER "gcc-" __VERSION__
#else
#define Q4J_COMPILER "unknown"
#endif

/** "revision=... sources=... compiler=...", for a string literal. The compiler's version may hold spaces. */
#define Q4J_BUILD_INFO "revision=" Q4J_REVISION " sources=" Q4J_SOURCES " compiler=" Q4J_COMPILER

#endif  // QLORA4J_SUPPORT_BUILD_INFO_H_
