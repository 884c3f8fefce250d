// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** quantize_fp8_rowwise and dequantize_fp8_rowwise, bit for bit. */
#include <cmath>

#include "harness.h"

namespace q4j::parity {
namespace {

/** Rows that a kernel might treat apart: of zeros, and with scales that are subnormal, 0, tiny or huge. */
void make_rows_extreme(std::vector<float>* values, int64_t rows, int64_t cols) {
  const float factors[] = {0.0f, 0x1p-100f, 1.0f, 0x1p-125f, 0x1p100f, 0x1p-148f, 0x1p118f};
  for (int64_t r = 0; r < rows; ++r) {
    const float factor = factors[r % 7];
    for (int64_t c = 0; c < cols; ++c) (*values)[static_cast<std::size_t>(r * cols + c)] *= factor;
  }
}

void quantize(Run& run, int64_t rows, int64_t cols, int32_t dtype, int64_t offset, bool extreme, bool special) {
  std::vector<float> values = run.random.one_in(2) ? run.random.normal(rows * cols, 0.02) : run.random.wide(rows * cols, 12.0);
  if (extreme) make_rows_extreme(&values, rows, cols);
  if (special) run.random.sprinkle_specials(&values);
  const Tensor& input = run.input(dtype, rows, cols, values, {0, offset});
  const Tensor& codes = run.output(Q4J_F8_E4M3, rows, cols, {0, offset});
  const Tensor& scale = run.output(Q4J_F32, 1, rows);
  auto q = params<q4j_quantize_fp8_rowwise_params>();
  q.dtype = dtype;
  q.rows = rows;
  q.cols = cols;
  q.input = input.data();
  q.codes = codes.data();
  q.row_scale = scale.data();
  run.call(q4j_quantize_fp8_rowwise, q);
  run.compare("codes", codes, Tolerance::bits());
  run.compare("row_scale", scale, Tolerance::bits());
}

void dequantize(Run& run, int64_t rows, int64_t cols, int32_t dtype, int64_t offset, bool special) {
  std::vector<float> scales = run.random.uniform(rows, 0.0, std::pow(10.0, run.random.uniform() * 6 - 3));
  if (special) run.random.sprinkle_specials(&scales);
  // Every code, NaN included, where there is room for them.
  std::vector<uint8_t> bytes = run.random.bytes(rows * cols);
  for (std::size_t i = 0; i < bytes.size() && i < 256; ++i) bytes[i] = static_cast<uint8_t>(i);
  const Tensor& codes = run.input_bytes(Q4J_F8_E4M3, rows, cols, bytes, {0, offset});
  const Tensor& scale = run.input(Q4J_F32, 1, rows, scales);
  const Tensor& output = run.output(dtype, rows, cols, {0, offset});
  auto d = params<q4j_dequantize_fp8_rowwise_params>();
  d.dtype = dtype;
  d.rows = rows;
  d.cols = cols;
  d.codes = codes.data();
  d.row_scale = scale.data();
  d.output = output.data();
  run.call(q4j_dequantize_fp8_rowwise, d);
  run.compare("output", output, Tolerance::bits());
}

void cases(const Options& options) {
  Random random(23);
  const int64_t shapes[][2] = {{0, 4},
                               {1, 1},
                               {3, 7},
                               {5, 8},
                               {17, 33},
                               {14, 100},
                               {9, 256},
                               {2, 2048},
                               {3, 2049},
                               {2, 8192},
                               {3, 8200},
                               {2, 8201},
                               {options.small ? 7 : 700, 4104}};
  for (const auto& shape : shapes) {
    const int64_t rows = shape[0];
    const int64_t cols = shape[1];
    for (const int32_t dtype : {Q4J_F32, Q4J_BF16, Q4J_F16}) {
      const bool extreme = dtype != Q4J_F16 && random.one_in(2);
      const bool special = random.one_in(3);
      const int64_t offset = random.one_in(3) ? 1 : 0;
      const std::string name =
          text("dtype %d rows %lld cols %lld extreme %d special %d offset %lld", dtype, static_cast<long long>(rows),
               static_cast<long long>(cols), extreme, special, static_cast<long long>(offset));
      register_case("quantize_fp8_rowwise", name,
                    [=](Run& run) { quantize(run, rows, cols, dtype, offset, extreme, special); });
      register_case("dequantize_fp8_rowwise", name, [=](Run& run) { dequantize(run, rows, cols, dtype, offset, special); });
    }
  }
}

const Family family(&cases);

}  // namespace
}  // namespace q4j::parity
