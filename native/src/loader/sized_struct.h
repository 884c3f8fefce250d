// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Reading a caller's struct that starts with its size. */
#ifndef QLORA4J_LOADER_SIZED_STRUCT_H_
#define QLORA4J_LOADER_SIZED_STRUCT_H_

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "error.h"

namespace q4j::loader {

/**
 * Copies a caller's struct into ours. An older caller's is shorter: the rest is zero, which every later field takes as "as
 * before". A newer caller's is longer: accepted as long as the part unknown here is zero, that is, nothing unknown was asked
 * for.
 */
template <typename Struct>
q4j_status adopt(const char* operation, const char* name, const Struct* caller, Struct* ours) {
  Q4J_REQUIRE(caller != nullptr, Q4J_INVALID_ARGUMENT, "%s: %s is NULL", operation, name);
  const std::size_t size = caller->size;
  // 4096 bounds what is read when the size was never set; a multiple of the alignment, as every sizeof is, cuts no field in
  // two.
  Q4J_REQUIRE(size > 0 && size <= 4096 && size % alignof(Struct) == 0, Q4J_INVALID_ARGUMENT,
              "%s: the size of %s must be set to sizeof, %zu here, found %zu", operation, name, sizeof(Struct), size);
  std::memset(ours, 0, sizeof *ours);
  std::memcpy(ours, caller, std::min(size, sizeof *ours));
  ours->size = static_cast<uint32_t>(sizeof *ours);
  const unsigned char* bytes = reinterpret_cast<const unsigned char*>(caller);
  for (std::size_t i = sizeof *ours; i < size; ++i) {
    Q4J_REQUIRE(bytes[i] == 0, Q4J_INVALID_ARGUMENT,
                "%s: %s has %zu bytes and sets one after the %zu this loader knows: the caller is newer than the loader",
                operation, name, size, sizeof *ours);
  }
  return Q4J_OK;
}

}  // namespace q4j::loader

#endif  // QLORA4J_LOADER_SIZED_STRUCT_H_
