// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The operators of the kernel ABI, version 1.
 *
 * Every operator is `q4j_status q4j_<operator>(q4j_context*, const q4j_<operator>_params*)`. Scratch memory is passed by the
 * caller: `q4j_<operator>_workspace_size` says how many bytes `workspace` must have for these parameters (pointers may
 * still be NULL then). Operators without that function need none.
 *
 * Types: activations are f32 or bf16, one type per call (`dtype`); master weights, adapters, their gradients and optimizer
 * states are f32. Accumulation is f32. bf16 results are rounded once, to nearest even.
 * Outputs must not overlap inputs unless a comment allows it. NaN and infinity propagate as IEEE arithmetic has it.
 * A shape of zero rows is legal and does nothing (gradients that are overwritten become zero).
 */
#ifndef QLORA4J_OPERATORS_H_
#define QLORA4J_OPERATORS_H_

#include "qlora4j/context.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------ quantize, dequantize */

/**
 * Quantizes n elements to NF4 or FP4 in blocks, bitsandbytes' format (see q4j_weight).
 * Full block: x * (1 / max(absmax, 1e-38)) clamped to [-1, 1]; the partial last block divides and stores max(absmax, 1e-38).
 * The code is the nearest table value; on a midpoint the lower value wins. An all-zero NF4 block gives code 7.
 * With nested_block_size: offset = (float) (f64 sum of absmax / blocks); absmax - offset is coded with the signed dynamic map,
 * exact nearest, ties to the lower index. An odd n pads the last low nibble with the code of 0.
 */
typedef struct q4j_quantize_4bit_params {
  uint32_t size;
  int32_t format; /* Q4J_WEIGHT_NF4 or Q4J_WEIGHT_FP4 */
  int32_t dtype;  /* of `input`: f32, bf16, f16 */
  int32_t block_size;
  int32_t nested_block_size; /* 0: no double quantization */
  int32_t reserved;
  int64_t n;
  const void* input;   /* [n] */
  void* packed;        /* u8 [(n+1)/2] */
  void* absmax;        /* f32 [blocks], or u8 codes [blocks] */
  void* nested_absmax; /* f32 [ceil(blocks / nested_block_size)] */
  void* nested_offset; /* f32 [1], device memory */
  void* workspace;
  int64_t workspace_bytes;
} q4j_quantize_4bit_params;

q4j_status q4j_quantize_4bit(q4j_context* context, const q4j_quantize_4bit_params* params);
q4j_status q4j_quantize_4bit_workspace_size(q4j_context* context, const q4j_quantize_4bit_params* params, int64_t* bytes);

/** Dequantizes weight->rows * weight->cols elements of a 4-bit weight to `dtype`: f32, bf16 or f16. */
typedef struct q4j_dequantize_4bit_params {
  uint32_t size;
  int32_t dtype;
  const q4j_weight* weight;
  void* output; /* [rows, cols] */
} q4j_dequantize_4bit_params;

q4j_status q4j_dequantize_4bit(q4j_context* context, const q4j_dequantize_4bit_params* params);

/** Map of 8-bit codes. */
typedef enum q4j_map_8bit { Q4J_MAP_DYNAMIC_SIGNED = 0, Q4J_MAP_DYNAMIC_UNSIGNED = 1 } q4j_map_8bit;

/** Blockwise 8-bit: code = exact nearest of x / absmax in the dynamic map, ties to the lower index. */
typedef struct q4j_quantize_8bit_blockwise_params {
  uint32_t size;
  int32_t map; /* q4j_map_8bit */
  int32_t block_size;
  int32_t reserved;
  int64_t n;
  const void* input; /* f32 [n] */
  void* codes;       /* u8 [n] */
  void* absmax;      /* f32 [ceil(n / block_size)] */
} q4j_quantize_8bit_blockwise_params;

q4j_status q4j_quantize_8bit_blockwise(q4j_context* context, const q4j_quantize_8bit_blockwise_params* params);

typedef struct q4j_dequantize_8bit_blockwise_params {
  uint32_t size;
  int32_t map;
  int32_t block_size;
  int32_t reserved;
  int64_t n;
  const void* codes;
  const void* absmax;
  void* output; /* f32 [n]: map[code] * absmax[block] */
} q4j_dequantize_8bit_blockwise_params;

q4j_status q4j_dequantize_8bit_blockwise(q4j_context* context, const q4j_dequantize_8bit_blockwise_params* params);

/**
 * Row-wise INT8 (LLM.int8): codes = round half to even of x * (127 / absmax(row)). Elements whose magnitude is at least
 * `outlier_threshold` (when > 0) are left out of the row maximum and get code 0, and columns that hold one get code 0
 * everywhere.
 */
typedef struct q4j_quantize_int8_rowwise_params {
  uint32_t size;
  int32_t dtype; /* of `input`: f32, bf16, f16 */
  float outlier_threshold;
  int32_t reserved;
  int64_t rows;
  int64_t cols;
  const void* input;  /* [rows, cols] */
  void* codes;        /* i8 [rows, cols] */
  void* row_absmax;   /* f32 [rows] */
  void* outlier_cols; /* u8 [cols], 1 where the column holds an outlier; required when outlier_threshold > 0 */
} q4j_quantize_int8_rowwise_params;

q4j_status q4j_quantize_int8_rowwise(q4j_context* context, const q4j_quantize_int8_rowwise_params* params);

typedef struct q4j_dequantize_int8_rowwise_params {
  uint32_t size;
  int32_t dtype; /* of `output`: f32, bf16, f16 */
  int64_t rows;
  int64_t cols;
  const void* codes;
  const void* row_absmax;
  void* output; /* (code * row_absmax) * (1.0f / 127) in f32, then rounded to dtype */
} q4j_dequantize_int8_rowwise_params;

q4j_status q4j_dequantize_int8_rowwise(q4j_context* context, const q4j_dequantize_int8_rowwise_params* params);

/**
 * Row-wise FP8 E4M3 (no infinities, largest value 448): scale = absmax(row) / 448, code = x / scale rounded to the nearest E4M3
 * value, half to even, saturating at 448; NaN has code 0x7f. A scale of 0 (a row of zeros) gives codes 0. NaN is kept: a row
 * that holds one has a NaN scale, a row with an infinity an infinite one, and dequantizes to NaN.
 */
typedef struct q4j_quantize_fp8_rowwise_params {
  uint32_t size;
  int32_t dtype; /* of `input`: f32, bf16, f16 */
  int64_t rows;
  int64_t cols;
  const void* input; /* [rows, cols] */
  void* codes;       /* E4M3 [rows, cols] */
  void* row_scale;   /* f32 [rows] */
} q4j_quantize_fp8_rowwise_params;

q4j_status q4j_quantize_fp8_rowwise(q4j_context* context, const q4j_quantize_fp8_rowwise_params* params);

typedef struct q4j_dequantize_fp8_rowwise_params {
  uint32_t size;
  int32_t dtype; /* of `output`: f32, bf16, f16 */
  int64_t rows;
  int64_t cols;
  const void* codes;
  const void* row_scale;
  void* output; /* value * row_scale in f32, then rounded to dtype */
} q4j_dequantize_fp8_rowwise_params;

q4j_status q4j_dequantize_fp8_rowwise(q4j_context* context, const q4j_dequantize_fp8_rowwise_params* params);

/* ------------------------------------------------------------------ compute layout */

/**
 * Rearranges a canonical 4-bit weight into the pack's own compute layout: one layout serves every linear operator, keeps
 * double-quantized codes as codes, and loses nothing (unpack_weight gives the canonical bytes back). The layout is private to
 * the pack, and to its build: store canonical weights.
 *
 * `packed_bytes` receives the size of the packed weight; with packed = NULL that is all that happens (data pointers of the
 * weight may then be NULL). Linear operators take the result as a q4j_weight with layout = Q4J_LAYOUT_PACKED.
 */
typedef struct q4j_pack_weight_params {
  uint32_t size;
  int32_t reserved;
  const q4j_weight* weight; /* canonical, 4-bit */
  void* packed;             /* u8 [*packed_bytes], 64-byte aligned, or NULL */
  int64_t* packed_bytes;    /* host memory */
} q4j_pack_weight_params;

q4j_status q4j_pack_weight(q4j_context* context, const q4j_pack_weight_params* params);

/** The canonical bytes of a packed weight: what pack_weight was given, bit for bit (pad nibble of an odd count included). */
typedef struct q4j_unpack_weight_params {
  uint32_t size;
  int32_t reserved;
  const q4j_weight* weight; /* packed */
  void* data;               /* u8 [(rows * cols + 1) / 2] */
  void* absmax;             /* f32 [blocks], or u8 [blocks] with nested_block_size */
  void* nested_absmax;      /* f32 [ceil(blocks / nested_block_size)], or NULL without */
} q4j_unpack_weight_params;

q4j_status q4j_unpack_weight(q4j_context* context, const q4j_unpack_weight_params* params);

/* ------------------------------------------------------------------ linear */

/**
 * y = x * W^T + bias + s * xa * b^T + residual, xa = dropout(x) * a^T.
 * x and y share `dtype`. With dtype bf16 the weight is used in bf16 (dequantized or rounded to it), with f32 in f32.
 * `xa` is an output kept for the backward: f32 [m, rank], contiguous. With Q4J_LORA_FAST and bf16 it holds values already
 * rounded to bf16. `residual` may equal `y`. With y = NULL only xa is computed (a recomputed layer whose output nobody reads
 * needs no base product).
 *
 * INT8 with bf16 activations: every row of x is quantized by quantize_int8_rowwise's rule without outliers, the product of
 * the codes is summed exactly, and x * W^T = sum * (absmax(x row) * absmax(W row)) * (1 / 127^2), in f32. The branch takes x
 * as it is. INT8 with f32 activations and FP8 are weight-only: the dequantized weight is multiplied. The gradient to the input
 * uses the dequantized weight always.
 */
typedef struct q4j_linear_forward_params {
  uint32_t size;
  int32_t dtype; /* of x, y, residual: f32 or bf16 */
  int64_t m;
  const q4j_weight* weight; /* [n, k] */
  const q4j_lora* lora;     /* or NULL */
  const void* x;            /* [m, k] */
  int64_t ldx;
  const void* bias;   /* [n] of bias_dtype, or NULL */
  int32_t bias_dtype; /* f32 or bf16 */
  int32_t reserved;
  const void* residual; /* [m, n], or NULL */
  int64_t ldr;
  void* y; /* [m, n], or NULL: only xa is wanted */
  int64_t ldy;
  void* xa; /* f32 [m, rank]; required with a branch */
  void* workspace;
  int64_t workspace_bytes;
} q4j_linear_forward_params;

q4j_status q4j_linear_forward(q4j_context* context, const q4j_linear_forward_params* params);
q4j_status q4j_linear_forward_workspace_size(q4j_context* context, const q4j_linear_forward_params* params, int64_t* bytes);

/**
 * dx = dy * W + s * dropout_mask(dyb * a), dyb = dy * b. The mask is drawn again from lora->dropout, its scale included.
 * `dyb` is an output kept for lora_weight_gradient: f32 [m, rank], contiguous, rounded like xa.
 * With accumulate, dx is added to (in f32, rounded once).
 */
typedef struct q4j_linear_backward_input_params {
  uint32_t size;
  int32_t dtype; /* of dy, dx: f32 or bf16 */
  int64_t m;
  const q4j_weight* weight;
  const q4j_lora* lora;
  const void* dy; /* [m, n] */
  int64_t lddy;
  void* dx; /* [m, k], or NULL when only dyb is wanted (weight may then be NULL too) */
  int64_t lddx;
  int32_t accumulate;
  int32_t reserved;
  void* dyb; /* f32 [m, rank]; required with a branch */
  int64_t n; /* out features; must equal weight->rows when weight is given */
  int64_t k; /* in features; must equal weight->cols when weight is given */
  void* workspace;
  int64_t workspace_bytes;
} q4j_linear_backward_input_params;

q4j_status q4j_linear_backward_input(q4j_context* context, const q4j_linear_backward_input_params* params);
q4j_status q4j_linear_backward_input_workspace_size(q4j_context* context, const q4j_linear_backward_input_params* params,
                                                    int64_t* bytes);

/**
 * da += s * dyb^T * dropout(x), db += s * dy^T * xa. Both f32, contiguous: da [rank, k], db [n, rank].
 * The sum over rows is made in f32 in an order that does not depend on the number of threads.
 */
typedef struct q4j_lora_weight_gradient_params {
  uint32_t size;
  int32_t dtype; /* of x and dy */
  int64_t m;
  int64_t n;
  int64_t k;
  const q4j_lora* lora;
  const void* x; /* [m, k] */
  int64_t ldx;
  const void* dy; /* [m, n] */
  int64_t lddy;
  const void* xa;  /* f32 [m, rank] */
  const void* dyb; /* f32 [m, rank] */
  void* da;
  void* db;
  void* workspace;
  int64_t workspace_bytes;
} q4j_lora_weight_gradient_params;

q4j_status q4j_lora_weight_gradient(q4j_context* context, const q4j_lora_weight_gradient_params* params);
q4j_status q4j_lora_weight_gradient_workspace_size(q4j_context* context, const q4j_lora_weight_gradient_params* params,
                                                   int64_t* bytes);

/** dw += dy^T * x (f32 [n, k], contiguous) and, where dbias is given, dbias += column sums of dy (f32 [n]). */
typedef struct q4j_linear_weight_gradient_params {
  uint32_t size;
  int32_t dtype; /* of x and dy */
  int64_t m;
  int64_t n;
  int64_t k;
  const void* x; /* [m, k] */
  int64_t ldx;
  const void* dy; /* [m, n] */
  int64_t lddy;
  void* dw;    /* or NULL */
  void* dbias; /* or NULL */
  void* workspace;
  int64_t workspace_bytes;
} q4j_linear_weight_gradient_params;

q4j_status q4j_linear_weight_gradient(q4j_context* context, const q4j_linear_weight_gradient_params* params);
q4j_status q4j_linear_weight_gradient_workspace_size(q4j_context* context, const q4j_linear_weight_gradient_params* params,
                                                     int64_t* bytes);

/* ------------------------------------------------------------------ normalisation */

/**
 * u = x + residual (u = x without one), rounded to `dtype` and stored in `sum` where given;
 * RMSNorm: y = w * (u * rstd) with rstd = 1 / sqrt(mean(u^2) + eps); u * rstd is rounded to `dtype` before the multiply by w,
 * as Llama does. unit_offset: y = (1 + w) * (u * rstd) in f32, rounded once, as Gemma does.
 * rstd f32 [m] is kept for the backward. `sum` may equal `x` or `residual`.
 */
typedef struct q4j_rms_norm_forward_params {
  uint32_t size;
  int32_t dtype; /* of x, residual, sum, y: f32 or bf16 */
  int64_t m;
  int64_t n;
  float eps;
  int32_t unit_offset;
  int32_t weight_dtype; /* f32 or bf16 */
  int32_t reserved;
  const void* x;        /* [m, n], contiguous like all below */
  const void* residual; /* or NULL */
  const void* weight;   /* [n] */
  void* sum;            /* or NULL */
  void* y;
  void* rstd; /* f32 [m], or NULL */
} q4j_rms_norm_forward_params;

q4j_status q4j_rms_norm_forward(q4j_context* context, const q4j_rms_norm_forward_params* params);

/**
 * dx = d(rms_norm)/du applied to dy, plus dresidual where given (the gradient that reaches u along the residual path).
 * dweight f32 [n] is added to where given; its factor u * rstd is rounded as in the forward. `dx` may equal `dresidual`.
 */
typedef struct q4j_rms_norm_backward_params {
  uint32_t size;
  int32_t dtype;
  int64_t m;
  int64_t n;
  int32_t unit_offset;
  int32_t weight_dtype;
  const void* u;         /* [m, n]: the normalised sum */
  const void* weight;    /* [n] */
  const void* rstd;      /* f32 [m] */
  const void* dy;        /* [m, n] */
  const void* dresidual; /* [m, n], or NULL */
  void* dx;              /* [m, n] */
  void* dweight;         /* f32 [n], or NULL */
  void* workspace;
  int64_t workspace_bytes;
} q4j_rms_norm_backward_params;

q4j_status q4j_rms_norm_backward(q4j_context* context, const q4j_rms_norm_backward_params* params);
q4j_status q4j_rms_norm_backward_workspace_size(q4j_context* context, const q4j_rms_norm_backward_params* params,
                                                int64_t* bytes);

/** u as in rms_norm; y = (u - mean) * rstd * w + bias, in f32, rounded once; rstd = 1 / sqrt(var + eps), var biased. */
typedef struct q4j_layer_norm_forward_params {
  uint32_t size;
  int32_t dtype;
  int64_t m;
  int64_t n;
  float eps;
  int32_t weight_dtype; /* of weight and bias: f32 or bf16 */
  const void* x;
  const void* residual; /* or NULL */
  const void* weight;   /* [n] */
  const void* bias;     /* [n], or NULL */
  void* sum;            /* or NULL */
  void* y;
  void* mean; /* f32 [m], or NULL */
  void* rstd; /* f32 [m], or NULL */
} q4j_layer_norm_forward_params;

q4j_status q4j_layer_norm_forward(q4j_context* context, const q4j_layer_norm_forward_params* params);

typedef struct q4j_layer_norm_backward_params {
  uint32_t size;
  int32_t dtype;
  int64_t m;
  int64_t n;
  int32_t weight_dtype;
  int32_t reserved;
  const void* u;
  const void* weight;
  const void* mean;
  const void* rstd;
  const void* dy;
  const void* dresidual; /* or NULL */
  void* dx;              /* may equal dresidual */
  void* dweight;         /* f32 [n], added to, or NULL */
  void* dbias;           /* f32 [n], added to, or NULL */
  void* workspace;
  int64_t workspace_bytes;
} q4j_layer_norm_backward_params;

q4j_status q4j_layer_norm_backward(q4j_context* context, const q4j_layer_norm_backward_params* params);
q4j_status q4j_layer_norm_backward_workspace_size(q4j_context* context, const q4j_layer_norm_backward_params* params,
                                                  int64_t* bytes);

/* ------------------------------------------------------------------ rotary embedding */

/**
 * Rotates the first rotary_dim elements of each head in place, half-split pairs (i, i + rotary_dim/2), by the angle
 * positions[t] * inverse_frequencies[i]: angle, cos and sin in f32, then cos and sin times `attention_scale`, rounded to
 * `dtype`. inverse = 1 rotates back, which is the gradient. Element (t, h, i) is at x[t * token_stride + h * head_stride + i].
 */
typedef struct q4j_rotary_params {
  uint32_t size;
  int32_t dtype;
  int64_t tokens;
  int64_t heads;
  int32_t rotary_dim; /* even */
  int32_t inverse;
  float attention_scale; /* 1 unless a scaling rule says otherwise */
  int32_t reserved;
  const void* positions;           /* i32 [tokens] */
  const void* inverse_frequencies; /* f32 [rotary_dim / 2] */
  void* x;
  int64_t token_stride; /* elements */
  int64_t head_stride;
} q4j_rotary_params;

q4j_status q4j_rotary(q4j_context* context, const q4j_rotary_params* params);

/* ------------------------------------------------------------------ activations */

typedef enum q4j_activation {
  Q4J_ACTIVATION_SILU = 0,
  Q4J_ACTIVATION_GELU_ERF = 1,
  Q4J_ACTIVATION_GELU_TANH = 2
} q4j_activation;

/** y = act(x), or y = act(x) * up where `up` is given (SwiGLU, GeGLU). f32 inside, act(x) rounded to `dtype` before the
 * multiply. */
typedef struct q4j_activation_forward_params {
  uint32_t size;
  int32_t dtype;
  int32_t activation; /* q4j_activation */
  int32_t reserved;
  int64_t m;
  int64_t n;
  const void* x; /* [m, n]; the gate where `up` is given */
  int64_t ldx;
  const void* up; /* or NULL */
  int64_t ldup;
  void* y; /* contiguous; may equal x when contiguous */
} q4j_activation_forward_params;

q4j_status q4j_activation_forward(q4j_context* context, const q4j_activation_forward_params* params);

/** dx = dy * up * act'(x) and dup = dy * act(x) (without `up`: dx = dy * act'(x)). dx may equal x, dup may equal up or dy. */
typedef struct q4j_activation_backward_params {
  uint32_t size;
  int32_t dtype;
  int32_t activation;
  int32_t reserved;
  int64_t m;
  int64_t n;
  const void* x;
  int64_t ldx;
  const void* up;
  int64_t ldup;
  const void* dy; /* contiguous */
  void* dx;
  int64_t lddx;
  void* dup;
  int64_t lddup;
} q4j_activation_backward_params;

q4j_status q4j_activation_backward(q4j_context* context, const q4j_activation_backward_params* params);

/* ------------------------------------------------------------------ cross entropy */

/**
 * Softmax cross entropy of a chunk of rows, loss and gradient in one pass.
 * Row i with label l >= 0: lse = log(sum(exp(logits))),
 *   loss[i] = (1 - smoothing) * (lse - logits[l]) + smoothing * (lse - mean(logits)) + z_loss * lse^2,
 *   dlogits = scale * d loss[i] / d logits.
 * Rows whose label is -100 have loss 0 and zero gradients. A label outside [0, n) that is not -100 is an invalid argument on
 * the CPU; a GPU pack gives that row a NaN loss. logits are widened to f32; dlogits has the logits' type and may be the same
 * memory; NULL: only the loss is wanted.
 */
typedef struct q4j_cross_entropy_params {
  uint32_t size;
  int32_t dtype;
  int64_t m;
  int64_t n; /* classes */
  float smoothing;
  float z_loss;
  float scale; /* for example 1 / number of label tokens of the whole step */
  int32_t reserved;
  const void* logits; /* [m, n] */
  int64_t ldlogits;
  const void* labels; /* i32 [m] */
  void* loss;         /* f32 [m], unscaled */
  void* dlogits;      /* or NULL */
  int64_t lddlogits;
} q4j_cross_entropy_params;

q4j_status q4j_cross_entropy(q4j_context* context, const q4j_cross_entropy_params* params);

/* ------------------------------------------------------------------ attention */

/**
 * Causal attention over several sequences, grouped heads. Query head h reads key/value head h / (heads / kv_heads).
 * Sequence s has queries cu_q[s] .. cu_q[s+1] and keys cu_k[s] .. cu_k[s+1] of the token axes; its query i (from 0) sees
 * keys j <= i + (keys - queries), and with window > 0 only the last `window` of those (itself included). So a decode step
 * against a cache is queries = 1, keys = length of the cache.
 * Element (t, head, i) of q is at q[t * q_token_stride + head * q_head_stride + i]; the others likewise; i has stride 1.
 * lse f32 [heads, total queries] = log of the sum of exponentials of the scaled scores; kept for the backward.
 * A query that sees no key gives zeros and lse = -infinity.
 */
typedef struct q4j_attention_forward_params {
  uint32_t size;
  int32_t dtype; /* of q, k, v, out: f32 or bf16 */
  int32_t heads;
  int32_t kv_heads;
  int32_t head_dim; /* multiple of 8, at most 256 */
  int32_t window;   /* 0: none */
  int32_t sequences;
  int32_t max_q; /* longest query and key range of the batch */
  int32_t max_k;
  float scale;         /* usually 1 / sqrt(head_dim) */
  const int32_t* cu_q; /* host memory, [sequences + 1] */
  const int32_t* cu_k; /* host memory, [sequences + 1] */
  const void* q;
  int64_t q_token_stride;
  int64_t q_head_stride;
  const void* k;
  int64_t k_token_stride;
  int64_t k_head_stride;
  const void* v;
  int64_t v_token_stride;
  int64_t v_head_stride;
  void* out;
  int64_t out_token_stride;
  int64_t out_head_stride;
  void* lse; /* or NULL */
  void* workspace;
  int64_t workspace_bytes;
} q4j_attention_forward_params;

q4j_status q4j_attention_forward(q4j_context* context, const q4j_attention_forward_params* params);
q4j_status q4j_attention_forward_workspace_size(q4j_context* context, const q4j_attention_forward_params* params,
                                                int64_t* bytes);

/** dq, dk, dv (overwritten) from dout, the saved out and lse. `forward` carries the forward's parameters, `out` and `lse` set.
 */
typedef struct q4j_attention_backward_params {
  uint32_t size;
  int32_t reserved;
  const q4j_attention_forward_params* forward;
  const void* dout; /* strides as out */
  int64_t dout_token_stride;
  int64_t dout_head_stride;
  void* dq;
  int64_t dq_token_stride;
  int64_t dq_head_stride;
  void* dk;
  int64_t dk_token_stride;
  int64_t dk_head_stride;
  void* dv;
  int64_t dv_token_stride;
  int64_t dv_head_stride;
  void* workspace;
  int64_t workspace_bytes;
} q4j_attention_backward_params;

q4j_status q4j_attention_backward(q4j_context* context, const q4j_attention_backward_params* params);
q4j_status q4j_attention_backward_workspace_size(q4j_context* context, const q4j_attention_backward_params* params,
                                                 int64_t* bytes);

/* ------------------------------------------------------------------ optimizer */

/**
 * Sum of squares of many f32 tensors, in f64, in an order independent of the thread count: *result = sqrt(sum).
 * tensors: host array of device pointers; lengths: host array of element counts. result: f64 [1], device memory.
 */
typedef struct q4j_gradient_norm_params {
  uint32_t size;
  int32_t count;
  const void* const* tensors;
  const int64_t* lengths;
  void* result;
} q4j_gradient_norm_params;

q4j_status q4j_gradient_norm(q4j_context* context, const q4j_gradient_norm_params* params);

/**
 * One AdamW step over many f32 tensors (PyTorch's order): g = gradient * gradient_scale;
 * p *= 1 - lr * weight_decay; m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
 * p -= (lr / (1 - b1^t)) * m / (sqrt(v) / sqrt(1 - b2^t) + eps).
 * weight_decays: host array, one per tensor. Arrays of pointers are host arrays.
 */
typedef struct q4j_adamw_params {
  uint32_t size;
  int32_t count;
  int64_t t; /* 1 for the first step */
  double learning_rate;
  double beta1;
  double beta2;
  double eps;
  float gradient_scale;
  int32_t reserved;
  const int64_t* lengths;
  const float* weight_decays;
  void* const* parameters;
  const void* const* gradients;
  void* const* first_moments;
  void* const* second_moments;
} q4j_adamw_params;

q4j_status q4j_adamw(q4j_context* context, const q4j_adamw_params* params);

/**
 * AdamW with both moments in 8 bits: blockwise codes of the signed (first) and unsigned (second) dynamic map, one f32 absmax
 * per block, bitsandbytes' format. f32 arithmetic, every operation below rounded on its own, so that all packs give the same
 * bits: b1, b2, eps, c1 = 1 - beta1, c2 = 1 - beta2, decay = 1 - learning_rate * weight_decay, step = learning_rate / (1 -
 * beta1^t) and root = sqrt(1 - beta2^t) are computed in f64 and rounded once to f32; g = gradient * gradient_scale;  m = b1 *
 * (map[code] * absmax) + c1 * g;  v = b2 * (map[code] * absmax) + c2 * (g * g); p = p * decay - step * (m / (sqrt(v) / root +
 * eps)). The parameter uses m and v before they are coded again (exact nearest code, ties to the lower index). A NaN moment
 * does not count towards its block's absmax and gets code 0, so that the block's other elements stay what they were; its
 * parameter is NaN.
 */
typedef struct q4j_adamw_8bit_params {
  uint32_t size;
  int32_t count;
  int64_t t; /* 1 for the first step */
  double learning_rate;
  double beta1;
  double beta2;
  double eps;
  float gradient_scale;
  int32_t block_size; /* 256 in bitsandbytes */
  const int64_t* lengths;
  const float* weight_decays;
  void* const* parameters;           /* f32 */
  const void* const* gradients;      /* f32 */
  void* const* first_moment_codes;   /* u8 */
  void* const* first_moment_absmax;  /* f32 [ceil(length / block_size)]; all zero before the first step */
  void* const* second_moment_codes;  /* u8 */
  void* const* second_moment_absmax; /* f32 [ceil(length / block_size)]; all zero before the first step */
} q4j_adamw_8bit_params;

q4j_status q4j_adamw_8bit(q4j_context* context, const q4j_adamw_8bit_params* params);

/* ------------------------------------------------------------------ paged store */

/** How a paged store moves pages. */
typedef enum q4j_paging {
  Q4J_PAGING_AUTO = 0, /* the pack's best */
  Q4J_PAGING_COPIES =
      1, /* pages in host memory (pinned, on a GPU), copied to and from resident frames on streams of their own */
  Q4J_PAGING_MANAGED =
      2 /* managed memory with prefetches, as bitsandbytes pages; where the device can access it concurrently */
} q4j_paging;

/**
 * A paged store holds `pages` pages of `page_bytes` bytes, of which at most `resident_bytes` are in device memory at a time:
 * for optimizer states that are read and written once a step, in an order that is known beforehand.
 *
 * A caller acquires a page, submits work on it to the context's stream, releases it and goes on; it never waits. The store
 * makes the stream wait for the page to arrive, fetches pages ahead by the plan and writes dirty pages back behind the work.
 * Pages start as zeros. With a budget for all pages nothing is ever moved. A store belongs to the context it was made on, is
 * used by one thread at a time and must be destroyed before the context.
 *
 * Errors: Q4J_INVALID_ARGUMENT when the budget holds fewer than two pages (or one, of a one-page store),
 * Q4J_UNSUPPORTED for a strategy the device lacks, Q4J_OUT_OF_DEVICE_MEMORY when frames or host pages cannot be allocated.
 */
typedef struct q4j_paged_store_create_params {
  uint32_t size;
  int32_t strategy; /* q4j_paging */
  int64_t pages;
  int64_t page_bytes;     /* a multiple of 256 */
  int64_t resident_bytes; /* device memory for pages; rounded down to whole pages */
  const char* directory;  /* CPU packs that page to disk make their file here; NULL: host memory. Ignored on a GPU */
  void** store;           /* receives the store */
} q4j_paged_store_create_params;

q4j_status q4j_paged_store_create(q4j_context* context, const q4j_paged_store_create_params* params);

/** Waits for the store's own work and frees it. */
typedef struct q4j_paged_store_destroy_params {
  uint32_t size;
  int32_t reserved;
  void* store;
} q4j_paged_store_destroy_params;

q4j_status q4j_paged_store_destroy(q4j_context* context, const q4j_paged_store_destroy_params* params);

/**
 * The order in which pages will be acquired, again and again until a new plan. A hint: any other order is served too, but
 * fetched only when it is asked for. Pages may repeat. count = 0 forgets the plan. The array is copied.
 */
typedef struct q4j_paged_store_plan_params {
  uint32_t size;
  int32_t reserved;
  void* store;
  int64_t count;
  const int64_t* order; /* host memory */
} q4j_paged_store_plan_params;

q4j_status q4j_paged_store_plan(q4j_context* context, const q4j_paged_store_plan_params* params);

/**
 * Makes a page resident and keeps it so until it is released. Work submitted to the context's stream afterwards sees its
 * content. An acquired page may be acquired again and is then released as often.
 * Q4J_OUT_OF_DEVICE_MEMORY when every frame of the budget holds an acquired page.
 */
typedef struct q4j_paged_store_acquire_params {
  uint32_t size;
  int32_t reserved;
  void* store;
  int64_t page;
  void** memory; /* host memory; receives the device address, 64-byte aligned */
} q4j_paged_store_acquire_params;

q4j_status q4j_paged_store_acquire(q4j_context* context, const q4j_paged_store_acquire_params* params);

/** Ends an acquisition. dirty: the submitted work wrote to the page. */
typedef struct q4j_paged_store_release_params {
  uint32_t size;
  int32_t dirty;
  void* store;
  int64_t page;
} q4j_paged_store_release_params;

q4j_status q4j_paged_store_release(q4j_context* context, const q4j_paged_store_release_params* params);

/** Copies part of a page to or from host memory, for checkpoints; done when the call returns. The page need not be acquired. */
typedef struct q4j_paged_store_copy_params {
  uint32_t size;
  int32_t to_host; /* 1: page to host; 0: host to page */
  void* store;
  int64_t page;
  int64_t offset; /* bytes */
  int64_t bytes;
  void* host;
} q4j_paged_store_copy_params;

q4j_status q4j_paged_store_copy(q4j_context* context, const q4j_paged_store_copy_params* params);

/** What the store holds and has done since it was made. The pointers are host memory; NULL ones are left out. */
typedef struct q4j_paged_store_statistics_params {
  uint32_t size;
  int32_t reserved;
  void* store;
  int64_t* device_bytes; /* memory of the resident frames */
  int64_t* host_bytes;   /* memory, or file, behind the pages */
  int64_t* fetched;      /* pages copied to the device */
  int64_t* written_back; /* pages copied from the device */
  int64_t* hits;         /* acquisitions that found the page resident or on its way */
  int64_t* misses;       /* acquisitions that had to start the fetch */
} q4j_paged_store_statistics_params;

q4j_status q4j_paged_store_statistics(q4j_context* context, const q4j_paged_store_statistics_params* params);

#ifdef __cplusplus
}
#endif

#endif /* QLORA4J_OPERATORS_H_ */
