// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * adamw: one AdamW step over many f32 tensors.
 *
 * Launch contract
 *   parameters, first_moments, second_moments  f32[length] each, updated; any alignment to 4 bytes (16 for all four is fast)
 *   gradients                                   f32[length], read
 * Tensors may be empty, and none may overlap. An element is computed in f32 with the roundings of the CPU packs, so the results
 * are theirs bit for bit: what depends on t alone is computed in f64 and rounded once; then
 *   g = gradient * gradient_scale          m = fma(b1, m, (1 - b1) * g)          v = fma(b2, v, ((1 - b2) * g) * g)
 *   p = fma(-step, m / (sqrt(v) / root + eps), p * decay)
 * with correctly rounded quotients and roots. ((1 - b2) * g) * g is finite wherever (1 - b2) * g^2 is an f32.
 *
 * Rungs
 *   1 one thread per element, a launch per tensor.
 *   2 one launch for 628 tensors. A tile of 4096 elements at a time per block, 16 bytes of each of the four arrays per thread.
 *
 * Moves 28 bytes per element: 4 arrays in, 3 out.
 */
#include <cmath>

#include "pack/operators.h"
#include "support/elements.h"
#include "support/launch.h"
#include "support/tensor_list.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kTile = 4096;

struct Slot {
  float* parameter;
  const float* gradient;
  float* first;
  float* second;
  int64_t length;
  float decay; /* 1 - learning_rate * weight_decay */
};

/** What all elements of a step share. */
struct Step {
  float beta1;
  float rest1; /* 1 - beta1 */
  float beta2;
  float rest2;
  float step_size; /* learning_rate / (1 - beta1^t) */
  float root;      /* sqrt(1 - beta2^t) */
  float eps;
  float gradient_scale;
};

constexpr int kTensors = tensor_capacity<Slot>(sizeof(Step));

struct AdamW {
  Step step;
  TensorList<Slot, kTensors> tensors;
};
static_assert(sizeof(AdamW) <= kParameterBytes, "fits the parameters of a kernel");
static_assert(kTensors == 628, "tensor_list.h, docs/kernels/adamw.md");

Q4J_DEVICE void update(const Step& s, float decay, float gradient, float& parameter, float& first, float& second) {
  const float g = multiply(gradient, s.gradient_scale);
  first = multiply_add(s.beta1, first, multiply(s.rest1, g));
  second = multiply_add(s.beta2, second, multiply(multiply(s.rest2, g), g));
  const float denominator = add(divide(square_root(second), s.root), s.eps);
  parameter = multiply_add(-s.step_size, divide(first, denominator), multiply(parameter, decay));
}

template <typename Index>
Q4J_DEVICE void update_one(const Step& step, const Slot& slot, Index i) {
  float parameter = slot.parameter[i];
  float first = slot.first[i];
  float second = slot.second[i];
  update(step, slot.decay, slot.gradient[i], parameter, first, second);
  slot.parameter[i] = parameter;
  slot.first[i] = first;
  slot.second[i] = second;
}

Q4J_DEVICE void update_four(const Step& step, const Slot& slot, int i) {
  auto* parameters = reinterpret_cast<Words4*>(slot.parameter + i);
  auto* firsts = reinterpret_cast<Words4*>(slot.first + i);
  auto* seconds = reinterpret_cast<Words4*>(slot.second + i);
  const Words4 gradient = load_read_only(reinterpret_cast<const Words4*>(slot.gradient + i));
  Words4 parameter = load(parameters);
  Words4 first = load(firsts);
  Words4 second = load(seconds);
  Q4J_UNROLL
  for (int k = 0; k < 4; ++k) {
    float p = bits_float(parameter.word[k]);
    float m = bits_float(first.word[k]);
    float v = bits_float(second.word[k]);
    update(step, slot.decay, bits_float(gradient.word[k]), p, m, v);
    parameter.word[k] = float_bits(p);
    first.word[k] = float_bits(m);
    second.word[k] = float_bits(v);
  }
  store(parameters, parameter);
  store(firsts, first);
  store(seconds, second);
}

Q4J_KERNEL(kThreads, 1) adamw_1_elements(const Step step, const Slot slot) {
  const int64_t i = static_cast<int64_t>(block_index()) * kThreads + thread_index();
  if (i < slot.length) update_one(step, slot, i);
}

/** The part of a tensor that is in one of its tiles. */
Q4J_DEVICE Slot part_of(const Slot& slot, int tile) {
  const int64_t begin = static_cast<int64_t>(tile) * kTile;
  const int64_t left = slot.length - begin;
  return {slot.parameter + begin, slot.gradient + begin,       slot.first + begin,
          slot.second + begin,    left < kTile ? left : kTile, slot.decay};
}

Q4J_KERNEL(kThreads, 4) adamw_2_tensors(Q4J_LARGE_PARAMETER(AdamW) adamw) {
  const Step step = adamw.step;
  int tensor = 0;
  for (int tile = block_index(); tile < adamw.tensors.tiles; tile += grid_blocks()) {
    tensor = tensor_of_tile(adamw.tensors, tile, tensor);
    const Slot part = part_of(adamw.tensors.item[tensor], tile - adamw.tensors.first_tile[tensor]);
    const int length = static_cast<int>(part.length);
    const bool vectors = is_aligned(part.parameter, sizeof(Words4)) && is_aligned(part.gradient, sizeof(Words4)) &&
                         is_aligned(part.first, sizeof(Words4)) && is_aligned(part.second, sizeof(Words4));
    const int whole = vectors ? length / 4 * 4 : 0;
    Q4J_NO_UNROLL
    for (int i = thread_index() * 4; i < whole; i += kThreads * 4) update_four(step, part, i);
    Q4J_NO_UNROLL
    for (int i = whole + thread_index(); i < length; i += kThreads) update_one(step, part, i);
  }
}

Step step_of(const q4j_adamw_params& p) {
  const auto steps = static_cast<double>(p.t);
  Step step = {};
  step.beta1 = static_cast<float>(p.beta1);
  step.rest1 = static_cast<float>(1.0 - p.beta1);
  step.beta2 = static_cast<float>(p.beta2);
  step.rest2 = static_cast<float>(1.0 - p.beta2);
  step.step_size = static_cast<float>(p.learning_rate / (1.0 - std::pow(p.beta1, steps)));
  step.root = static_cast<float>(std::sqrt(1.0 - std::pow(p.beta2, steps)));
  step.eps = static_cast<float>(p.eps);
  step.gradient_scale = p.gradient_scale;
  return step;
}

Slot slot_of(const q4j_adamw_params& p, int32_t t) {
  return {static_cast<float*>(p.parameters[t]),
          static_cast<const float*>(p.gradients[t]),
          static_cast<float*>(p.first_moments[t]),
          static_cast<float*>(p.second_moments[t]),
          p.lengths[t],
          static_cast<float>(1.0 - p.learning_rate * static_cast<double>(p.weight_decays[t]))};
}

}  // namespace

q4j_status adamw(q4j_pack_context* context, const q4j_adamw_params* params) {
  const q4j_adamw_params& p = *params;
  if (context->rungs.adamw == 1) {
    const Step step = step_of(p);
    for (int32_t t = 0; t < p.count; ++t) {
      const Grid grid = {blocks_for(p.lengths[t], kThreads), kThreads};
      Q4J_RETURN_IF_ERROR(launch(*context, grid, "adamw_1_elements", adamw_1_elements, step, slot_of(p, t)));
    }
    return Q4J_OK;
  }
  int resident = 0;
  Q4J_RETURN_IF_ERROR(resident_blocks(*context, kThreads, "adamw_2_tensors", adamw_2_tensors, &resident));
  AdamW adamw = {};
  adamw.step = step_of(p);
  const auto slot = [&](int32_t t) { return slot_of(p, t); };
  return for_each_list(p.count, p.lengths, kTile, &adamw, slot, [&](bool) {
    const Grid grid = {blocks_for(adamw.tensors.tiles, 1, resident), kThreads};
    return launch(*context, grid, "adamw_2_tensors", adamw_2_tensors, adamw);
  });
}

}  // namespace q4j::cuda
