// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#include "linear/strip.h"

#include <algorithm>

#include "error.h"
#include "linear/branch.h"
#include "linear/dense_product.h"
#include "linear/strip_kernels.h"
#include "pack_weight/packed_layout.h"
#include "quant.h"

namespace q4j::cuda {

namespace {

// A weight of a 13B model is one strip (5120 x 20480: 210 MB). Strips that fit the L2 cache, dequantized on a second stream
// beside the product of the one before, were slower on an H200: each product filled the device badly (docs/kernels/linear.md).
constexpr int64_t kStripBytes = int64_t{256} << 20;
// Lengths are multiples of what a library kernel works on, and of a packed weight's tiles.
constexpr int64_t kTile = 128;
constexpr int64_t kAlignment = 64;

int64_t align(int64_t bytes) { return ceil_div(bytes, kAlignment) * kAlignment; }
int64_t pad(int64_t columns) { return ceil_div(columns, 8) * 8; }

/** The groups of branch columns: a strip holds s times the factor. */
BranchParts parts_of(const q4j_lora* lora) { return branch_parts(lora, true); }

StripWeight weight_of(const q4j_weight& weight) {
  StripWeight result = {};
  result.format = weight.format;
  result.rows = weight.rows;
  result.cols = weight.cols;
  if (weight.format == Q4J_WEIGHT_DENSE) {
    result.dense = weight.data;
    result.dense_dtype = weight.dtype;
    result.ld = weight.ld;
  } else if (weight.layout == Q4J_LAYOUT_PACKED) {
    result.packed = true;
    result.tiles = tiles_of(weight);
  } else {
    result.quantized = dequantize_arguments(weight);
  }
  return result;
}

bool takes_weight(const q4j_weight& weight) {
  if (weight.layout == Q4J_LAYOUT_PACKED) return packed_layout(weight).tiles;
  return weight.format == Q4J_WEIGHT_DENSE || is_4bit(weight.format);
}

/** How a weight is cut: `length` rows or columns a strip, of `width` elements each. */
struct Cut {
  int64_t total;
  int64_t width;
  int64_t length;

  int64_t strip_bytes() const { return align(length * width * 2); }
};

/** As few strips as their memory allows, of about one length. */
Cut cut(int64_t total, int64_t width) {
  const int64_t most = std::max(kTile, kStripBytes / (width * 2) / kTile * kTile);
  const int64_t strips = ceil_div(total, most);
  return {total, width, std::min(pad(total), ceil_div(ceil_div(total, strips), kTile) * kTile)};
}

/** The memory of a call, in the order of its workspace. */
struct Layout {
  int64_t activations_bytes; /* 0: they are used where they are */
  bool whole;                /* so is the weight, which is one strip then */
  Cut strips;
  int64_t added_bytes; /* what is added to a strip's product, where it lies in the output itself */

  int64_t added_at() const { return activations_bytes + (whole ? 0 : strips.strip_bytes()); }
  int64_t scratch_at() const { return added_at() + added_bytes; }
  int64_t bytes() const { return scratch_at() + DenseMultiplier::kScratchBytes; }
  void* scratch(void* workspace) const {
    return DenseMultiplier::scratch_in(static_cast<unsigned char*>(workspace) + scratch_at());
  }
};

/** A NULL is not: the workspace may be asked for before there are pointers, and must then do for any. */
bool used_in_place(const void* activations, int64_t ld) { return activations != nullptr && is_wide(activations, ld); }

int64_t bias_parts(const q4j_linear_forward_params& p) { return p.bias == nullptr ? 0 : p.bias_dtype == Q4J_F32 ? 3 : 1; }

/** Columns of the widened activations: those of the layer, of the branch, and `ones`. */
int64_t layout_width(int64_t columns, const q4j_lora* lora, int64_t ones = 0) {
  return pad(columns + (has_branch(lora) ? int64_t{parts_of(lora).groups} * lora->rank : 0) + ones);
}

/**
 * With c = d cuBLASLt (13.0, on an H200) rounds the product to bf16 and has the memory system add it: a second rounding. From a
 * copy it adds in f32 and rounds once.
 */
int64_t added_bytes(bool in_place, int64_t m, const Cut& strips) { return in_place ? align(m * strips.length * 2) : 0; }

/** Whether the library can multiply a weight where it lies. */
bool is_strip(const q4j_weight& weight) {
  return weight.format == Q4J_WEIGHT_DENSE && weight.dtype == Q4J_BF16 && used_in_place(weight.data, weight.ld);
}

Layout layout_of(const q4j_linear_forward_params& p) {
  const int64_t width = layout_width(p.weight->cols, p.lora, bias_parts(p));
  const bool alone = width == p.weight->cols;
  const Cut strips = cut(p.weight->rows, width);
  return {alone && used_in_place(p.x, p.ldx) ? 0 : align(p.m * width * 2), alone && is_strip(*p.weight), strips,
          added_bytes(p.residual == p.y, p.m, strips)};
}

Layout layout_of(const q4j_linear_backward_input_params& p) {
  const int64_t height = layout_width(p.n, p.lora);
  const bool alone = height == p.n;
  const Cut strips = cut(p.k, height);
  return {alone && used_in_place(p.dy, p.lddy) ? 0 : align(p.m * height * 2), alone && is_strip(*p.weight), strips,
          added_bytes(p.accumulate != 0, p.m, strips)};
}

/** Whether the kernels can count the widened activations, and the shortest strip there is. */
bool counts_in_32_bits(int64_t m, int64_t width) {
  return std::max({m, kTile, kStripBytes / 2 / width}) * (width / 8) < kMostItems;
}

/** Copies `columns` columns of a bf16 matrix, rows `ld` apart, to rows without gaps. */
q4j_status copy_columns(const q4j_pack_context& context, const void* from, int64_t ld, int64_t rows, int64_t columns,
                        void* to) {
  return widen_activations(context, {from, ld, rows, columns, nullptr, 1, {0, 0, 0}, 0, columns, to});
}

/** Strip after strip: `body(first, count)` writes and multiplies it. */
template <typename Body>
q4j_status for_each_strip(const Cut& strips, Body body) {
  for (int64_t first = 0; first < strips.total; first += strips.length) {
    Q4J_RETURN_IF_ERROR(body(first, std::min(strips.length, strips.total - first)));
  }
  return Q4J_OK;
}

}  // namespace

bool strip_available(q4j_pack_context* context) {
  if (!context->dense_tried) {
    context->dense_tried = true;
    // The reason is not an error: another path serves the call.
    if (DenseMultiplier::open(*context, &context->dense) != Q4J_OK) context->dense.reset();
  }
  return context->dense != nullptr;
}

bool strip_takes(const q4j_linear_forward_params& p) {
  const bool residual = p.residual == nullptr || is_wide(p.residual, p.ldr);
  return p.dtype == Q4J_BF16 && p.m > 0 && takes_weight(*p.weight) && p.weight->rows % 8 == 0 && is_wide(p.y, p.ldy) &&
         residual && counts_in_32_bits(p.m, layout_width(p.weight->cols, p.lora, bias_parts(p)));
}

bool strip_takes(const q4j_linear_backward_input_params& p) {
  const bool masked = has_branch(p.lora) && p.lora->dropout.probability > 0.0f;
  return p.dtype == Q4J_BF16 && p.m > 0 && p.weight != nullptr && takes_weight(*p.weight) && !masked && p.k % 8 == 0 &&
         is_wide(p.dx, p.lddx) && counts_in_32_bits(p.m, layout_width(p.n, p.lora));
}

int64_t strip_workspace(const q4j_linear_forward_params& params) { return layout_of(params).bytes(); }

int64_t strip_workspace(const q4j_linear_backward_input_params& params) { return layout_of(params).bytes(); }

q4j_status strip_forward(q4j_pack_context* context, const q4j_linear_forward_params& p, void* workspace) {
  const Layout layout = layout_of(p);
  const BranchParts parts = parts_of(p.lora);
  auto* memory = static_cast<unsigned char*>(workspace);
  unsigned char* buffer = memory + layout.activations_bytes;
  void* scratch = layout.scratch(workspace);
  const int64_t width = layout.strips.width;

  const void* activations = p.x;
  int64_t lda = p.ldx;
  if (layout.activations_bytes > 0) {
    const WidenedActivations widened = {p.x,
                                        p.ldx,
                                        p.m,
                                        p.weight->cols,
                                        static_cast<const float*>(p.xa),
                                        has_branch(p.lora) ? p.lora->rank : 1,
                                        parts,
                                        static_cast<int32_t>(bias_parts(p)),
                                        width,
                                        memory};
    Q4J_RETURN_IF_ERROR(widen_activations(*context, widened));
    activations = memory;
    lda = width;
  }

  StripRows strip = {};
  strip.weight = weight_of(*p.weight);
  strip.b = branch_factor(p.lora, has_branch(p.lora) ? p.lora->b : nullptr);
  strip.parts = parts;
  strip.bias = p.bias;
  strip.bias_dtype = p.bias_dtype;
  strip.bias_parts = static_cast<int32_t>(bias_parts(p));
  strip.width = width;
  strip.strip = buffer;
  const auto fill = [&](int64_t first, int64_t count) {
    strip.first = first;
    strip.count = count;
    return fill_strip_rows(*context, strip);
  };
  const auto multiply = [&](int64_t first, int64_t count, const void* factor, int64_t ld) {
    const auto at = [&](const void* matrix) {
      return matrix == nullptr ? nullptr : static_cast<const uint16_t*>(matrix) + first;
    };
    DenseProduct product = {};
    product.m = p.m;
    product.n = count;
    product.k = width;
    product.a = activations;
    product.lda = lda;
    product.b = factor;
    product.ldb = ld;
    product.b_transposed = true;
    product.scale = 1.0f;
    product.c = at(p.residual);
    product.ldc = p.ldr;
    if (layout.added_bytes > 0) {
      Q4J_RETURN_IF_ERROR(copy_columns(*context, product.c, p.ldr, p.m, count, memory + layout.added_at()));
      product.c = memory + layout.added_at();
      product.ldc = count;
    }
    product.d = const_cast<uint16_t*>(at(p.y));
    product.ldd = p.ldy;
    product.dtype = Q4J_BF16;
    return context->dense->multiply(*context, product, scratch);
  };
  if (layout.whole) return multiply(0, layout.strips.total, p.weight->data, p.weight->ld);
  return for_each_strip(layout.strips, [&](int64_t first, int64_t count) {
    Q4J_RETURN_IF_ERROR(fill(first, count));
    return multiply(first, count, buffer, width);
  });
}

q4j_status strip_backward_input(q4j_pack_context* context, const q4j_linear_backward_input_params& p, void* workspace) {
  const Layout layout = layout_of(p);
  const BranchParts parts = parts_of(p.lora);
  auto* memory = static_cast<unsigned char*>(workspace);
  unsigned char* buffer = memory + layout.activations_bytes;
  void* scratch = layout.scratch(workspace);
  const int64_t height = layout.strips.width;

  const void* activations = p.dy;
  int64_t lda = p.lddy;
  if (layout.activations_bytes > 0) {
    const WidenedActivations widened = {
        p.dy,  p.lddy, p.m,    p.n,   static_cast<const float*>(p.dyb), has_branch(p.lora) ? p.lora->rank : 1,
        parts, 0,      height, memory};
    Q4J_RETURN_IF_ERROR(widen_activations(*context, widened));
    activations = memory;
    lda = height;
  }

  StripColumns strip = {};
  strip.weight = weight_of(*p.weight);
  strip.a = branch_factor(p.lora, has_branch(p.lora) ? p.lora->a : nullptr);
  strip.parts = parts;
  strip.height = height;
  strip.strip = buffer;
  const auto fill = [&](int64_t first, int64_t count) {
    strip.first = first;
    strip.count = count;
    return fill_strip_columns(*context, strip);
  };
  const auto multiply = [&](int64_t first, int64_t count, const void* factor, int64_t ld) {
    auto* dx = static_cast<uint16_t*>(p.dx) + first;
    DenseProduct product = {};
    product.m = p.m;
    product.n = count;
    product.k = height;
    product.a = activations;
    product.lda = lda;
    product.b = factor;
    product.ldb = ld;
    product.scale = 1.0f;
    if (p.accumulate != 0) {
      Q4J_RETURN_IF_ERROR(copy_columns(*context, dx, p.lddx, p.m, count, memory + layout.added_at()));
      product.c = memory + layout.added_at();
      product.ldc = count;
    }
    product.d = dx;
    product.ldd = p.lddx;
    product.dtype = Q4J_BF16;
    return context->dense->multiply(*context, product, scratch);
  };
  if (layout.whole) return multiply(0, layout.strips.total, p.weight->data, p.weight->ld);
  return for_each_strip(layout.strips, [&](int64_t first, int64_t count) {
    Q4J_RETURN_IF_ERROR(fill(first, count));
    return multiply(first, count, buffer, count);
  });
}

}  // namespace q4j::cuda
