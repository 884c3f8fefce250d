// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The error text of the calling thread. */
#ifndef QLORA4J_LOADER_LAST_ERROR_H_
#define QLORA4J_LOADER_LAST_ERROR_H_

namespace q4j::loader {

/** Copies the text; longer ones are cut. NULL clears. */
void set_last_error(const char* text);

/** Never NULL; empty after a clear. */
const char* last_error();

}  // namespace q4j::loader

#endif  // QLORA4J_LOADER_LAST_ERROR_H_
