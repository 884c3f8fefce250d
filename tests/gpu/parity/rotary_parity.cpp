// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** rotary: full and partial, forward and back, inside a fused projection and in a cache's layout, positions up to 2^20. */
#include <cmath>

#include "harness.h"

namespace q4j::parity {
namespace {

struct Shape {
  int64_t tokens;
  int64_t heads;
  int64_t head_dim;
  int32_t rotary_dim;
  int64_t gap; /* elements between a token's heads and the next token's, or between heads */
  int64_t offset;
};

void rotate(Run& run, const Shape& s, int32_t dtype, bool inverse, bool head_major) {
  // As a matrix, so that guard bytes lie in its gaps: rows are tokens, or heads.
  const int64_t rows = head_major ? s.heads : s.tokens;
  const int64_t cols = (head_major ? s.tokens : s.heads) * s.head_dim;
  const Layout layout = {cols + s.gap, s.offset};
  const Tensor& x = run.input(dtype, rows, cols, run.random.normal(rows * cols, 1), layout);
  std::vector<int32_t> positions(static_cast<size_t>(s.tokens));
  for (size_t t = 0; t < positions.size(); ++t) {
    positions[t] = t % 3 == 2 ? static_cast<int32_t>(run.random.below((1 << 20) + 1)) : static_cast<int32_t>(t);
  }
  const int32_t half = s.rotary_dim / 2;
  std::vector<float> frequencies(static_cast<size_t>(half));
  for (int32_t i = 0; i < half; ++i) {
    frequencies[static_cast<size_t>(i)] = static_cast<float>(std::pow(10000.0, -2.0 * i / s.rotary_dim));
  }
  auto p = params<q4j_rotary_params>();
  p.dtype = dtype;
  p.tokens = s.tokens;
  p.heads = s.heads;
  p.rotary_dim = s.rotary_dim;
  p.inverse = inverse ? 1 : 0;
  p.attention_scale = inverse ? 1.0f : 1.25f;
  p.positions = run.input_bytes(Q4J_I32, 1, s.tokens, bytes_of(positions)).data();
  p.inverse_frequencies = run.input(Q4J_F32, 1, half, frequencies).data();
  p.x = x.data();
  p.token_stride = head_major ? s.head_dim : x.ld();
  p.head_stride = head_major ? x.ld() : s.head_dim;
  run.call(q4j_rotary, p);
  // Sine and cosine are at most 1, so their error counts relative to the largest element; in bf16 they are rounded first.
  Tolerance tolerance = Tolerance::rounded(dtype, 1) + Tolerance::of_largest(16 * 0x1p-24, "sine and cosine");
  if (dtype == Q4J_BF16) tolerance = tolerance + Tolerance::intermediate(dtype);
  run.compare("x", x, tolerance);
}

void cases(const Options& options) {
  std::vector<Shape> shapes = {
      {0, 2, 16, 16, 0, 0},    {3, 0, 16, 16, 0, 0},   {1, 1, 2, 2, 0, 0},       {1, 3, 8, 8, 0, 0},
      {5, 2, 16, 8, 0, 0},     {7, 3, 64, 64, 64, 0},  {9, 1, 80, 20, 0, 0},     {4, 2, 96, 34, 96, 0},
      {33, 4, 128, 128, 0, 0}, {6, 4, 64, 64, 0, 1},   {6, 4, 64, 64, 5, 0},     {70, 1, 32, 16, 32, 0},
      {1, 1, 64, 64, 3, 0},    {3, 2, 256, 256, 0, 8}, {2, 1, 2048, 2048, 0, 0}, {2, 2, 2064, 2064, 0, 0}};
  if (!options.small) shapes.push_back({700, 8, 128, 128, 128, 0});
  for (const Shape& s : shapes) {
    for (const int32_t dtype : {Q4J_F32, Q4J_BF16}) {
      for (const bool inverse : {false, true}) {
        for (const bool head_major : {false, true}) {
          register_case(
              "rotary",
              text("dtype %d tokens %lld heads %lld dim %lld rotary %d gap %lld offset %lld inverse %d head major %d", dtype,
                   static_cast<long long>(s.tokens), static_cast<long long>(s.heads), static_cast<long long>(s.head_dim),
                   s.rotary_dim, static_cast<long long>(s.gap), static_cast<long long>(s.offset), inverse, head_major),
              [=](Run& run) { rotate(run, s, dtype, inverse, head_major); });
        }
      }
    }
  }
}

const Family family(&cases);

}  // namespace
}  // namespace q4j::parity
