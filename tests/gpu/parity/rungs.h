// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The versions that the CUDA pack keeps of its operators, from its own table. */
#ifndef QLORA4J_GPU_PARITY_RUNGS_H_
#define QLORA4J_GPU_PARITY_RUNGS_H_

#include <string>
#include <vector>

#include "pack/rungs.h"
#include "qlora4j/pack.h"

namespace q4j::parity {

/** An entry of the table: how many versions there are and which one runs. */
struct Rung {
  const char* name;
  int rungs;
  int chosen;
};

#define Q4J_RUNG_ENTRY(name, rungs, chosen) {#name, rungs, chosen},
constexpr Rung kRungs[] = {Q4J_FOR_EACH_RUNG(Q4J_RUNG_ENTRY)};
#undef Q4J_RUNG_ENTRY

inline bool is_operator(const std::string& name) {
#define Q4J_IS_OPERATOR(operator_name) || name == #operator_name
  return false Q4J_FOR_EACH_OPERATOR(Q4J_IS_OPERATOR);
#undef Q4J_IS_OPERATOR
}

/** An entry that is no operator's may choose for several (rms_norm for its two passes) or for a part of one
 * (linear_forward_small). */
inline bool rung_concerns(const std::string& rung, const std::string& operator_name) {
  if (is_operator(rung)) return rung == operator_name;
  const auto begins = [](const std::string& text, const std::string& with) { return text.compare(0, with.size(), with) == 0; };
  return begins(operator_name, rung + "_") || begins(rung, operator_name + "_");
}

/** Values of Q4J_CUDA_RUNGS that together run every version of an operator; "" for the versions that run anyway. */
inline std::vector<std::string> rung_choices(const std::string& operator_name, bool every_rung) {
  std::vector<std::string> all;
  for (const Rung& rung : kRungs) {
    if (!every_rung || !rung_concerns(rung.name, operator_name)) continue;
    for (int i = 1; i <= rung.rungs; ++i) all.push_back(std::string(rung.name) + "=" + std::to_string(i));
  }
  if (all.empty()) all.emplace_back();
  return all;
}

}  // namespace q4j::parity

#endif  // QLORA4J_GPU_PARITY_RUNGS_H_
