// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** quantize_8bit_blockwise and dequantize_8bit_blockwise, bit for bit. */
#include <cmath>

#include "harness.h"

namespace q4j::parity {
namespace {

void quantize(Run& run, int32_t map, int32_t block_size, int64_t n, bool special) {
  std::vector<float> values = run.random.normal(n, std::pow(10.0, run.random.uniform() * 6 - 3));
  if (special) run.random.sprinkle_specials(&values);
  const Tensor& input = run.input(Q4J_F32, 1, n, values);
  const Tensor& codes = run.output(Q4J_U8, 1, n);
  const Tensor& absmax = run.output(Q4J_F32, 1, (n + block_size - 1) / block_size);
  auto q = params<q4j_quantize_8bit_blockwise_params>();
  q.map = map;
  q.block_size = block_size;
  q.n = n;
  q.input = input.data();
  q.codes = codes.data();
  q.absmax = absmax.data();
  run.call(q4j_quantize_8bit_blockwise, q);
  run.compare("codes", codes, Tolerance::bits());
  run.compare("absmax", absmax, Tolerance::bits());
}

void dequantize(Run& run, int32_t map, int32_t block_size, int64_t n, bool special) {
  const int64_t blocks = (n + block_size - 1) / block_size;
  std::vector<float> scales = run.random.uniform(blocks, 0.0, std::pow(10.0, run.random.uniform() * 6 - 3));
  if (special) run.random.sprinkle_specials(&scales);
  const Tensor& codes = run.input_bytes(Q4J_U8, 1, n, run.random.bytes(n));
  const Tensor& absmax = run.input(Q4J_F32, 1, blocks, scales);
  const Tensor& output = run.output(Q4J_F32, 1, n);
  auto d = params<q4j_dequantize_8bit_blockwise_params>();
  d.map = map;
  d.block_size = block_size;
  d.n = n;
  d.codes = codes.data();
  d.absmax = absmax.data();
  d.output = output.data();
  run.call(q4j_dequantize_8bit_blockwise, d);
  run.compare("output", output, Tolerance::bits());
}

void cases(const Options& options) {
  Random random(18);
  for (const int32_t block_size : {32, 64, 256, 4096}) {
    for (const int64_t n :
         {int64_t{1}, int64_t{9}, int64_t{block_size}, int64_t{3} * block_size + 5, int64_t{options.small ? 10007 : 1000003}}) {
      for (const int32_t map : {Q4J_MAP_DYNAMIC_SIGNED, Q4J_MAP_DYNAMIC_UNSIGNED}) {
        const bool special = random.one_in(3);
        const std::string name = text("map %d block %d n %lld special %d", map, block_size, static_cast<long long>(n), special);
        register_case("quantize_8bit_blockwise", name, [=](Run& run) { quantize(run, map, block_size, n, special); });
        register_case("dequantize_8bit_blockwise", name, [=](Run& run) { dequantize(run, map, block_size, n, special); });
      }
    }
  }
}

const Family family(&cases);

}  // namespace
}  // namespace q4j::parity
