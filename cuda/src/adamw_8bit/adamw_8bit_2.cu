// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Rung 2: one launch over many tensors, one warp per block of moments. */
#include "adamw_8bit/adamw_8bit.h"
#include "adamw_8bit/moment_codes.h"
#include "quant.h"
#include "support/elements.h"
#include "support/launch.h"

namespace q4j::cuda {

namespace {

constexpr int kFirst = 0;
constexpr int kSecond = 1;

/** Elements that a lane takes side by side, and how many such fours make a step. */
constexpr int kFour = 4;
constexpr int kFours = 2;
/** Elements from one of a lane's fours to the next: a warp reads 512 bytes of f32 in one go. */
constexpr int kStride = kWarp * kFour;
constexpr int kChunk = kFours * kStride;

/** How blocks of moments and chunks of 256 elements lie to each other; decides how a block's largest moment is found. */
enum class Blocks { kSmaller, kEqual, kLarger };

Q4J_TABLE MomentCodes<true> signed_codes = make_moment_codes<true>();
Q4J_TABLE MomentCodes<false> unsigned_codes = make_moment_codes<false>();

struct Maps {
  MomentCodes<true> first;
  MomentCodes<false> second;
};

template <typename T>
Q4J_DEVICE void copy_table(T& to, const T& from) {
  constexpr int words = static_cast<int>(sizeof(T) / sizeof(Words4));
  for (int i = thread_index(); i < words; i += kThreads8)
    store(reinterpret_cast<Words4*>(&to) + i, load_read_only(reinterpret_cast<const Words4*>(&from) + i));
}

/** What one warp takes of a tile: elements of one tensor from the start of a block of moments on, or none. */
struct Piece {
  float* parameter;
  const float* gradient;
  uint8_t* codes[2];
  float* absmax[2];
  float decay;
  int length;
  bool vectors; /* wide accesses are possible */
};

Q4J_DEVICE Piece piece_of(const Step8& step, const Slot8& slot, int tile) {
  const int64_t begin = (static_cast<int64_t>(tile) * (kThreads8 / kWarp) + warp_index()) * step.share;
  const int64_t left = slot.length - begin;
  Piece piece;
  piece.parameter = slot.parameter + begin;
  piece.gradient = slot.gradient + begin;
  piece.vectors = is_aligned(piece.parameter, sizeof(Words4)) && is_aligned(piece.gradient, sizeof(Words4));
  Q4J_UNROLL
  for (int m = 0; m < 2; ++m) {
    piece.codes[m] = slot.codes[m] + begin;
    piece.absmax[m] = slot.absmax[m] + (begin >> step.block_shift);
    piece.vectors = piece.vectors && is_aligned(piece.codes[m], sizeof(uint32_t));
  }
  piece.decay = slot.decay;
  piece.length = left < 0 ? 0 : static_cast<int>(left < step.share ? left : step.share);
  return piece;
}

// Functions with a parameter Wide: true for elements that all exist and lie where accesses of 16 bytes (4, of codes) may.

/** What a lane reads of a chunk but for the parameters: elements from + f * kStride + i, four codes to a word. */
struct Loaded {
  Words4 gradient[kFours];
  uint32_t codes[2][kFours];
};

struct Moments {
  float at[2][kFours][kFour];
};

template <bool Wide>
Q4J_DEVICE uint32_t load_codes(const Piece& piece, int moment, int from, uint32_t beyond) {
  const uint8_t* codes = piece.codes[moment];
  if (Wide) return load(reinterpret_cast<const uint32_t*>(codes + from));
  uint32_t word = 0;
  Q4J_UNROLL
  for (int i = 0; i < kFour; ++i) word |= (from + i < piece.length ? codes[from + i] : beyond) << (8 * i);
  return word;
}

/** Behind the last element it finds zeros: their moments are 0, or NaN where a factor is not finite, and count towards no
 * maximum. */
template <bool Wide>
Q4J_DEVICE Loaded load_chunk(const Piece& piece, int from) {
  Loaded loaded;
  Q4J_UNROLL
  for (int f = 0; f < kFours; ++f) {
    const int at = from + f * kStride;
    loaded.gradient[f] = load_four<Wide>(piece.gradient, at, piece.length);
    loaded.codes[kFirst][f] = load_codes<Wide>(piece, kFirst, at, 127u);
    loaded.codes[kSecond][f] = load_codes<Wide>(piece, kSecond, at, 0u);
  }
  return loaded;
}

template <bool Wide>
Q4J_DEVICE void load_parameters(const Piece& piece, int from, Words4 (&parameters)[kFours]) {
  Q4J_UNROLL
  for (int f = 0; f < kFours; ++f) {
    const int at = from + f * kStride;
    if constexpr (Wide) {
      parameters[f] = load(reinterpret_cast<const Words4*>(piece.parameter + at));
    } else {
      Q4J_UNROLL
      for (int i = 0; i < kFour; ++i) parameters[f].word[i] = at + i < piece.length ? float_bits(piece.parameter[at + i]) : 0u;
    }
  }
}

/** The new moments. absmax: what the codes refer to, of each four or of both together. */
template <int Groups>
Q4J_DEVICE Moments new_moments(const Step8& step, const Maps& maps, const Loaded& loaded, const float (&absmax)[2][Groups]) {
  Moments moments;
  Q4J_UNROLL
  for (int f = 0; f < kFours; ++f) {
    Q4J_UNROLL
    for (int i = 0; i < kFour; ++i) {
      float first = multiply(maps.first.value[loaded.codes[kFirst][f] >> (8 * i) & 255u], absmax[kFirst][f % Groups]);
      float second = multiply(maps.second.value[loaded.codes[kSecond][f] >> (8 * i) & 255u], absmax[kSecond][f % Groups]);
      advance(step, bits_float(loaded.gradient[f].word[i]), first, second);
      moments.at[kFirst][f][i] = first;
      moments.at[kSecond][f][i] = second;
    }
  }
  return moments;
}

/** sqrt(second) / root. */
Q4J_DEVICE float corrected_root(const Step8& step, float second) {
  const float root = square_root(second);
  // The quotient by a number up to 1 is no smaller than the dividend; of infinity divide_by makes NaN, which loses here.
  return maximum_number(divide_by(step.root, step.root_reciprocal, root), root);
}

template <bool Wide>
Q4J_DEVICE void update_parameters(const Step8& step, const Piece& piece, const Words4 (&old)[kFours], const Moments& moments,
                                  int from) {
  Q4J_UNROLL
  for (int f = 0; f < kFours; ++f) {
    const int at = from + f * kStride;
    Words4 parameter;
    Q4J_UNROLL
    for (int i = 0; i < kFour; ++i) {
      const float quotient = corrected_root(step, moments.at[kSecond][f][i]);
      parameter.word[i] =
          float_bits(stepped(step, piece.decay, bits_float(old[f].word[i]), moments.at[kFirst][f][i], quotient));
    }
    if constexpr (Wide) {
      store(reinterpret_cast<Words4*>(piece.parameter + at), parameter);
    } else {
      Q4J_UNROLL
      for (int i = 0; i < kFour; ++i) {
        if (at + i < piece.length) piece.parameter[at + i] = bits_float(parameter.word[i]);
      }
    }
  }
}

/** `largest` and the magnitudes of a lane's moments, of each four or of both together. NaN does not count. */
template <int Groups>
Q4J_DEVICE void raise(float (&largest)[Groups], const float (&moments)[kFours][kFour]) {
  Q4J_UNROLL
  for (int f = 0; f < kFours; ++f) {
    Q4J_UNROLL
    for (int i = 0; i < kFour; ++i) largest[f % Groups] = maximum_number(largest[f % Groups], absolute(moments[f][i]));
  }
}

/** The largest over the lanes that share a block: all of them, or as many as it has fours. */
template <int Groups>
Q4J_DEVICE void raise_over_lanes(float (&largest)[Groups], int block_size) {
  if constexpr (Groups == 1) {
    largest[0] = bits_float(warp_maximum(float_bits(largest[0])));  // magnitudes are ordered like their bits
  } else {
    Q4J_NO_UNROLL
    for (int mask = block_size / kFour / 2; mask > 0; mask /= 2) {
      Q4J_UNROLL
      for (int g = 0; g < Groups; ++g) largest[g] = maximum_number(largest[g], shuffle_xor(largest[g], mask));
    }
  }
}

/** Codes of a lane's moments. */
template <bool Wide, bool Signed, int Groups>
Q4J_DEVICE void store_codes(const Piece& piece, const MomentCodes<Signed>& map, const float (&moments)[kFours][kFour],
                            const float (&absmax)[Groups], int from) {
  uint8_t* codes = piece.codes[Signed ? kFirst : kSecond];
  BlockDivisor divisor[Groups];
  Q4J_UNROLL
  for (int g = 0; g < Groups; ++g) divisor[g] = block_divisor(absmax[g]);
  Q4J_UNROLL
  for (int f = 0; f < kFours; ++f) {
    const int at = from + f * kStride;
    uint32_t word = 0;
    Q4J_UNROLL
    for (int i = 0; i < kFour; ++i) {
      // NaN becomes a value of code 0.
      const float scaled = maximum_number(divide_by(divisor[f % Groups], moments[f][i]), Signed ? -1.0f : 0.0f);
      word |= encode_moment(map, scaled) << (8 * i);
    }
    if constexpr (Wide) {
      store(reinterpret_cast<uint32_t*>(codes + at), word);
    } else {
      Q4J_UNROLL
      for (int i = 0; i < kFour; ++i) {
        if (at + i < piece.length) codes[at + i] = static_cast<uint8_t>(word >> (8 * i));
      }
    }
  }
}

/** A chunk of whole blocks of up to 256 elements; `from` is the lane's first element. */
template <bool Wide, int Groups>
Q4J_DEVICE void step_chunk(const Step8& step, const Maps& maps, const Piece& piece, int from) {
  const Loaded loaded = load_chunk<Wide>(piece, from);
  Words4 parameters[kFours];
  load_parameters<Wide>(piece, from, parameters);
  float absmax[2][Groups];
  Q4J_UNROLL
  for (int g = 0; g < Groups; ++g) {
    const int block = (from + g * kStride) >> step.block_shift;
    const bool exists = Wide || block << step.block_shift < piece.length;
    Q4J_UNROLL
    for (int m = 0; m < 2; ++m) absmax[m][g] = exists ? piece.absmax[m][block] : 0.0f;
  }
  const Moments moments = new_moments(step, maps, loaded, absmax);
  update_parameters<Wide>(step, piece, parameters, moments, from);
  float largest[2][Groups] = {};
  Q4J_UNROLL
  for (int m = 0; m < 2; ++m) {
    raise(largest[m], moments.at[m]);
    raise_over_lanes(largest[m], step.block_size);
  }
  store_codes<Wide>(piece, maps.first, moments.at[kFirst], largest[kFirst], from);
  store_codes<Wide>(piece, maps.second, moments.at[kSecond], largest[kSecond], from);
  Q4J_UNROLL
  for (int g = 0; g < Groups; ++g) {
    const int at = from + g * kStride;
    if ((!Wide && at >= piece.length) || (at & (step.block_size - 1)) != 0) continue;
    Q4J_UNROLL
    for (int m = 0; m < 2; ++m) piece.absmax[m][at >> step.block_shift] = largest[m][g];
  }
}

/** The block of more than 256 elements that starts at `begin`. */
template <bool Wide>
Q4J_DEVICE void step_large_block(const Step8& step, const Maps& maps, const Piece& piece, int begin) {
  const int block = begin >> step.block_shift;
  const int end = begin + step.block_size < piece.length ? begin + step.block_size : piece.length;
  float absmax[2][1];
  float largest[2][1] = {};
  Q4J_UNROLL
  for (int m = 0; m < 2; ++m) absmax[m][0] = piece.absmax[m][block];
  Q4J_NO_UNROLL
  for (int chunk = begin; chunk < end; chunk += kChunk) {
    const Loaded loaded = load_chunk<Wide>(piece, chunk + lane_index() * kFour);
    const Moments moments = new_moments(step, maps, loaded, absmax);
    Q4J_UNROLL
    for (int m = 0; m < 2; ++m) raise(largest[m], moments.at[m]);
  }
  Q4J_UNROLL
  for (int m = 0; m < 2; ++m) raise_over_lanes(largest[m], step.block_size);
  Q4J_NO_UNROLL
  for (int chunk = begin; chunk < end; chunk += kChunk) {
    const int from = chunk + lane_index() * kFour;
    const Loaded loaded = load_chunk<Wide>(piece, from);
    Words4 parameters[kFours];
    load_parameters<Wide>(piece, from, parameters);
    const Moments moments = new_moments(step, maps, loaded, absmax);
    update_parameters<Wide>(step, piece, parameters, moments, from);
    store_codes<Wide>(piece, maps.first, moments.at[kFirst], largest[kFirst], from);
    store_codes<Wide>(piece, maps.second, moments.at[kSecond], largest[kSecond], from);
  }
  if (lane_index() != 0) return;
  Q4J_UNROLL
  for (int m = 0; m < 2; ++m) piece.absmax[m][block] = largest[m][0];
}

/** The chunk, or the block that is larger, which starts at `begin`. */
template <Blocks Size, bool Wide>
Q4J_DEVICE void step_unit(const Step8& step, const Maps& maps, const Piece& piece, int begin) {
  if constexpr (Size == Blocks::kLarger) {
    step_large_block<Wide>(step, maps, piece, begin);
  } else {
    step_chunk<Wide, Size == Blocks::kEqual ? 1 : kFours>(step, maps, piece, begin + lane_index() * kFour);
  }
}

template <Blocks Size>
Q4J_KERNEL(kThreads8, 3)
adamw_8bit_2_tensors(Q4J_LARGE_PARAMETER(AdamW8) adamw) {
  auto& maps = block_shared<Maps>();
  copy_table(maps.first, signed_codes);
  copy_table(maps.second, unsigned_codes);
  block_barrier();
  const Step8& step = adamw.step;
  int tensor = 0;
  for (int tile = block_index(); tile < adamw.tensors.tiles; tile += grid_blocks()) {
    tensor = tensor_of_tile(adamw.tensors, tile, tensor);
    const Piece piece = piece_of(step, adamw.tensors.item[tensor], tile - adamw.tensors.first_tile[tensor]);
    const int unit = Size == Blocks::kLarger ? step.block_size : kChunk;
    const int wide = piece.vectors ? piece.length & ~(unit - 1) : 0;
    Q4J_NO_UNROLL
    for (int begin = 0; begin < wide; begin += unit) step_unit<Size, true>(step, maps, piece, begin);
    Q4J_NO_UNROLL
    for (int begin = wide; begin < piece.length; begin += unit) step_unit<Size, false>(step, maps, piece, begin);
  }
}

template <Blocks Size>
q4j_status start_tensors(const q4j_pack_context& context, const AdamW8& arguments) {
  const auto kernel = adamw_8bit_2_tensors<Size>;
  int resident = 0;
  Q4J_RETURN_IF_ERROR(resident_blocks(context, kThreads8, "adamw_8bit_2_tensors", kernel, &resident));
  const Grid grid = {blocks_for(arguments.tensors.tiles, 1, resident), kThreads8};
  return launch(context, grid, "adamw_8bit_2_tensors", kernel, arguments);
}

}  // namespace

q4j_status adamw_8bit_2(const q4j_pack_context& context, const AdamW8& arguments) {
  const int block_size = arguments.step.block_size;
  if (block_size > kChunk) return start_tensors<Blocks::kLarger>(context, arguments);
  if (block_size == kChunk) return start_tensors<Blocks::kEqual>(context, arguments);
  return start_tensors<Blocks::kSmaller>(context, arguments);
}

}  // namespace q4j::cuda
