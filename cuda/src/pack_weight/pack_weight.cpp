// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The operators: arguments, and which rung runs. */
#include "pack_weight/pack_weight.h"

#include "error.h"
#include "pack/operators.h"

namespace q4j::cuda {

namespace {

bool is_wide(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace

q4j_status pack_weight(q4j_pack_context* context, const q4j_pack_weight_params* params) {
  const q4j_weight& weight = *params->weight;
  const PackedLayout layout = packed_layout(weight);
  *params->packed_bytes = layout.bytes;
  if (params->packed == nullptr) return Q4J_OK;
  auto* packed = static_cast<uint8_t*>(params->packed);
  if (layout.tiles) {
    const RearrangeCodes codes = {static_cast<const uint8_t*>(weight.data), packed, weight.cols / 2, layout.row_tiles,
                                  weight.rows / kTileRows * layout.row_tiles};
    const bool wide = is_wide(weight.data) && context->rungs.pack_weight > 1;
    Q4J_RETURN_IF_ERROR(wide ? pack_codes_2(*context, codes) : pack_codes_1(*context, codes));
    Q4J_RETURN_IF_ERROR(pack_absmax(
        *context, {weight.absmax, packed + layout.absmax_at, layout.row_blocks, layout.blocks, weight.nested_block_size > 0}));
  } else {
    Q4J_RETURN_IF_ERROR(copy_part(*context, weight.data, packed, layout.data_bytes));
    Q4J_RETURN_IF_ERROR(copy_part(*context, weight.absmax, packed + layout.absmax_at, layout.absmax_bytes));
  }
  return copy_part(*context, weight.nested_absmax, packed + layout.nested_at, layout.nested_bytes);
}

q4j_status unpack_weight(q4j_pack_context* context, const q4j_unpack_weight_params* params) {
  const q4j_weight& weight = *params->weight;
  const PackedLayout layout = packed_layout(weight);
  const auto* packed = static_cast<const uint8_t*>(weight.data);
  Q4J_REQUIRE(reinterpret_cast<uintptr_t>(packed) % kPackedAlignment == 0, Q4J_INVALID_ARGUMENT,
              "unpack_weight: weight.data must be aligned to %lld bytes, as pack_weight's memory was, found %p",
              static_cast<long long>(kPackedAlignment), weight.data);
  if (layout.tiles) {
    const RearrangeCodes codes = {packed, static_cast<uint8_t*>(params->data), weight.cols / 2, layout.row_tiles,
                                  weight.rows / kTileRows * layout.row_tiles};
    const bool wide = is_wide(params->data) && context->rungs.unpack_weight > 1;
    Q4J_RETURN_IF_ERROR(wide ? unpack_codes_2(*context, codes) : unpack_codes_1(*context, codes));
    Q4J_RETURN_IF_ERROR(unpack_absmax(
        *context, {packed + layout.absmax_at, params->absmax, layout.row_blocks, layout.blocks, weight.nested_block_size > 0}));
  } else {
    Q4J_RETURN_IF_ERROR(copy_part(*context, packed, params->data, layout.data_bytes));
    Q4J_RETURN_IF_ERROR(copy_part(*context, packed + layout.absmax_at, params->absmax, layout.absmax_bytes));
  }
  return copy_part(*context, packed + layout.nested_at, params->nested_absmax, layout.nested_bytes);
}

}  // namespace q4j::cuda
