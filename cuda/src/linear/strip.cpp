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

// Two strips and the rows of activations in use share the L2 cache with the output: 50 MB on Hopper, 40 MB on A100.
constexpr int64_t kStripBytes = int64_t{12} << 20;
// The tile a library kernel for Hopper works on, for the choice of a strip's length. Only speed depends on it.
constexpr int64_t kTileM = 128;
constexpr int64_t kTileN = 256;
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

/**
 * The length whose strips, all together, take the fewest waves of tiles over the multiprocessors, and of those the
 * shortest: its first strip is the one whose dequantization nothing hides.
 */
Cut cut(const q4j_pack_context& context, int64_t total, int64_t width, int64_t m) {
  const int64_t most = std::max(kTileM, kStripBytes / (width * 2) / kTileM * kTileM);
  const int64_t tiles_n = ceil_div(m, kTileN);
  Cut best = {total, width, std::min(pad(total), most)};
  int64_t fewest = -1;
  for (int64_t length = kTileM; length <= most; length += kTileM) {
    const int64_t strips = ceil_div(total, length);
    const int64_t last = total - (strips - 1) * length;
    const int64_t waves = (strips - 1) * ceil_div(length / kTileM * tiles_n, context.multiprocessors) +
                          ceil_div(ceil_div(last, kTileM) * tiles_n, context.multiprocessors);
    if (fewest < 0 || waves < fewest) {
      fewest = waves;
      best.length = length;
    }
  }
  best.length = std::min(best.length, pad(total));
  return best;
}

/** The memory of a call, in the order of its workspace. */
struct Layout {
  int64_t activations_bytes; /* 0: they are used where they are */
  Cut strips;

  int64_t scratch_at() const { return activations_bytes + 2 * strips.strip_bytes(); }
  /** The library's scratch may have to begin a little later: the workspace is aligned to 64 bytes only. */
  int64_t bytes() const {
    return scratch_at() + DenseMultiplier::kWorkspaceBytes + DenseMultiplier::kWorkspaceAlignment - kAlignment;
  }
  void* scratch(void* workspace) const {
    const auto from = reinterpret_cast<uintptr_t>(workspace) + static_cast<uintptr_t>(scratch_at());
    constexpr auto alignment = static_cast<uintptr_t>(DenseMultiplier::kWorkspaceAlignment);
    return reinterpret_cast<void*>((from + alignment - 1) / alignment * alignment);
  }
};

/** A NULL is not: the workspace may be asked for before there are pointers, and must then do for any. */
bool used_in_place(const void* activations, int64_t ld) { return activations != nullptr && is_wide(activations, ld); }

int64_t bias_parts(const q4j_linear_forward_params& p) { return p.bias == nullptr ? 0 : p.bias_dtype == Q4J_F32 ? 3 : 1; }

/** Columns of the widened activations: those of the layer, of the branch, and `ones`. */
int64_t layout_width(int64_t columns, const q4j_lora* lora, int64_t ones = 0) {
  return pad(columns + (has_branch(lora) ? int64_t{parts_of(lora).groups} * lora->rank : 0) + ones);
}

Layout layout_of(const q4j_pack_context& context, const q4j_linear_forward_params& p) {
  const int64_t width = layout_width(p.weight->cols, p.lora, bias_parts(p));
  const bool in_place = width == p.weight->cols && used_in_place(p.x, p.ldx);
  return {in_place ? 0 : align(p.m * width * 2), cut(context, p.weight->rows, width, p.m)};
}

Layout layout_of(const q4j_pack_context& context, const q4j_linear_backward_input_params& p) {
  const int64_t height = layout_width(p.n, p.lora);
  const bool in_place = height == p.n && used_in_place(p.dy, p.lddy);
  return {in_place ? 0 : align(p.m * height * 2), cut(context, p.k, height, p.m)};
}

/** Whether the kernels can count the widened activations, and the shortest strip there is. */
bool counts_in_32_bits(int64_t m, int64_t width) { return std::max(m, kTileM) * (width / 8) < kMostItems; }

/** Work on the context goes to another stream while this lives. */
class OnStream {
 public:
  OnStream(q4j_pack_context* context, void* stream) : context_(context), previous_(context->stream) {
    context->stream = stream;
  }
  ~OnStream() { context_->stream = previous_; }
  OnStream(const OnStream&) = delete;
  OnStream& operator=(const OnStream&) = delete;

 private:
  q4j_pack_context* context_;
  void* previous_;
};

/**
 * Strip after strip: `fill(first, count, buffer)` on the side stream, `multiply(first, count, buffer)` on the context's. Buffer
 * i % 2 is filled again as soon as the product two strips before has read it. The last product waits for the last strip, so
 * the side stream has joined when this returns.
 */
template <typename Fill, typename Multiply>
q4j_status for_each_strip(q4j_pack_context* context, const Cut& strips, unsigned char* buffers, Fill fill, Multiply multiply) {
  DenseMultiplier& dense = *context->dense;
  Q4J_RETURN_IF_ERROR(dense.fork(*context));
  int64_t number = 0;
  for (int64_t first = 0; first < strips.total; first += strips.length, ++number) {
    const int slot = static_cast<int>(number % 2);
    const int64_t count = std::min(strips.length, strips.total - first);
    unsigned char* buffer = buffers + slot * strips.strip_bytes();
    {
      const OnStream side(context, dense.side_stream());
      Q4J_RETURN_IF_ERROR(fill(first, count, buffer));
    }
    Q4J_RETURN_IF_ERROR(dense.filled(*context, slot));
    Q4J_RETURN_IF_ERROR(multiply(first, count, buffer));
    Q4J_RETURN_IF_ERROR(dense.consumed(*context, slot));
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

int64_t strip_workspace(const q4j_pack_context& context, const q4j_linear_forward_params& params) {
  return layout_of(context, params).bytes();
}

int64_t strip_workspace(const q4j_pack_context& context, const q4j_linear_backward_input_params& params) {
  return layout_of(context, params).bytes();
}

q4j_status strip_forward(q4j_pack_context* context, const q4j_linear_forward_params& p, void* workspace) {
  const Layout layout = layout_of(*context, p);
  const BranchParts parts = parts_of(p.lora);
  auto* memory = static_cast<unsigned char*>(workspace);
  unsigned char* buffers = memory + layout.activations_bytes;
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
  const auto fill = [&](int64_t first, int64_t count, void* buffer) {
    strip.first = first;
    strip.count = count;
    strip.strip = buffer;
    return fill_strip_rows(*context, strip);
  };
  const auto multiply = [&](int64_t first, int64_t count, const void* buffer) {
    const auto at = [&](const void* matrix) {
      return matrix == nullptr ? nullptr : static_cast<const uint16_t*>(matrix) + first;
    };
    const DenseProduct product = {
        p.m, count, width, activations, lda, buffer, width, true, at(p.residual), p.ldr, const_cast<uint16_t*>(at(p.y)), p.ldy};
    return context->dense->multiply(*context, product, scratch);
  };
  return for_each_strip(context, layout.strips, buffers, fill, multiply);
}

q4j_status strip_backward_input(q4j_pack_context* context, const q4j_linear_backward_input_params& p, void* workspace) {
  const Layout layout = layout_of(*context, p);
  const BranchParts parts = parts_of(p.lora);
  auto* memory = static_cast<unsigned char*>(workspace);
  unsigned char* buffers = memory + layout.activations_bytes;
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
  const auto fill = [&](int64_t first, int64_t count, void* buffer) {
    strip.first = first;
    strip.count = count;
    strip.strip = buffer;
    return fill_strip_columns(*context, strip);
  };
  const auto multiply = [&](int64_t first, int64_t count, const void* buffer) {
    auto* dx = static_cast<uint16_t*>(p.dx) + first;
    const DenseProduct product = {
        p.m, count, height, activations, lda, buffer, count, false, p.accumulate != 0 ? dx : nullptr, p.lddx, dx, p.lddx};
    return context->dense->multiply(*context, product, scratch);
  };
  return for_each_strip(context, layout.strips, buffers, fill, multiply);
}

}  // namespace q4j::cuda
