// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The text of an error: what was expected, the values found, the condition and where it stands.
 *
 * Everything in native/src/support has internal linkage (`static inline`, namespace-scope `constexpr`): these headers are
 * compiled with different instruction sets within one library, and a shared inline function would let the linker hand code
 * built for AVX-512 to the part that has to run on any machine.
 */
#ifndef QLORA4J_SUPPORT_ERROR_H_
#define QLORA4J_SUPPORT_ERROR_H_

#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "qlora4j/pack.h"

namespace q4j {

using SetError = void (*)(const char*);

/** Where this library's error texts go: a pack sets it to q4j_host.set_error when it is opened. Hidden, one per library. */
__attribute__((visibility("hidden"))) inline SetError error_sink = nullptr;

/** The file's name without the folders of the build machine. */
static inline const char* file_name(const char* path) {
  const char* slash = std::strrchr(path, '/');
  return slash == nullptr ? path : slash + 1;
}

/** Formats "<message> [<condition>] (<file>:<line>)", passes it to the sink and returns `status`. */
__attribute__((format(printf, 5, 6), cold, noinline, unused)) static q4j_status fail(q4j_status status, const char* file,
                                                                                     int line, const char* condition,
                                                                                     const char* format, ...) {
  char text[1024];
  std::va_list arguments;
  va_start(arguments, format);
  int length = std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (length < 0) length = 0;
  const std::size_t used = static_cast<std::size_t>(length) < sizeof text ? static_cast<std::size_t>(length) : sizeof text - 1;
  if (condition != nullptr) {
    std::snprintf(text + used, sizeof text - used, " [%s] (%s:%d)", condition, file_name(file), line);
  } else {
    std::snprintf(text + used, sizeof text - used, " (%s:%d)", file_name(file), line);
  }
  if (error_sink != nullptr) error_sink(text);
  return status;
}

}  // namespace q4j

/** Returns `status` from the enclosing function with a printf-style message. A macro, because it returns from its place. */
#define Q4J_FAIL(status, ...) return ::q4j::fail((status), __FILE__, __LINE__, nullptr, __VA_ARGS__)

/** Returns `status` with the message and the text of the condition unless the condition holds. */
#define Q4J_REQUIRE(condition, status, ...)                                                      \
  do {                                                                                           \
    if (!(condition)) return ::q4j::fail((status), __FILE__, __LINE__, #condition, __VA_ARGS__); \
  } while (false)

/** Returns the status of a call that did not succeed; its text is already set. */
#define Q4J_RETURN_IF_ERROR(call)                                \
  do {                                                           \
    const q4j_status q4j_status_of_call = (call);                \
    if (q4j_status_of_call != Q4J_OK) return q4j_status_of_call; \
  } while (false)

#endif  // QLORA4J_SUPPORT_ERROR_H_
