// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The build information string. The build defines Q4J_REVISION to the git revision as a string literal. */
#ifndef QLORA4J_SUPPORT_BUILD_INFO_H_
#define QLORA4J_SUPPORT_BUILD_INFO_H_

#ifndef Q4J_REVISION
#define Q4J_REVISION "unknown"
#endif

#if defined(__clang__)
#define Q4J_COMPILER "clang-" __clang_version__
#elif defined(__GNUC__)
#define Q4J_COMPILER "g++-" __VERSION__
#else
#define Q4J_COMPILER "unknown"
#endif

/** "revision=... compiler=...", for a string literal. */
#define Q4J_BUILD_INFO "revision=" Q4J_REVISION " compiler=" Q4J_COMPILER

#endif  // QLORA4J_SUPPORT_BUILD_INFO_H_
