// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Status codes, element types and the structs shared by several operators of the qlora4j kernel ABI.
 *
 * Conventions of the whole header family:
 *  - Matrices are row-major. `ld*` is the distance between two rows, in elements.
 *  - Device memory is `void*`, also where its elements are floats: on a GPU it cannot be read by the host.
 *  - Every parameter struct starts with `size`, which the caller sets to `sizeof` of the struct it was compiled with.
 *    A pack reads only the fields that `size` covers, so structs may grow at their end.
 *  - Nothing here throws, allocates on behalf of an operator, or keeps a pointer after the call returns,
 *    unless a comment says so.
 */
#ifndef QLORA4J_TYPES_H_
#define QLORA4J_TYPES_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Version of the operator table; a pack built for another version is refused. */
#define Q4J_ABI_VERSION 1

typedef enum q4j_status {
  Q4J_OK = 0,
  Q4J_INVALID_ARGUMENT = 1, /* a shape, type, pointer or option is wrong; the text names it */
  Q4J_UNSUPPORTED = 2,      /* no such operator, type combination or device in this pack */
  Q4J_OUT_OF_DEVICE_MEMORY = 3,
  Q4J_DEVICE_ERROR = 4,       /* the device reported an error; the process may go on */
  Q4J_DEVICE_ERROR_FATAL = 5, /* the device is unusable until the process restarts */
  Q4J_INTERNAL_ERROR = 6      /* a defect of the pack */
} q4j_status;

typedef enum q4j_dtype {
  Q4J_F32 = 0,
  Q4J_BF16 = 1,
  Q4J_F16 = 2,
  Q4J_I32 = 3,
  Q4J_I64 = 4,
  Q4J_U8 = 5,
  Q4J_I8 = 6,
  Q4J_F8_E4M3 = 7
} q4j_dtype;

typedef enum q4j_device_kind { Q4J_DEVICE_CPU = 0, Q4J_DEVICE_CUDA = 1 } q4j_device_kind;

/** How a weight matrix is stored. */
typedef enum q4j_weight_format {
  Q4J_WEIGHT_DENSE = 0, /* elements of `dtype` */
  Q4J_WEIGHT_NF4 = 1,   /* bitsandbytes NF4 */
  Q4J_WEIGHT_FP4 = 2,   /* bitsandbytes FP4 */
  Q4J_WEIGHT_INT8 = 3,  /* row-wise INT8, see quantize_int8_rowwise */
  Q4J_WEIGHT_FP8 = 4    /* row-wise FP8 E4M3, see quantize_fp8_rowwise */
} q4j_weight_format;

/** The order in which a 4-bit weight lies in memory. */
typedef enum q4j_weight_layout {
  Q4J_LAYOUT_CANONICAL = 0, /* bitsandbytes' */
  Q4J_LAYOUT_PACKED = 1 /* the pack's own compute layout, made by pack_weight; only the linear operators of that pack read it */
} q4j_weight_layout;

/**
 * A weight matrix W of shape [rows, cols] = [out features, in features].
 *
 * Dense: `data` holds elements of `dtype`, row-major, `ld` elements between rows.
 *
 * 4-bit (canonical bitsandbytes layout): `data` holds (rows*cols+1)/2 bytes; blocks of `block_size` run over the row-major
 * flattening (they may straddle rows); element 2i is the high nibble of byte i. `absmax` holds one f32 per block when
 * `nested_block_size` is 0. Otherwise it holds one u8 code per block and
 *   absmax[b] = dynamic_signed_map[code[b]] * nested_absmax[b / nested_block_size] + nested_offset
 * with a separate f32 multiply and add. The dequantized element is code_table[q] * absmax[b] in f32, rounded once, to
 * nearest even, to the type it is used in. `dtype` is the type the weight had before quantization.
 *
 * 4-bit (packed): `data` is what pack_weight made, `absmax` and `nested_absmax` are NULL (they are part of it); all other
 * fields are as for the canonical weight it was made from.
 *
 * INT8: `data` i8 [rows, cols], contiguous, `absmax` f32 [rows]; an element is (code * absmax) * (1.0f / 127).
 * FP8: `data` E4M3 [rows, cols], contiguous, `absmax` f32 [rows], which holds the row's scale; an element is value * scale.
 * Both in f32, rounded once to the type it is used in.
 */
typedef struct q4j_weight {
  uint32_t size;
  int32_t format;            /* q4j_weight_format */
  int32_t dtype;             /* q4j_dtype */
  int32_t block_size;        /* elements; 32 to 4096, power of two */
  int32_t nested_block_size; /* blocks per nested block; 32 to 4096, power of two (256), or 0: absmax is f32 */
  float nested_offset;
  int64_t rows;
  int64_t cols;
  int64_t ld; /* dense only */
  const void* data;
  const void* absmax;
  const void* nested_absmax;
  int32_t layout; /* q4j_weight_layout; 4-bit only */
  int32_t reserved;
} q4j_weight;

/**
 * Dropout by counter: element (row, column) of the input of linear number `linear` is kept iff
 * word 0 of Philox4x32-10(key = seed, counter = (step, micro_batch, linear, row * columns + column)) >= threshold,
 * threshold = round(probability * 2^32). Kept elements are scaled by 1 / (1 - probability). The mask depends on nothing
 * else, so it is never stored and every pack draws the same one. The key's word 0 is the seed's low half. `row` counts from
 * `row_offset`. Counter word 3 is row * columns + column modulo 2^32.
 */
typedef struct q4j_dropout {
  uint32_t size;
  float probability; /* [0, 1); 0 switches dropout off */
  uint64_t seed;
  uint32_t step;
  uint32_t micro_batch;
  uint32_t linear;
  uint32_t reserved;
  int64_t row_offset;
} q4j_dropout;

/** How the LoRA branch computes. */
typedef enum q4j_lora_compute {
  Q4J_LORA_FAST = 0, /* a, b, xa and dyb are rounded to the compute type before they are multiplied; f32 accumulation */
  Q4J_LORA_F32 = 1   /* nothing of the branch is rounded below f32 */
} q4j_lora_compute;

/**
 * The LoRA branch of a linear: y += s * (dropout(x) * a^T) * b^T with a [rank, in], b [out, rank], both f32, contiguous.
 * Names follow docs/lora.md: x, w, a, b, xa, s, dy, dx, da, db.
 */
typedef struct q4j_lora {
  uint32_t size;
  int32_t rank;    /* 0: no branch */
  float s;         /* alpha / rank, or alpha / sqrt(rank) for rsLoRA */
  int32_t compute; /* q4j_lora_compute */
  const void* a;
  const void* b;
  q4j_dropout dropout;
} q4j_lora;

#ifdef __cplusplus
}
#endif

#endif /* QLORA4J_TYPES_H_ */
