// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** gradient_norm, adamw and adamw_8bit: many tensors in one call. adamw_8bit bit for bit. */
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "harness.h"

namespace q4j::parity {
namespace {

using Lengths = std::vector<int64_t>;

std::string name_of(const Lengths& lengths) {
  if (lengths.size() > 8) return text("%zu tensors", lengths.size());
  std::string name = "[";
  for (const int64_t n : lengths) name += (name.size() > 1 ? " " : "") + std::to_string(n);
  return name + "]";
}

/** Values of very different size, with NaN and infinities in some of them. */
std::vector<float> gradient_of(Run& run, int64_t n, bool special) {
  std::vector<float> values = run.random.wide(n, 6);
  if (special) run.random.sprinkle_specials(&values);
  return values;
}

double norm_of(Run& run, const Lengths& lengths, const std::vector<const void*>& tensors, const Tensor& result) {
  auto p = params<q4j_gradient_norm_params>();
  p.count = static_cast<int32_t>(lengths.size());
  p.tensors = tensors.data();
  p.lengths = lengths.data();
  p.result = result.data();
  run.call(q4j_gradient_norm, p);
  double norm = 0;
  std::memcpy(&norm, result.get().data(), sizeof norm);
  return norm;
}

void norm(Run& run, const Lengths& lengths, int64_t offset, bool special) {
  std::vector<const void*> tensors;
  std::vector<const void*> moved;
  for (const int64_t n : lengths) {
    const bool spoiled = special && run.random.one_in(2);
    const std::vector<float> values = gradient_of(run, n, spoiled);
    tensors.push_back(n == 0 ? nullptr : run.input(Q4J_F32, 1, n, values, {0, offset}).data());
    moved.push_back(n == 0 ? nullptr : run.input(Q4J_F32, 1, n, values, {0, offset + 1}).data());
  }
  const Tensor& result = run.output(kF64, 1, 1);
  // The order of the sum is that of the elements, wherever they lie, and nothing is left over from the last call.
  const double again = norm_of(run, lengths, moved, result);
  const double first = norm_of(run, lengths, tensors, result);
  run.compare("same bits at another address", first == again || std::isnan(first) ? 1.0 : 0.0, Tolerance::exact());
  // Sums of non-negative f64: a roundoff per term at most, half of that by the root.
  const auto terms = static_cast<double>(std::accumulate(lengths.begin(), lengths.end(), int64_t{1}));
  run.compare("norm", result, Tolerance{terms * 0x1p-53, 0, 0, "f64 sum", false});
}

/** How a step is made; the same for both kinds of AdamW. */
struct Options32 {
  int64_t t = 1;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  float gradient_scale = 1.0f;
  bool special = false;
  bool all_nan = false; /* the gradient */
  int64_t offset = 0;   /* elements that tensors lie behind an aligned address */
};

std::string name_of(const Options32& o) {
  return text("t %lld betas %g %g eps %g scale %g special %d offset %lld", static_cast<long long>(o.t), o.beta1, o.beta2, o.eps,
              static_cast<double>(o.gradient_scale), o.special, static_cast<long long>(o.offset));
}

template <typename P>
P step_params(const Options32& o, const Lengths& lengths, const std::vector<float>& decays) {
  auto p = params<P>();
  p.count = static_cast<int32_t>(lengths.size());
  p.t = o.t;
  p.learning_rate = 2e-3;
  p.beta1 = o.beta1;
  p.beta2 = o.beta2;
  p.eps = o.eps;
  p.gradient_scale = o.gradient_scale;
  p.lengths = lengths.data();
  p.weight_decays = decays.data();
  return p;
}

std::vector<float> decays_for(const Lengths& lengths) {
  std::vector<float> decays;
  for (size_t i = 0; i < lengths.size(); ++i) decays.push_back(i % 2 == 0 ? 0.01f : 0.0f);
  return decays;
}

void adamw(Run& run, const Lengths& lengths, const Options32& o) {
  std::vector<Tensor*> tensors[4];
  std::vector<void*> addresses[4];
  std::vector<double> largest;  // of what a first moment is made of
  for (const int64_t n : lengths) {
    std::vector<float> second = run.random.wide(n, 6);
    for (float& v : second) v = std::fabs(v) * 1e-3f;
    const std::vector<float> values[4] = {run.random.normal(n, 0.1), gradient_of(run, n, o.special), run.random.normal(n, 1e-2),
                                          second};
    for (int i = 0; i < 4; ++i) {
      tensors[i].push_back(&run.input(Q4J_F32, 1, n, values[i], {0, o.offset}));
      addresses[i].push_back(n == 0 ? nullptr : tensors[i].back()->data());
    }
    largest.push_back(0.0);
    for (const float g : values[1]) {
      const double term = (1 - o.beta1) * std::fabs(static_cast<double>(g) * static_cast<double>(o.gradient_scale));
      if (std::isfinite(term)) largest.back() = std::max(largest.back(), term);
    }
  }
  const std::vector<float> decays = decays_for(lengths);
  auto p = step_params<q4j_adamw_params>(o, lengths, decays);
  p.parameters = addresses[0].data();
  p.gradients = addresses[1].data();
  p.first_moments = addresses[2].data();
  p.second_moments = addresses[3].data();
  for (int step = 0; step < 2; ++step, ++p.t) run.call(q4j_adamw, p);
  // A step rounds a handful of f32 results; m can cancel, so its error is relative to what went in. A gradient whose square
  // leaves f32 has an infinite second moment in every pack.
  const Tolerance tolerance =
      Tolerance::function(24) + Tolerance::of_largest(8 * Tolerance::roundoff(Q4J_F32), "roundings before cancellation");
  for (size_t t = 0; t < lengths.size(); ++t) {
    run.compare(text("parameter %zu", t), *tensors[0][t], tolerance.of_terms(0.1));
    run.compare(text("gradient %zu", t), *tensors[1][t], Tolerance::bits());
    run.compare(text("first moment %zu", t), *tensors[2][t], tolerance.of_terms(largest[t]));
    run.compare(text("second moment %zu", t), *tensors[3][t], tolerance);
  }
}

enum class States { kZero, kRandom, kSpoiled };

void adamw_8bit(Run& run, const Lengths& lengths, int32_t block_size, States states, int steps, const Options32& o) {
  std::vector<Tensor*> parameters;
  std::vector<Tensor*> gradients;
  std::vector<Tensor*> codes[2];
  std::vector<Tensor*> absmax[2];
  for (const int64_t n : lengths) {
    const int64_t blocks = (n + block_size - 1) / block_size;
    parameters.push_back(&run.input(Q4J_F32, 1, n, run.random.normal(n, 0.1), {0, o.offset}));
    std::vector<float> gradient = gradient_of(run, n, o.special);
    if (o.all_nan) std::fill(gradient.begin(), gradient.end(), std::numeric_limits<float>::quiet_NaN());
    gradients.push_back(&run.input(Q4J_F32, 1, n, gradient, {0, o.offset}));
    for (int m = 0; m < 2; ++m) {
      std::vector<uint8_t> code(static_cast<size_t>(n), m == 0 ? 127 : 0);
      std::vector<float> scale(static_cast<size_t>(blocks), 0.0f);
      if (states != States::kZero) {
        code = run.random.bytes(n);
        // Second moments that are far below f32's normal numbers, too.
        for (float& s : scale)
          s = static_cast<float>(std::pow(10.0, run.random.uniform() * (m == 0 ? 20 : 44) - (m == 0 ? 18 : 43)));
      }
      if (states == States::kSpoiled) run.random.sprinkle_specials(&scale);
      codes[m].push_back(&run.input_bytes(Q4J_U8, 1, n, code, {0, o.offset}));
      absmax[m].push_back(&run.input(Q4J_F32, 1, blocks, scale));
    }
  }
  const std::vector<float> decays = decays_for(lengths);
  auto p = step_params<q4j_adamw_8bit_params>(o, lengths, decays);
  p.block_size = block_size;
  const auto addresses = [&](const std::vector<Tensor*>& tensors) {
    std::vector<void*> all;
    for (size_t t = 0; t < tensors.size(); ++t) all.push_back(lengths[t] == 0 ? nullptr : tensors[t]->data());
    return all;
  };
  const std::vector<void*> lists[6] = {addresses(parameters), addresses(gradients), addresses(codes[0]),
                                       addresses(absmax[0]),  addresses(codes[1]),  addresses(absmax[1])};
  p.parameters = lists[0].data();
  p.gradients = lists[1].data();
  p.first_moment_codes = lists[2].data();
  p.first_moment_absmax = lists[3].data();
  p.second_moment_codes = lists[4].data();
  p.second_moment_absmax = lists[5].data();
  for (int step = 0; step < steps; ++step, ++p.t) run.call(q4j_adamw_8bit, p);
  for (size_t t = 0; t < lengths.size(); ++t) {
    run.compare(text("parameter %zu", t), *parameters[t], Tolerance::bits());
    run.compare(text("gradient %zu", t), *gradients[t], Tolerance::bits());
    run.compare(text("first codes %zu", t), *codes[0][t], Tolerance::bits());
    run.compare(text("first absmax %zu", t), *absmax[0][t], Tolerance::bits());
    run.compare(text("second codes %zu", t), *codes[1][t], Tolerance::bits());
    run.compare(text("second absmax %zu", t), *absmax[1][t], Tolerance::bits());
  }
}

/** Tensors of all sizes around a block of threads, a tile, a block of moments. */
std::vector<Lengths> lists(const Options& options) {
  std::vector<Lengths> all = {{},
                              {0},
                              {0, 0, 5, 0},
                              {1},
                              {2, 3, 4, 5, 7, 8, 9},
                              {31, 32, 33, 127, 128, 129, 255, 256, 257},
                              {1023, 1024, 1025, 4095, 4096, 4097},
                              {8191, 8193, 1, 70001, 0, 12}};
  // More than a launch of any of the three takes.
  for (const int64_t count : {700, 1700}) {
    if (options.small && count > 700) continue;
    Lengths many;
    for (int64_t i = 0; i < count; ++i) many.push_back(i * 37 % 50);
    all.push_back(many);
  }
  if (!options.small) all.push_back({1 << 20, 3 << 20, 1000003});
  return all;
}

void cases(const Options& options) {
  for (const Lengths& lengths : lists(options)) {
    for (const int64_t offset : {0, 1}) {
      register_case("gradient_norm", text("%s offset %lld", name_of(lengths).c_str(), static_cast<long long>(offset)),
                    [=](Run& run) { norm(run, lengths, offset, false); });
      Options32 o;
      o.offset = offset;
      o.gradient_scale = 0.5f;
      register_case("adamw", name_of(lengths) + " " + name_of(o), [=](Run& run) { adamw(run, lengths, o); });
      register_case("adamw_8bit", name_of(lengths) + " block 256 " + name_of(o),
                    [=](Run& run) { adamw_8bit(run, lengths, 256, States::kRandom, 1, o); });
    }
  }
  const Lengths several = {1000, 1, 4103, 300};
  register_case("gradient_norm", name_of(several) + " special", [=](Run& run) { norm(run, several, 0, true); });
  register_case("gradient_norm", "huge", [](Run& run) {
    // Squares beyond f32 and below its smallest.
    const Tensor& x = run.input(Q4J_F32, 1, 3, {3e38f, -2e38f, 1e-42f});
    const Tensor& result = run.output(kF64, 1, 1);
    norm_of(run, {3}, {x.data()}, result);
    run.compare("norm", result, Tolerance{0x1p-50, 0, 0, "f64 sum", false});
  });
  std::vector<Options32> kinds(7);
  kinds[0].special = true;
  kinds[1].t = 1000000;
  kinds[2].t = std::numeric_limits<int64_t>::max() - 8;
  kinds[3].gradient_scale = 0.0f;
  kinds[4].gradient_scale = -3.7e-5f;
  kinds[5].beta1 = 0.0;
  kinds[5].beta2 = 0.0;
  kinds[6].eps = 0.0;
  kinds[6].beta2 = 0.9999999;
  for (const Options32& o : kinds) {
    register_case("adamw", name_of(several) + " " + name_of(o), [=](Run& run) { adamw(run, several, o); });
    for (const int32_t block_size : {64, 256, 1024}) {
      register_case("adamw_8bit", name_of(several) + text(" block %d ", block_size) + name_of(o),
                    [=](Run& run) { adamw_8bit(run, several, block_size, States::kRandom, 2, o); });
    }
  }
  // No moment counts towards absmax, which is 0, and all codes are 0.
  Options32 broken;
  broken.all_nan = true;
  for (const int32_t block_size : {32, 256, 512}) {
    register_case("adamw_8bit", text("[1 40 600] block %d NaN alone", block_size), [=](Run& run) {
      adamw_8bit(run, {1, 40, 600}, block_size, States::kZero, 2, broken);
    });
  }
  for (const int32_t block_size : {32, 64, 128, 256, 512, 1024, 2048, 4096}) {
    const Lengths around = {block_size - 1, block_size, block_size + 1, 3 * block_size + 17, 2 * block_size};
    for (const States states : {States::kZero, States::kRandom, States::kSpoiled}) {
      Options32 o;
      o.special = states == States::kSpoiled;
      o.offset = block_size == 128 ? 3 : 0;
      const int steps = states == States::kZero ? 3 : 1;
      const std::string name = name_of(around) + text(" block %d states %d ", block_size, static_cast<int>(states));
      register_case("adamw_8bit", name + name_of(o), [=](Run& run) { adamw_8bit(run, around, block_size, states, steps, o); });
    }
  }
}

const Family family(&cases);

}  // namespace
}  // namespace q4j::parity
