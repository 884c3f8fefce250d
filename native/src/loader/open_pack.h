// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** One opened kernel pack with its context, and the lookup of what it offers. */
#ifndef QLORA4J_LOADER_OPEN_PACK_H_
#define QLORA4J_LOADER_OPEN_PACK_H_

#include <cstddef>
#include <cstdint>

#include "qlora4j/pack.h"

namespace q4j::loader {

class OpenPack {
 public:
  OpenPack() = default;
  ~OpenPack();
  OpenPack(const OpenPack&) = delete;
  OpenPack& operator=(const OpenPack&) = delete;

  /** Opens the library, checks its table and creates the pack's context. */
  q4j_status open(const char* path, const q4j_context_options& options);

  bool is_open() const { return context_ != nullptr; }
  const q4j_pack& table() const { return *table_; }
  q4j_pack_context* context() const { return context_; }

  /** The operator's function, or NULL: left out, or unknown to a pack whose table ends earlier. */
  template <typename Function>
  Function find(Function q4j_pack_operators::*member) const {
    return read(table_->operators, member);
  }
  template <typename Function>
  Function find(Function q4j_pack_workspaces::*member) const {
    return read(table_->workspaces, member);
  }
  /** An optional function of the pack's own table. */
  template <typename Function>
  Function find(Function q4j_pack::*member) const {
    return read(table_, member);
  }

 private:
  template <typename Table, typename Function>
  static Function read(const Table* table, Function Table::*member) {
    if (table == nullptr) return nullptr;
    const auto end = reinterpret_cast<const char*>(&(table->*member) + 1) - reinterpret_cast<const char*>(table);
    return static_cast<std::size_t>(end) <= table->size ? table->*member : nullptr;
  }

  q4j_status check_table(const char* path) const;

  const q4j_pack* table_ = nullptr;
  q4j_pack_context* context_ = nullptr;
};

}  // namespace q4j::loader

#endif  // QLORA4J_LOADER_OPEN_PACK_H_
