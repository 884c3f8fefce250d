// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The reference's compute layout: the canonical parts one after the other, in one piece of memory. */
#include <cstring>

#include "matrix.h"

namespace q4j::reference {

namespace {

/** Copies a part that has a place on both sides. */
void copy(void* target, const void* source, int64_t bytes) {
  if (bytes > 0) std::memcpy(target, source, static_cast<std::size_t>(bytes));
}

}  // namespace

q4j_status pack_weight(q4j_pack_context*, const q4j_pack_weight_params* p) {
  const PackedParts parts(*p->weight);
  *p->packed_bytes = parts.bytes;
  if (p->packed == nullptr) return Q4J_OK;
  auto* packed = static_cast<unsigned char*>(p->packed);
  copy(packed, p->weight->data, parts.data_bytes);
  copy(packed + parts.absmax_at, p->weight->absmax, parts.absmax_bytes);
  copy(packed + parts.nested_at, p->weight->nested_absmax, parts.nested_bytes);
  return Q4J_OK;
}

q4j_status unpack_weight(q4j_pack_context*, const q4j_unpack_weight_params* p) {
  const PackedParts parts(*p->weight);
  const auto* packed = static_cast<const unsigned char*>(p->weight->data);
  copy(p->data, packed, parts.data_bytes);
  copy(p->absmax, packed + parts.absmax_at, parts.absmax_bytes);
  copy(p->nested_absmax, packed + parts.nested_at, parts.nested_bytes);
  return Q4J_OK;
}

}  // namespace q4j::reference
