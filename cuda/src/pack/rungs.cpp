// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#include "pack/rungs.h"

#include <cstdlib>
#include <cstring>

#include "error.h"

namespace q4j::cuda {

namespace {

struct Entry {
  const char* name;
  int rungs;
  int Rungs::*chosen;
};

#define Q4J_RUNG_ENTRY(name, rungs, chosen) {#name, rungs, &Rungs::name},
constexpr Entry kEntries[] = {Q4J_FOR_EACH_RUNG(Q4J_RUNG_ENTRY)};
#undef Q4J_RUNG_ENTRY

const Entry* find(const char* name, size_t length) {
  for (const Entry& entry : kEntries) {
    if (std::strlen(entry.name) == length && std::strncmp(entry.name, name, length) == 0) return &entry;
  }
  return nullptr;
}

}  // namespace

q4j_status override_rungs(const char* text, Rungs* rungs) {
  if (text == nullptr) return Q4J_OK;
  while (*text != '\0') {
    const size_t length = std::strcspn(text, "=,");
    const Entry* entry = find(text, length);
    Q4J_REQUIRE(entry != nullptr && text[length] == '=', Q4J_INVALID_ARGUMENT,
                "Q4J_CUDA_RUNGS: expected <operator>=<rung>[,...] with an operator that has rungs, found \"%s\"", text);
    char* end = nullptr;
    const long rung = std::strtol(text + length + 1, &end, 10);
    Q4J_REQUIRE(rung >= 1 && rung <= entry->rungs && (*end == ',' || *end == '\0'), Q4J_INVALID_ARGUMENT,
                "Q4J_CUDA_RUNGS: %s has the rungs 1 to %d, found \"%s\"", entry->name, entry->rungs, text);
    rungs->*(entry->chosen) = static_cast<int>(rung);
    text = *end == ',' ? end + 1 : end;
  }
  return Q4J_OK;
}

}  // namespace q4j::cuda
