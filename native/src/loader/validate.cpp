// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#include "validate.h"

#include <algorithm>

#include "check.h"
#include "quant.h"

namespace q4j::loader {

namespace {

constexpr int32_t max_rank = 65536;
constexpr int32_t max_heads = 65536;

void check_weight(Check& c, const q4j_weight& w) {
  const bool packed = w.layout == Q4J_LAYOUT_PACKED;
  c.in_range("weight.format", w.format, Q4J_WEIGHT_DENSE, Q4J_WEIGHT_FP8)
      .in_range("weight.layout", w.layout, Q4J_LAYOUT_CANONICAL, is_4bit(w.format) ? Q4J_LAYOUT_PACKED : Q4J_LAYOUT_CANONICAL)
      .float_type("weight.dtype", w.dtype)
      .size("weight.rows", w.rows)
      .size("weight.cols", w.cols)
      .elements("weight", w.rows, w.cols)
      .pointer("weight.data", w.data);
  if (w.format == Q4J_WEIGHT_DENSE) {
    c.leading_dimension("weight.ld", w.ld, w.rows, w.cols);
    return;
  }
  c.pointer("weight.absmax", w.absmax, !packed);
  if (!is_4bit(w.format)) return;
  c.block_size("weight.block_size", w.block_size);
  if (w.nested_block_size != 0) {
    c.block_size("weight.nested_block_size", w.nested_block_size).pointer("weight.nested_absmax", w.nested_absmax, !packed);
  }
}

/** A 4-bit weight in one of the two layouts. */
void check_4bit_weight(Check& c, const q4j_weight* w, q4j_weight_layout layout) {
  c.given("weight", w);
  if (!c.ok()) return;
  c.in_range("weight.format", w->format, Q4J_WEIGHT_NF4, Q4J_WEIGHT_FP4).in_range("weight.layout", w->layout, layout, layout);
  check_weight(c, *w);
}

/** The branch's options. Its factors are checked where they are read. */
void check_lora(Check& c, const q4j_lora* lora) {
  if (lora == nullptr) return;
  c.in_range("lora.rank", lora->rank, 0, max_rank);
  if (!c.ok() || lora->rank == 0) return;
  c.finite("lora.s", static_cast<double>(lora->s)).in_range("lora.compute", lora->compute, Q4J_LORA_FAST, Q4J_LORA_F32);
  const q4j_dropout& dropout = lora->dropout;
  c.fraction("lora.dropout.probability", static_cast<double>(dropout.probability));
  if (dropout.probability > 0.0f) {
    c.equal("lora.dropout.size", dropout.size, "sizeof(q4j_dropout)", static_cast<int64_t>(sizeof dropout));
  }
  c.count("lora.dropout.row_offset", dropout.row_offset);
}

bool has_branch(const q4j_lora* lora) { return lora != nullptr && lora->rank > 0; }

/** A matrix of `dtype` elements. */
Region region(const char* name, const void* data, int64_t rows, int64_t cols, int64_t ld, int32_t dtype) {
  return {name, data, rows, cols, ld, dtype_bytes(dtype)};
}

/** A contiguous array of n elements. */
Region array(const char* name, const void* data, int64_t n, int64_t element_bytes) {
  return {name, data, 1, n, n, element_bytes};
}

/**
 * Token and head strides of an array that is read (or, with `written`, must not reach one element in two ways).
 * The layouts [token][head][i] and [head][token][i], each with gaps, are both legal.
 */
void check_strides(Check& c, const char* name, int64_t tokens, int64_t heads, int64_t dim, int64_t token_stride,
                   int64_t head_stride, bool written, int line = __builtin_LINE()) {
  if (!c.ok() || tokens == 0 || heads == 0) return;
  const auto show = [&](const char* what) {
    c.fail_at(line, "%s: %s: %s, found %lld tokens with stride %lld and %lld heads with stride %lld for %lld elements",
              c.operation(), name, what, static_cast<long long>(tokens), static_cast<long long>(token_stride),
              static_cast<long long>(heads), static_cast<long long>(head_stride), static_cast<long long>(dim));
  };
  if ((tokens > 1 && token_stride < dim) || (heads > 1 && head_stride < dim)) {
    show("strides must be at least the length of a head");
    return;
  }
  c.count(name, tokens > 1 ? token_stride : 0, line).count(name, heads > 1 ? head_stride : 0, line);
  c.elements(name, tokens, tokens > 1 ? token_stride : dim, line).elements(name, heads, heads > 1 ? head_stride : dim, line);
  if (!c.ok() || !written || tokens == 1 || heads == 1) return;
  const bool token_major = token_stride >= (heads - 1) * head_stride + dim;
  const bool head_major = head_stride >= (tokens - 1) * token_stride + dim;
  if (!token_major && !head_major) show("two elements of an output share memory");
}

}  // namespace

q4j_status validate(const q4j_quantize_4bit_params& p, Phase phase) {
  Check c("quantize_4bit", phase);
  c.in_range("format", p.format, Q4J_WEIGHT_NF4, Q4J_WEIGHT_FP4)
      .float_type("dtype", p.dtype)
      .block_size("block_size", p.block_size)
      .count("n", p.n);
  if (p.nested_block_size != 0) c.block_size("nested_block_size", p.nested_block_size);
  const bool some = p.n > 0;
  c.pointer("input", p.input, some).pointer("packed", p.packed, some).pointer("absmax", p.absmax, some);
  if (p.nested_block_size != 0) {
    c.pointer("nested_absmax", p.nested_absmax, some).pointer("nested_offset", p.nested_offset);
  }
  if (c.ok() && some) {
    const int64_t blocks = ceil_div(p.n, p.block_size);
    const Region input = array("input", p.input, p.n, dtype_bytes(p.dtype));
    const Region packed = array("packed", p.packed, ceil_div(p.n, 2), 1);
    const Region absmax = array("absmax", p.absmax, blocks, p.nested_block_size != 0 ? 1 : 4);
    c.apart(packed, input).apart(absmax, input).apart(absmax, packed);
  }
  return c.status();
}

q4j_status validate(const q4j_dequantize_4bit_params& p, Phase phase) {
  Check c("dequantize_4bit", phase);
  c.float_type("dtype", p.dtype);
  check_4bit_weight(c, p.weight, Q4J_LAYOUT_CANONICAL);
  c.pointer("output", p.output);
  if (c.ok()) {
    const q4j_weight& w = *p.weight;
    const int64_t n = w.rows * w.cols;
    c.apart(array("output", p.output, n, dtype_bytes(p.dtype)), array("weight.data", w.data, ceil_div(n, 2), 1));
  }
  return c.status();
}

q4j_status validate(const q4j_quantize_8bit_blockwise_params& p, Phase phase) {
  Check c("quantize_8bit_blockwise", phase);
  const bool some = p.n > 0;
  c.in_range("map", p.map, Q4J_MAP_DYNAMIC_SIGNED, Q4J_MAP_DYNAMIC_UNSIGNED)
      .block_size("block_size", p.block_size)
      .count("n", p.n)
      .pointer("input", p.input, some)
      .pointer("codes", p.codes, some)
      .pointer("absmax", p.absmax, some);
  if (c.ok() && some) {
    const Region input = array("input", p.input, p.n, 4);
    c.apart(array("codes", p.codes, p.n, 1), input).apart(array("absmax", p.absmax, ceil_div(p.n, p.block_size), 4), input);
  }
  return c.status();
}

q4j_status validate(const q4j_dequantize_8bit_blockwise_params& p, Phase phase) {
  Check c("dequantize_8bit_blockwise", phase);
  const bool some = p.n > 0;
  c.in_range("map", p.map, Q4J_MAP_DYNAMIC_SIGNED, Q4J_MAP_DYNAMIC_UNSIGNED)
      .block_size("block_size", p.block_size)
      .count("n", p.n)
      .pointer("codes", p.codes, some)
      .pointer("absmax", p.absmax, some)
      .pointer("output", p.output, some);
  if (c.ok() && some) c.apart(array("output", p.output, p.n, 4), array("codes", p.codes, p.n, 1));
  return c.status();
}

q4j_status validate(const q4j_quantize_int8_rowwise_params& p, Phase phase) {
  Check c("quantize_int8_rowwise", phase);
  c.float_type("dtype", p.dtype)
      .at_least_zero("outlier_threshold", static_cast<double>(p.outlier_threshold))
      .count("rows", p.rows)
      .size("cols", p.cols)
      .elements("input", p.rows, p.cols);
  const bool some = p.rows > 0;
  c.pointer("input", p.input, some).pointer("codes", p.codes, some).pointer("row_absmax", p.row_absmax, some);
  if (p.outlier_threshold > 0.0f) c.pointer("outlier_cols", p.outlier_cols);
  if (c.ok() && some) {
    c.apart(array("codes", p.codes, p.rows * p.cols, 1), array("input", p.input, p.rows * p.cols, dtype_bytes(p.dtype)));
  }
  return c.status();
}

q4j_status validate(const q4j_dequantize_int8_rowwise_params& p, Phase phase) {
  Check c("dequantize_int8_rowwise", phase);
  c.float_type("dtype", p.dtype).count("rows", p.rows).size("cols", p.cols).elements("codes", p.rows, p.cols);
  const bool some = p.rows > 0;
  c.pointer("codes", p.codes, some).pointer("row_absmax", p.row_absmax, some).pointer("output", p.output, some);
  if (c.ok() && some) {
    c.apart(array("output", p.output, p.rows * p.cols, dtype_bytes(p.dtype)), array("codes", p.codes, p.rows * p.cols, 1));
  }
  return c.status();
}

q4j_status validate(const q4j_quantize_fp8_rowwise_params& p, Phase phase) {
  Check c("quantize_fp8_rowwise", phase);
  const bool some = p.rows > 0;
  c.float_type("dtype", p.dtype)
      .count("rows", p.rows)
      .size("cols", p.cols)
      .elements("input", p.rows, p.cols)
      .pointer("input", p.input, some)
      .pointer("codes", p.codes, some)
      .pointer("row_scale", p.row_scale, some);
  if (c.ok() && some) {
    const Region input = array("input", p.input, p.rows * p.cols, dtype_bytes(p.dtype));
    c.apart(array("codes", p.codes, p.rows * p.cols, 1), input).apart(array("row_scale", p.row_scale, p.rows, 4), input);
  }
  return c.status();
}

q4j_status validate(const q4j_dequantize_fp8_rowwise_params& p, Phase phase) {
  Check c("dequantize_fp8_rowwise", phase);
  const bool some = p.rows > 0;
  c.float_type("dtype", p.dtype)
      .count("rows", p.rows)
      .size("cols", p.cols)
      .elements("codes", p.rows, p.cols)
      .pointer("codes", p.codes, some)
      .pointer("row_scale", p.row_scale, some)
      .pointer("output", p.output, some);
  if (c.ok() && some) {
    c.apart(array("output", p.output, p.rows * p.cols, dtype_bytes(p.dtype)), array("codes", p.codes, p.rows * p.cols, 1));
  }
  return c.status();
}

q4j_status validate(const q4j_pack_weight_params& p, Phase) {
  // With packed = NULL only the size is asked for, and the weight's memory is not read.
  Check c("pack_weight", p.packed != nullptr ? Phase::run : Phase::measure);
  c.given("packed_bytes", p.packed_bytes);
  check_4bit_weight(c, p.weight, Q4J_LAYOUT_CANONICAL);
  c.aligned("packed", p.packed, 64);
  return c.status();
}

q4j_status validate(const q4j_unpack_weight_params& p, Phase phase) {
  Check c("unpack_weight", phase);
  check_4bit_weight(c, p.weight, Q4J_LAYOUT_PACKED);
  if (!c.ok()) return c.status();
  c.pointer("data", p.data)
      .pointer("absmax", p.absmax)
      .pointer("nested_absmax", p.nested_absmax, p.weight->nested_block_size != 0);
  return c.status();
}

q4j_status validate(const q4j_linear_forward_params& p, Phase phase) {
  Check c("linear_forward", phase);
  c.activation_type("dtype", p.dtype).count("m", p.m).given("weight", p.weight);
  if (!c.ok()) return c.status();
  check_weight(c, *p.weight);
  check_lora(c, p.lora);
  const int64_t n = p.weight->rows;
  const int64_t k = p.weight->cols;
  c.leading_dimension("ldx", p.ldx, p.m, k).elements("y", p.m, n);
  if (p.y != nullptr) c.leading_dimension("ldy", p.ldy, p.m, n);
  if (p.residual != nullptr) c.leading_dimension("ldr", p.ldr, p.m, n);
  if (p.bias != nullptr) c.activation_type("bias_dtype", p.bias_dtype);
  const bool some = p.m > 0;
  // Without y only xa is wanted, which takes a branch.
  c.pointer("x", p.x, some).pointer("y", p.y, some && !has_branch(p.lora));
  if (has_branch(p.lora)) {
    c.elements("xa", p.m, p.lora->rank)
        .elements("lora.a", p.lora->rank, k)
        .elements("lora.b", n, p.lora->rank)
        .pointer("lora.a", p.lora->a)
        .pointer("lora.b", p.lora->b)
        .pointer("xa", p.xa, some);
  }
  if (c.ok() && some) {
    const Region y = region("y", p.y, p.m, n, p.ldy, p.dtype);
    const Region x = region("x", p.x, p.m, k, p.ldx, p.dtype);
    c.apart(y, x).same_or_apart(y, region("residual", p.residual, p.m, n, p.ldr, p.dtype));
    if (has_branch(p.lora)) {
      const Region xa = region("xa", p.xa, p.m, p.lora->rank, p.lora->rank, Q4J_F32);
      c.apart(xa, x).apart(xa, y);
    }
  }
  return c.status();
}

q4j_status validate(const q4j_linear_backward_input_params& p, Phase phase) {
  Check c("linear_backward_input", phase);
  c.activation_type("dtype", p.dtype)
      .count("m", p.m)
      .size("n", p.n)
      .size("k", p.k)
      .flag("accumulate", p.accumulate)
      .elements("weight", p.n, p.k)
      .elements("dx", p.m, p.k)
      .leading_dimension("lddy", p.lddy, p.m, p.n);
  if (p.dx != nullptr) {
    c.leading_dimension("lddx", p.lddx, p.m, p.k).given("weight", p.weight);
  }
  if (p.weight != nullptr && c.ok()) {
    check_weight(c, *p.weight);
    c.equal("n", p.n, "weight.rows", p.weight->rows).equal("k", p.k, "weight.cols", p.weight->cols);
  }
  check_lora(c, p.lora);
  const bool some = p.m > 0;
  c.pointer("dy", p.dy, some);
  if (has_branch(p.lora)) {
    c.elements("dyb", p.m, p.lora->rank)
        .elements("lora.a", p.lora->rank, p.k)
        .elements("lora.b", p.n, p.lora->rank)
        .pointer("lora.a", p.lora->a, p.dx != nullptr)
        .pointer("lora.b", p.lora->b)
        .pointer("dyb", p.dyb, some);
  }
  if (c.ok() && some) {
    const Region dy = region("dy", p.dy, p.m, p.n, p.lddy, p.dtype);
    const Region dx = region("dx", p.dx, p.m, p.k, p.lddx, p.dtype);
    c.apart(dx, dy);
    if (has_branch(p.lora)) {
      const Region dyb = region("dyb", p.dyb, p.m, p.lora->rank, p.lora->rank, Q4J_F32);
      c.apart(dyb, dy).apart(dyb, dx);
    }
  }
  return c.status();
}

q4j_status validate(const q4j_lora_weight_gradient_params& p, Phase phase) {
  Check c("lora_weight_gradient", phase);
  c.activation_type("dtype", p.dtype)
      .count("m", p.m)
      .size("n", p.n)
      .size("k", p.k)
      .leading_dimension("ldx", p.ldx, p.m, p.k)
      .leading_dimension("lddy", p.lddy, p.m, p.n)
      .given("lora", p.lora);
  check_lora(c, c.ok() ? p.lora : nullptr);
  if (!c.ok()) return c.status();
  const int64_t rank = p.lora->rank;
  const bool some = p.m > 0;
  c.in_range("lora.rank", rank, 1, max_rank)
      .elements("da", rank, p.k)
      .elements("db", p.n, rank)
      .elements("xa", p.m, rank)
      .pointer("x", p.x, some)
      .pointer("dy", p.dy, some)
      .pointer("xa", p.xa, some)
      .pointer("dyb", p.dyb, some)
      .pointer("da", p.da)
      .pointer("db", p.db);
  if (c.ok() && some) {
    const Region da = array("da", p.da, rank * p.k, 4);
    const Region db = array("db", p.db, p.n * rank, 4);
    c.apart(da, db).apart(da, array("dyb", p.dyb, p.m * rank, 4)).apart(db, array("xa", p.xa, p.m * rank, 4));
  }
  return c.status();
}

q4j_status validate(const q4j_linear_weight_gradient_params& p, Phase phase) {
  Check c("linear_weight_gradient", phase);
  const bool some = p.m > 0;
  c.activation_type("dtype", p.dtype)
      .count("m", p.m)
      .size("n", p.n)
      .size("k", p.k)
      .elements("dw", p.n, p.k)
      .elements("x", p.m, p.k)
      .leading_dimension("lddy", p.lddy, p.m, p.n)
      .pointer("dy", p.dy, some);
  // The dbias alone can be asked for; x is then not read.
  if (p.dw != nullptr || p.dbias == nullptr) c.leading_dimension("ldx", p.ldx, p.m, p.k).pointer("x", p.x, some);
  c.pointer("dw (or dbias)", p.dw != nullptr ? p.dw : p.dbias);
  if (c.ok() && some) {
    const Region dw = array("dw", p.dw, p.n * p.k, 4);
    c.apart(dw, region("x", p.x, p.m, p.k, p.ldx, p.dtype)).apart(dw, region("dy", p.dy, p.m, p.n, p.lddy, p.dtype));
  }
  return c.status();
}

namespace {

/** What the two norms have in common. `sum` may be x or the residual. */
template <typename Params>
void check_norm_forward(Check& c, const Params& p) {
  const bool some = p.m > 0;
  c.activation_type("dtype", p.dtype)
      .activation_type("weight_dtype", p.weight_dtype)
      .count("m", p.m)
      .size("n", p.n)
      .elements("x", p.m, p.n)
      .at_least_zero("eps", static_cast<double>(p.eps))
      .pointer("x", p.x, some)
      .pointer("weight", p.weight)
      .pointer("y", p.y, some);
  if (!c.ok()) return;
  const Region x = region("x", p.x, p.m, p.n, p.n, p.dtype);
  const Region residual = region("residual", p.residual, p.m, p.n, p.n, p.dtype);
  const Region sum = region("sum", p.sum, p.m, p.n, p.n, p.dtype);
  const Region y = region("y", p.y, p.m, p.n, p.n, p.dtype);
  c.apart(y, x).apart(y, residual).apart(y, sum).same_or_apart(sum, x).same_or_apart(sum, residual);
}

/** What the two norms have in common. dx may be dresidual. */
template <typename Params>
void check_norm_backward(Check& c, const Params& p) {
  const bool some = p.m > 0;
  c.activation_type("dtype", p.dtype)
      .activation_type("weight_dtype", p.weight_dtype)
      .count("m", p.m)
      .size("n", p.n)
      .elements("u", p.m, p.n)
      .pointer("u", p.u, some)
      .pointer("weight", p.weight)
      .pointer("rstd", p.rstd, some)
      .pointer("dy", p.dy, some)
      .pointer("dx", p.dx, some);
  if (!c.ok()) return;
  const Region dx = region("dx", p.dx, p.m, p.n, p.n, p.dtype);
  c.apart(dx, region("u", p.u, p.m, p.n, p.n, p.dtype))
      .apart(dx, region("dy", p.dy, p.m, p.n, p.n, p.dtype))
      .same_or_apart(dx, region("dresidual", p.dresidual, p.m, p.n, p.n, p.dtype));
}

}  // namespace

q4j_status validate(const q4j_rms_norm_forward_params& p, Phase phase) {
  Check c("rms_norm_forward", phase);
  c.flag("unit_offset", p.unit_offset);
  check_norm_forward(c, p);
  return c.status();
}

q4j_status validate(const q4j_rms_norm_backward_params& p, Phase phase) {
  Check c("rms_norm_backward", phase);
  c.flag("unit_offset", p.unit_offset);
  check_norm_backward(c, p);
  return c.status();
}

q4j_status validate(const q4j_layer_norm_forward_params& p, Phase phase) {
  Check c("layer_norm_forward", phase);
  check_norm_forward(c, p);
  return c.status();
}

q4j_status validate(const q4j_layer_norm_backward_params& p, Phase phase) {
  Check c("layer_norm_backward", phase);
  c.pointer("mean", p.mean, p.m > 0);
  check_norm_backward(c, p);
  return c.status();
}

q4j_status validate(const q4j_rotary_params& p, Phase phase) {
  Check c("rotary", phase);
  c.activation_type("dtype", p.dtype)
      .count("tokens", p.tokens)
      .count("heads", p.heads)
      .that(p.rotary_dim >= 2 && p.rotary_dim % 2 == 0, "rotary_dim must be even and at least 2", p.rotary_dim)
      .flag("inverse", p.inverse)
      .finite("attention_scale", static_cast<double>(p.attention_scale));
  check_strides(c, "x", p.tokens, p.heads, p.rotary_dim, p.token_stride, p.head_stride, true);
  const bool some = p.tokens > 0 && p.heads > 0;
  c.pointer("positions", p.positions, some).pointer("inverse_frequencies", p.inverse_frequencies, some).pointer("x", p.x, some);
  return c.status();
}

q4j_status validate(const q4j_activation_forward_params& p, Phase phase) {
  Check c("activation_forward", phase);
  const bool some = p.m > 0;
  c.activation_type("dtype", p.dtype)
      .in_range("activation", p.activation, Q4J_ACTIVATION_SILU, Q4J_ACTIVATION_GELU_TANH)
      .count("m", p.m)
      .size("n", p.n)
      .leading_dimension("ldx", p.ldx, p.m, p.n);
  if (p.up != nullptr) c.leading_dimension("ldup", p.ldup, p.m, p.n);
  c.pointer("x", p.x, some).pointer("y", p.y, some);
  if (c.ok() && some) {
    const Region y = region("y", p.y, p.m, p.n, p.n, p.dtype);
    c.same_or_apart(y, region("x", p.x, p.m, p.n, p.ldx, p.dtype)).apart(y, region("up", p.up, p.m, p.n, p.ldup, p.dtype));
  }
  return c.status();
}

q4j_status validate(const q4j_activation_backward_params& p, Phase phase) {
  Check c("activation_backward", phase);
  const bool some = p.m > 0;
  c.activation_type("dtype", p.dtype)
      .in_range("activation", p.activation, Q4J_ACTIVATION_SILU, Q4J_ACTIVATION_GELU_TANH)
      .count("m", p.m)
      .size("n", p.n)
      .leading_dimension("ldx", p.ldx, p.m, p.n)
      .leading_dimension("lddx", p.lddx, p.m, p.n);
  if (p.up != nullptr) {
    c.leading_dimension("ldup", p.ldup, p.m, p.n).leading_dimension("lddup", p.lddup, p.m, p.n).pointer("dup", p.dup, some);
  }
  c.pointer("x", p.x, some).pointer("dy", p.dy, some).pointer("dx", p.dx, some);
  if (c.ok() && some) {
    const Region x = region("x", p.x, p.m, p.n, p.ldx, p.dtype);
    const Region up = region("up", p.up, p.m, p.n, p.ldup, p.dtype);
    const Region dy = region("dy", p.dy, p.m, p.n, p.n, p.dtype);
    const Region dx = region("dx", p.dx, p.m, p.n, p.lddx, p.dtype);
    const Region dup = region("dup", p.up != nullptr ? p.dup : nullptr, p.m, p.n, p.lddup, p.dtype);
    c.same_or_apart(dx, x).apart(dx, up).apart(dx, dy).apart(dx, dup);
    c.same_or_apart(dup, up).same_or_apart(dup, dy).apart(dup, x);
  }
  return c.status();
}

q4j_status validate(const q4j_cross_entropy_params& p, Phase phase) {
  Check c("cross_entropy", phase);
  const bool some = p.m > 0;
  c.activation_type("dtype", p.dtype)
      .count("m", p.m)
      .in_range("n", p.n, 1, INT32_MAX)
      .leading_dimension("ldlogits", p.ldlogits, p.m, p.n)
      .fraction("smoothing", static_cast<double>(p.smoothing))
      .at_least_zero("z_loss", static_cast<double>(p.z_loss))
      .finite("scale", static_cast<double>(p.scale));
  if (p.dlogits != nullptr) c.leading_dimension("lddlogits", p.lddlogits, p.m, p.n);
  c.pointer("logits", p.logits, some).pointer("labels", p.labels, some).pointer("loss", p.loss, some);
  if (c.ok() && some) {
    c.same_or_apart(region("dlogits", p.dlogits, p.m, p.n, p.lddlogits, p.dtype),
                    region("logits", p.logits, p.m, p.n, p.ldlogits, p.dtype));
  }
  return c.status();
}

namespace {

/** The host array of cumulative lengths: starts at 0, never decreases, no sequence longer than `longest`. */
void check_cumulative(Check& c, const char* name, const int32_t* cumulative, int32_t sequences, int32_t longest,
                      int line = __builtin_LINE()) {
  if (!c.ok()) return;
  if (cumulative[0] != 0) {
    c.fail_at(line, "%s: %s[0] must be 0, found %d", c.operation(), name, cumulative[0]);
    return;
  }
  for (int32_t s = 0; s < sequences; ++s) {
    if (cumulative[s + 1] < cumulative[s]) {
      c.fail_at(line, "%s: %s must not decrease, found %d after %d at sequence %d", c.operation(), name, cumulative[s + 1],
                cumulative[s], s);
      return;
    }
    if (cumulative[s + 1] - cumulative[s] > longest) {
      c.fail_at(line, "%s: sequence %d has %d tokens by %s, more than the longest, %d, given in max_q or max_k", c.operation(),
                s, cumulative[s + 1] - cumulative[s], name, longest);
      return;
    }
  }
}

/** What forward and backward share. `cu_q` and `cu_k` may be NULL while a workspace is measured. */
void check_attention(Check& c, const q4j_attention_forward_params& p) {
  c.activation_type("dtype", p.dtype)
      .in_range("kv_heads", p.kv_heads, 1, max_heads)
      .in_range("heads", p.heads, 1, max_heads)
      .that(p.head_dim >= 8 && p.head_dim <= 256 && p.head_dim % 8 == 0, "head_dim must be a multiple of 8 in [8, 256]",
            p.head_dim)
      .in_range("window", p.window, 0, INT32_MAX)
      .in_range("sequences", p.sequences, 0, INT32_MAX - 1)
      .in_range("max_q", p.max_q, 0, INT32_MAX)
      .in_range("max_k", p.max_k, 0, INT32_MAX)
      .finite("scale", static_cast<double>(p.scale));
  if (c.ok() && p.heads % p.kv_heads != 0) {
    c.fail_at(__LINE__, "%s: heads (%d) must be a multiple of kv_heads (%d)", c.operation(), p.heads, p.kv_heads);
  }
  c.pointer("cu_q", p.cu_q).pointer("cu_k", p.cu_k);
  if (!c.ok() || p.cu_q == nullptr || p.cu_k == nullptr) return;
  check_cumulative(c, "cu_q", p.cu_q, p.sequences, p.max_q);
  check_cumulative(c, "cu_k", p.cu_k, p.sequences, p.max_k);
  if (!c.ok()) return;
  const int64_t queries = p.cu_q[p.sequences];
  const int64_t keys = p.cu_k[p.sequences];
  check_strides(c, "q", queries, p.heads, p.head_dim, p.q_token_stride, p.q_head_stride, false);
  check_strides(c, "k", keys, p.kv_heads, p.head_dim, p.k_token_stride, p.k_head_stride, false);
  check_strides(c, "v", keys, p.kv_heads, p.head_dim, p.v_token_stride, p.v_head_stride, false);
  check_strides(c, "out", queries, p.heads, p.head_dim, p.out_token_stride, p.out_head_stride, true);
  c.pointer("q", p.q, queries > 0).pointer("k", p.k, keys > 0).pointer("v", p.v, keys > 0).pointer("out", p.out, queries > 0);
}

}  // namespace

q4j_status validate(const q4j_attention_forward_params& p, Phase phase) {
  Check c("attention_forward", phase);
  check_attention(c, p);
  return c.status();
}

q4j_status validate(const q4j_attention_backward_params& p, Phase phase) {
  Check c("attention_backward", phase);
  c.given("forward", p.forward);
  if (!c.ok()) return c.status();
  const q4j_attention_forward_params& f = *p.forward;
  check_attention(c, f);
  if (!c.ok() || f.cu_q == nullptr || f.cu_k == nullptr) return c.status();
  const int64_t queries = f.cu_q[f.sequences];
  const int64_t keys = f.cu_k[f.sequences];
  check_strides(c, "dout", queries, f.heads, f.head_dim, p.dout_token_stride, p.dout_head_stride, false);
  check_strides(c, "dq", queries, f.heads, f.head_dim, p.dq_token_stride, p.dq_head_stride, true);
  check_strides(c, "dk", keys, f.kv_heads, f.head_dim, p.dk_token_stride, p.dk_head_stride, true);
  check_strides(c, "dv", keys, f.kv_heads, f.head_dim, p.dv_token_stride, p.dv_head_stride, true);
  c.pointer("forward.lse", f.lse, queries > 0)
      .pointer("dout", p.dout, queries > 0)
      .pointer("dq", p.dq, queries > 0)
      .pointer("dk", p.dk, keys > 0)
      .pointer("dv", p.dv, keys > 0);
  return c.status();
}

q4j_status validate(const q4j_gradient_norm_params& p, Phase phase) {
  Check c("gradient_norm", phase);
  c.in_range("count", p.count, 0, INT32_MAX).pointer("result", p.result);
  if (p.count > 0) c.given("tensors", p.tensors).given("lengths", p.lengths);
  for (int32_t t = 0; t < p.count && c.ok(); ++t) {
    c.count("lengths[t]", p.lengths[t]);
    if (c.ok() && p.lengths[t] > 0 && p.tensors[t] == nullptr) c.fail_at(__LINE__, "gradient_norm: tensors[%d] is NULL", t);
  }
  return c.status();
}

namespace {

/** The options both AdamW operators share. */
template <typename Params>
void check_adamw(Check& c, const Params& p) {
  c.in_range("count", p.count, 0, INT32_MAX)
      .in_range("t", p.t, 1, INT64_MAX)
      .at_least_zero("learning_rate", p.learning_rate)
      .fraction("beta1", p.beta1)
      .fraction("beta2", p.beta2)
      .at_least_zero("eps", p.eps);
  if (p.count > 0) c.given("lengths", p.lengths).given("weight_decays", p.weight_decays);
  for (int32_t t = 0; t < p.count && c.ok(); ++t) {
    c.count("lengths[t]", p.lengths[t]).at_least_zero("weight_decays[t]", static_cast<double>(p.weight_decays[t]));
  }
}

/** A host array of device pointers, one for every tensor that has elements. */
template <typename Pointer>
void check_pointers(Check& c, const char* name, const Pointer* pointers, const int64_t* lengths, int32_t count) {
  if (count > 0) c.given(name, pointers);
  for (int32_t t = 0; t < count && c.ok(); ++t) {
    if (lengths[t] > 0 && pointers[t] == nullptr) c.fail_at(__LINE__, "%s: %s[%d] is NULL", c.operation(), name, t);
  }
}

}  // namespace

q4j_status validate(const q4j_adamw_params& p, Phase phase) {
  Check c("adamw", phase);
  check_adamw(c, p);
  check_pointers(c, "parameters", p.parameters, p.lengths, p.count);
  check_pointers(c, "gradients", p.gradients, p.lengths, p.count);
  check_pointers(c, "first_moments", p.first_moments, p.lengths, p.count);
  check_pointers(c, "second_moments", p.second_moments, p.lengths, p.count);
  return c.status();
}

q4j_status validate(const q4j_adamw_8bit_params& p, Phase phase) {
  Check c("adamw_8bit", phase);
  c.block_size("block_size", p.block_size);
  check_adamw(c, p);
  check_pointers(c, "parameters", p.parameters, p.lengths, p.count);
  check_pointers(c, "gradients", p.gradients, p.lengths, p.count);
  check_pointers(c, "first_moment_codes", p.first_moment_codes, p.lengths, p.count);
  check_pointers(c, "first_moment_absmax", p.first_moment_absmax, p.lengths, p.count);
  check_pointers(c, "second_moment_codes", p.second_moment_codes, p.lengths, p.count);
  check_pointers(c, "second_moment_absmax", p.second_moment_absmax, p.lengths, p.count);
  return c.status();
}

q4j_status validate(const q4j_paged_store_create_params& p, Phase phase) {
  Check c("paged_store_create", phase);
  c.given("store", p.store)
      .in_range("strategy", p.strategy, Q4J_PAGING_AUTO, Q4J_PAGING_MANAGED)
      .size("pages", p.pages)
      .size("page_bytes", p.page_bytes)
      .elements("pages * page_bytes", p.pages, p.page_bytes)
      .that(p.page_bytes % 256 == 0, "page_bytes must be a multiple of 256", p.page_bytes)
      .count("resident_bytes", p.resident_bytes);
  if (c.ok() && p.resident_bytes / p.page_bytes < (p.pages > 1 ? 2 : 1)) {
    c.fail_at(__LINE__,
              "paged_store_create: resident_bytes must hold two pages of %lld bytes, or one where there is one; found %lld",
              static_cast<long long>(p.page_bytes), static_cast<long long>(p.resident_bytes));
  }
  return c.status();
}

q4j_status validate(const q4j_paged_store_destroy_params& p, Phase phase) {
  Check c("paged_store_destroy", phase);
  c.given("store", p.store);
  return c.status();
}

// Page numbers and ranges are checked by the pack, which alone knows the store.
q4j_status validate(const q4j_paged_store_plan_params& p, Phase phase) {
  Check c("paged_store_plan", phase);
  c.given("store", p.store).count("count", p.count);
  if (p.count > 0) c.given("order", p.order);
  return c.status();
}

q4j_status validate(const q4j_paged_store_acquire_params& p, Phase phase) {
  Check c("paged_store_acquire", phase);
  c.given("store", p.store).count("page", p.page).given("memory", p.memory);
  return c.status();
}

q4j_status validate(const q4j_paged_store_release_params& p, Phase phase) {
  Check c("paged_store_release", phase);
  c.given("store", p.store).count("page", p.page).flag("dirty", p.dirty);
  return c.status();
}

q4j_status validate(const q4j_paged_store_copy_params& p, Phase phase) {
  Check c("paged_store_copy", phase);
  c.given("store", p.store).count("page", p.page).flag("to_host", p.to_host).count("offset", p.offset).count("bytes", p.bytes);
  if (p.bytes > 0) c.given("host", p.host);
  return c.status();
}

q4j_status validate(const q4j_paged_store_statistics_params& p, Phase phase) {
  Check c("paged_store_statistics", phase);
  c.given("store", p.store);
  return c.status();
}

}  // namespace q4j::loader
