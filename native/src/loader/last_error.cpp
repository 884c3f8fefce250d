// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#include "last_error.h"

#include <cstdio>

#include "error.h"

namespace q4j::loader {

namespace {

// An array and not a std::string: no allocation when memory is short, and nothing to destroy when a thread of the JVM ends.
thread_local char text_of_thread[2048] = "";

// The loader's own errors go where the packs' go, from the moment the library is loaded.
const bool sink_installed = (error_sink = set_last_error, true);

}  // namespace

void set_last_error(const char* text) {
  std::snprintf(text_of_thread, sizeof text_of_thread, "%s", text == nullptr ? "" : text);
}

const char* last_error() { return text_of_thread; }

}  // namespace q4j::loader

const char* q4j_last_error(void) { return q4j::loader::last_error(); }
