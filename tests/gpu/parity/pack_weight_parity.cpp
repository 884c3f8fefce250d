// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * pack_weight and unpack_weight: there and back is the identity, to the pad nibble of an odd count, and the packed weight has
 * the canonical size plus alignment. The layout in between is the pack's own business. (What it means is checked where the
 * linear operators read it.)
 */
#include "harness.h"

namespace q4j::parity {
namespace {

void there_and_back(Run& run, const WeightKind& kind, int64_t rows, int64_t cols, int64_t offset) {
  const int64_t n = rows * cols;
  const int64_t blocks = (n + kind.block_size - 1) / kind.block_size;
  const int64_t nested = kind.nested_block_size;
  const int64_t nested_blocks = nested > 0 ? (blocks + nested - 1) / nested : 0;
  const int32_t absmax_dtype = nested > 0 ? Q4J_U8 : Q4J_F32;
  const int64_t absmax_bytes = blocks * (nested > 0 ? 1 : 4);
  const int64_t data_bytes = (n + 1) / 2;

  auto weight = params<q4j_weight>();
  weight.format = kind.format;
  weight.dtype = kind.dtype;
  weight.block_size = kind.block_size;
  weight.nested_block_size = kind.nested_block_size;
  weight.rows = rows;
  weight.cols = cols;
  // Any bytes are a weight, also where they are the absmax.
  weight.data = run.input_bytes(Q4J_U8, 1, data_bytes, run.random.bytes(data_bytes), {0, offset}).data();
  weight.absmax = run.input_bytes(absmax_dtype, 1, blocks, run.random.bytes(absmax_bytes), {0, offset}).data();
  if (nested > 0) {
    weight.nested_absmax = run.input_bytes(Q4J_F32, 1, nested_blocks, run.random.bytes(nested_blocks * 4)).data();
  }

  int64_t bytes = -1;
  auto pack = params<q4j_pack_weight_params>();
  pack.weight = &weight;
  pack.packed_bytes = &bytes;
  run.call(q4j_pack_weight, pack);
  const int64_t canonical_bytes = data_bytes + absmax_bytes + nested_blocks * 4;
  if (bytes < canonical_bytes || bytes >= canonical_bytes + 3 * 64) {
    throw Failure(Q4J_INTERNAL_ERROR, text("%lld bytes packed, %lld canonical: more than alignment",
                                           static_cast<long long>(bytes), static_cast<long long>(canonical_bytes)));
  }
  const int64_t measured = bytes;
  pack.packed = run.output(Q4J_U8, 1, bytes).data();
  run.call(q4j_pack_weight, pack);
  if (bytes != measured) throw Failure(Q4J_INTERNAL_ERROR, "another size while packing than before");

  q4j_weight packed = weight;
  packed.layout = Q4J_LAYOUT_PACKED;
  packed.data = pack.packed;
  packed.absmax = nullptr;
  packed.nested_absmax = nullptr;
  const Tensor& data = run.output(Q4J_U8, 1, data_bytes, {0, offset});
  const Tensor& absmax = run.output(absmax_dtype, 1, blocks, {0, offset});
  const Tensor& nested_absmax = run.output(Q4J_F32, 1, nested_blocks);
  auto unpack = params<q4j_unpack_weight_params>();
  unpack.weight = &packed;
  unpack.data = data.data();
  unpack.absmax = absmax.data();
  unpack.nested_absmax = nested > 0 ? nested_absmax.data() : nullptr;
  run.call(q4j_unpack_weight, unpack);
  run.compare("data", data, Tolerance::bits());
  run.compare("absmax", absmax, Tolerance::bits());
  if (nested > 0) run.compare("nested_absmax", nested_absmax, Tolerance::bits());
}

void cases(const Options& options) {
  struct Shape {
    int64_t rows;
    int64_t cols;
    int32_t block_size;
  };
  std::vector<Shape> shapes = {
      // Tiles: one, several, blocks of several tiles.
      {16, 64, 64},
      {32, 64, 64},
      {16, 192, 64},
      {48, 256, 128},
      {80, 512, 256},
      {16, 4096, 4096},
      // Not quite: rows, columns, blocks that straddle rows, small blocks, odd counts.
      {15, 64, 64},
      {17, 64, 64},
      {16, 96, 64},
      {16, 64, 128},
      {32, 192, 128},
      {16, 64, 32},
      {1, 1, 64},
      {7, 9, 64},
      {3, 4099, 4096},
  };
  if (!options.small) shapes.insert(shapes.end(), {{256, 1024, 64}, {1040, 704, 64}, {512, 512, 512}, {333, 777, 64}});
  for (const Shape& shape : shapes) {
    for (const int32_t nested : {0, 32, 256}) {
      for (const int64_t offset : {0, 1}) {
        const WeightKind kind = {Q4J_WEIGHT_NF4, Q4J_BF16, shape.block_size, nested};
        const std::string name =
            text("rows %lld cols %lld block %d nested %d offset %lld", static_cast<long long>(shape.rows),
                 static_cast<long long>(shape.cols), shape.block_size, nested, static_cast<long long>(offset));
        for (const char* operator_name : {"pack_weight", "unpack_weight"}) {
          register_case(operator_name, name, [=](Run& run) { there_and_back(run, kind, shape.rows, shape.cols, offset); });
        }
      }
    }
  }
}

const Family family(&cases);

}  // namespace
}  // namespace q4j::parity
