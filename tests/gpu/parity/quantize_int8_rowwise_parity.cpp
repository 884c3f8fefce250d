// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** quantize_int8_rowwise and dequantize_int8_rowwise, bit for bit. */
#include <cmath>

#include "harness.h"

namespace q4j::parity {
namespace {

void quantize(Run& run, int64_t rows, int64_t cols, int32_t dtype, float threshold, int64_t offset, bool special) {
  std::vector<float> values = run.random.normal(rows * cols, std::pow(10.0, run.random.uniform() * 6 - 3));
  if (special) run.random.sprinkle_specials(&values);
  const Tensor& input = run.input(dtype, rows, cols, values, {0, offset});
  const Tensor& codes = run.output(Q4J_I8, rows, cols, {0, offset});
  const Tensor& absmax = run.output(Q4J_F32, 1, rows);
  const Tensor& outliers = run.output(Q4J_U8, 1, cols);
  auto q = params<q4j_quantize_int8_rowwise_params>();
  q.dtype = dtype;
  q.outlier_threshold = threshold;
  q.rows = rows;
  q.cols = cols;
  q.input = input.data();
  q.codes = codes.data();
  q.row_absmax = absmax.data();
  q.outlier_cols = threshold > 0 ? outliers.data() : nullptr;
  run.call(q4j_quantize_int8_rowwise, q);
  run.compare("codes", codes, Tolerance::bits());
  run.compare("row_absmax", absmax, Tolerance::bits());
  if (threshold > 0) run.compare("outlier_cols", outliers, Tolerance::bits());
}

void dequantize(Run& run, int64_t rows, int64_t cols, int32_t dtype, int64_t offset, bool special) {
  std::vector<float> scales = run.random.uniform(rows, 0.0, std::pow(10.0, run.random.uniform() * 6 - 3));
  if (special) run.random.sprinkle_specials(&scales);
  const Tensor& codes = run.input_bytes(Q4J_I8, rows, cols, run.random.bytes(rows * cols), {0, offset});
  const Tensor& absmax = run.input(Q4J_F32, 1, rows, scales);
  const Tensor& output = run.output(dtype, rows, cols, {0, offset});
  auto d = params<q4j_dequantize_int8_rowwise_params>();
  d.dtype = dtype;
  d.rows = rows;
  d.cols = cols;
  d.codes = codes.data();
  d.row_absmax = absmax.data();
  d.output = output.data();
  run.call(q4j_dequantize_int8_rowwise, d);
  run.compare("output", output, Tolerance::bits());
}

void cases(const Options& options) {
  Random random(19);
  const int64_t shapes[][2] = {{1, 1},   {3, 7},    {5, 8},    {17, 33},
                               {9, 256}, {2, 2048}, {3, 2049}, {options.small ? 7 : 700, 4104}};
  for (const auto& shape : shapes) {
    const int64_t rows = shape[0];
    const int64_t cols = shape[1];
    for (const int32_t dtype : {Q4J_F32, Q4J_BF16, Q4J_F16}) {
      const bool special = random.one_in(3);
      const int64_t offset = random.one_in(3) ? 1 : 0;
      const std::string name = text("dtype %d rows %lld cols %lld special %d offset %lld", dtype, static_cast<long long>(rows),
                                    static_cast<long long>(cols), special, static_cast<long long>(offset));
      for (const float threshold : {0.0f, 2.5f}) {
        register_case("quantize_int8_rowwise", name + text(" threshold %g", static_cast<double>(threshold)),
                      [=](Run& run) { quantize(run, rows, cols, dtype, threshold, offset, special); });
      }
      register_case("dequantize_int8_rowwise", name, [=](Run& run) { dequantize(run, rows, cols, dtype, offset, special); });
    }
  }
}

const Family family(&cases);

}  // namespace
}  // namespace q4j::parity
