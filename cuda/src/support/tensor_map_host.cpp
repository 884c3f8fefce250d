// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#include "support/tensor_map.h"

namespace q4j::cuda {

q4j_status make_tensor_map(const q4j_pack_context&, const void* base, int64_t rows, int64_t columns, int64_t ld,
                           int32_t box_rows, TensorMap* map) {
  *map = {base, rows, columns, ld, box_rows, 64};
  return Q4J_OK;
}

}  // namespace q4j::cuda
