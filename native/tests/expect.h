// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Counting assertions of the native tests: a failure is printed with its place and the test goes on. */
#ifndef QLORA4J_TESTS_EXPECT_H_
#define QLORA4J_TESTS_EXPECT_H_

#include <cstdio>
#include <cstring>

namespace q4j::test {

struct Counts {
  int passed = 0;
  int failed = 0;
};

inline Counts counts;

inline bool expect(bool condition, const char* text, const char* file, int line) {
  if (condition) {
    ++counts.passed;
  } else {
    ++counts.failed;
    std::fprintf(stderr, "%s:%d: expected %s\n", file, line, text);
  }
  return condition;
}

/** Prints the counts; the exit status of the test. */
inline int finish(const char* test) {
  std::printf("%s: %d passed, %d failed\n", test, counts.passed, counts.failed);
  return counts.failed == 0 && counts.passed > 0 ? 0 : 1;
}

}  // namespace q4j::test

#define EXPECT(condition) ::q4j::test::expect((condition), #condition, __FILE__, __LINE__)

/** The text of the last error holds `part`. */
#define EXPECT_ERROR_TEXT(part)                                                                         \
  do {                                                                                                  \
    if (!EXPECT(std::strstr(q4j_last_error(), (part)) != nullptr)) {                                    \
      std::fprintf(stderr, "    no \"%s\" in: %s\n", static_cast<const char*>(part), q4j_last_error()); \
    }                                                                                                   \
  } while (false)

#endif  // QLORA4J_TESTS_EXPECT_H_
