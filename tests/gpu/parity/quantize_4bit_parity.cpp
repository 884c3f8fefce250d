// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** quantize_4bit and dequantize_4bit: the format is exact, so every bit must be the reference's. */
#include <algorithm>
#include <cmath>

#include "harness.h"

namespace q4j::parity {
namespace {

std::vector<float> values(Random& random, int64_t n, bool special) {
  std::vector<float> all = random.normal(n, std::pow(10.0, random.uniform() * 6 - 3));
  if (special) {
    random.sprinkle_specials(&all);
    // A stretch that holds whole blocks of zeros.
    for (int64_t i = n / 2; i < std::min(n, n / 2 + 300); ++i) all[static_cast<size_t>(i)] = 0.0f;
  }
  return all;
}

void quantize(Run& run, const WeightKind& kind, int64_t n, int64_t offset, bool special) {
  const int64_t blocks = (n + kind.block_size - 1) / kind.block_size;
  const int64_t nested = kind.nested_block_size;
  const Tensor& input = run.input(kind.dtype, 1, n, values(run.random, n, special), {0, offset});
  const Tensor& packed = run.output(Q4J_U8, 1, (n + 1) / 2, {0, offset});
  const Tensor& absmax = run.output(nested > 0 ? Q4J_U8 : Q4J_F32, 1, blocks);
  auto q = params<q4j_quantize_4bit_params>();
  q.format = kind.format;
  q.dtype = kind.dtype;
  q.block_size = kind.block_size;
  q.nested_block_size = kind.nested_block_size;
  q.n = n;
  q.input = input.data();
  q.packed = packed.data();
  q.absmax = absmax.data();
  if (nested == 0) {
    run.call(q4j_quantize_4bit, q4j_quantize_4bit_workspace_size, q);
  } else {
    const Tensor& nested_absmax = run.output(Q4J_F32, 1, (blocks + nested - 1) / nested);
    const Tensor& nested_offset = run.output(Q4J_F32, 1, 1);
    q.nested_absmax = nested_absmax.data();
    q.nested_offset = nested_offset.data();
    run.call(q4j_quantize_4bit, q4j_quantize_4bit_workspace_size, q);
    run.compare("nested_absmax", nested_absmax, Tolerance::bits());
    run.compare("nested_offset", nested_offset, Tolerance::bits());
  }
  run.compare("packed", packed, Tolerance::bits());
  run.compare("absmax", absmax, Tolerance::bits());
}

void dequantize(Run& run, const WeightKind& kind, int64_t rows, int64_t cols, int32_t dtype, int64_t offset, bool special) {
  const q4j_weight w = run.weight(kind, rows, cols, values(run.random, rows * cols, special), {0, offset});
  // A matrix with a NaN or an infinity has no finite offset, which the loader refuses.
  if (!std::isfinite(w.nested_offset)) return;
  const Tensor& output = run.output(dtype, rows, cols, {0, offset});
  auto d = params<q4j_dequantize_4bit_params>();
  d.dtype = dtype;
  d.weight = &w;
  d.output = output.data();
  run.call(q4j_dequantize_4bit, d);
  run.compare("output", output, Tolerance::bits());
}

void cases(const Options& options) {
  Random random(17);
  for (const int32_t block_size : {32, 64, 128, 256, 512, 1024, 2048, 4096}) {
    std::vector<int64_t> sizes = {1, 2, 7, 8, block_size - 1, block_size, block_size + 1, 3 * block_size + 5, 16384 + 3};
    if (!options.small) sizes.insert(sizes.end(), {5 * 8192 + 77, 1000003, 1 << 20});
    for (const int64_t n : sizes) {
      for (const int32_t format : {Q4J_WEIGHT_NF4, Q4J_WEIGHT_FP4}) {
        for (const int32_t dtype : {Q4J_F32, Q4J_BF16, Q4J_F16}) {
          for (const int32_t nested : {0, 256}) {
            const WeightKind kind = {format, dtype, block_size, nested};
            const bool special = random.one_in(3);
            const int64_t offset = random.one_in(3) ? 1 : 0;
            if (options.small && !random.one_in(3)) continue;
            const std::string name =
                text("format %d dtype %d block %d nested %d n %lld special %d offset %lld", format, dtype, block_size, nested,
                     static_cast<long long>(n), special, static_cast<long long>(offset));
            register_case("quantize_4bit", name, [=](Run& run) { quantize(run, kind, n, offset, special); });
            register_case("dequantize_4bit", name, [=](Run& run) { dequantize(run, kind, 1, n, dtype, offset, special); });
          }
        }
      }
    }
  }
  // Blocks that straddle rows, and results of another type than the weight had.
  for (const int64_t cols : {1, 63, 64, 65, 200}) {
    for (const int32_t dtype : {Q4J_F32, Q4J_BF16, Q4J_F16}) {
      const WeightKind kind = {Q4J_WEIGHT_NF4, Q4J_F32, 64, 256};
      register_case("dequantize_4bit", text("rows 37 cols %lld from dtype 0 to dtype %d", static_cast<long long>(cols), dtype),
                    [=](Run& run) { dequantize(run, kind, 37, cols, dtype, 0, false); });
    }
  }
}

const Family family(&cases);

}  // namespace
}  // namespace q4j::parity
