// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * NF4 and FP4, bit-identical to the reference. A block never shares a byte with another one, because block sizes are even, so
 * blocks are independent. Rounding rules are bitsandbytes': see support/quant.h and docs/kernels/quantize-4bit.md.
 */
#include <algorithm>
#include <cmath>

#include "cpu_operators.h"
#include "error.h"
#include "pack_context.h"
#include "quant.h"
#include "search_8bit.h"
#include "vec.h"

namespace q4j::cpu {

namespace {

/** Elements per piece of work; a multiple of every block size. */
constexpr int64_t kGrain = 65536;

#if defined(__AVX512F__)

/** Ranks by halving steps: each looks its threshold up in one permutation. */
class Coder {
 public:
  explicit Coder(int32_t format) {
    const bool fp4 = format == Q4J_WEIGHT_FP4;
    const std::array<float, 15>& midpoints = fp4 ? fp4_midpoints : nf4_midpoints;
    const std::array<uint8_t, 16>& codes = fp4 ? fp4_codes_by_value : nf4_codes_by_value;
    alignas(64) float shifted[16] = {};
    middle_ = _mm512_set1_ps(midpoints[7]);
    const auto from = [&](size_t first) {
      for (size_t i = 0; i + first < 15; ++i) shifted[i] = midpoints[i + first];
      return _mm512_load_ps(shifted);
    };
    quarter_ = from(3);
    eighth_ = from(1);
    last_ = from(0);
    codes_ = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes.data()));
  }

  /** Codes of 16 scaled elements in the low 8 bytes. */
  __m128i pack(Vec x) const {
    __m512i rank = _mm512_maskz_set1_epi32(_mm512_cmp_ps_mask(x.v, middle_, _CMP_GT_OQ), 8);
    rank = step(rank, x, quarter_, 4);
    rank = step(rank, x, eighth_, 2);
    rank = step(rank, x, last_, 1);
    const __m128i codes = _mm_shuffle_epi8(codes_, _mm512_cvtepi32_epi8(rank));
    // Even elements times 16 plus odd ones.
    const __m128i bytes = _mm_maddubs_epi16(codes, _mm_set1_epi16(0x0110));
    return _mm_packus_epi16(bytes, bytes);
  }

 private:
  static __m512i step(__m512i rank, Vec x, __m512 thresholds, int size) {
    const __mmask16 above = _mm512_cmp_ps_mask(x.v, _mm512_permutexvar_ps(rank, thresholds), _CMP_GT_OQ);
    return _mm512_mask_or_epi32(rank, above, rank, _mm512_set1_epi32(size));
  }

  __m512 middle_, quarter_, eighth_, last_;
  __m128i codes_;
};

/** Looks values up by code in one permutation. */
class Decoder {
 public:
  explicit Decoder(int32_t format) : values_(_mm512_loadu_ps(values_4bit(format).data())) {}

  /** Values of the codes in the low bytes of `codes`. */
  Vec values(__m128i codes) const { return {_mm512_permutexvar_ps(_mm512_cvtepu8_epi32(codes), values_)}; }

 private:
  __m512 values_;
};

#else

/** Ranks by counting: 15 comparisons, no cross-lane look-up of 15 thresholds being available. */
class Coder {
 public:
  explicit Coder(int32_t format) {
    const bool fp4 = format == Q4J_WEIGHT_FP4;
    const std::array<float, 15>& midpoints = fp4 ? fp4_midpoints : nf4_midpoints;
    const std::array<uint8_t, 16>& codes = fp4 ? fp4_codes_by_value : nf4_codes_by_value;
    for (size_t i = 0; i < 15; ++i) midpoints_[i] = _mm256_set1_ps(midpoints[i]);
    codes_ = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes.data()));
  }

  /** Codes of 8 scaled elements in the low 4 bytes. */
  __m128i pack(Vec x) const {
    __m256i rank = _mm256_setzero_si256();
    for (const __m256& midpoint : midpoints_) {
      rank = _mm256_sub_epi32(rank, _mm256_castps_si256(_mm256_cmp_ps(x.v, midpoint, _CMP_GT_OQ)));
    }
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(rank), _mm256_extracti128_si256(rank, 1));
    const __m128i codes = _mm_shuffle_epi8(codes_, _mm_packus_epi16(words, words));
    // Even elements times 16 plus odd ones.
    const __m128i bytes = _mm_maddubs_epi16(codes, _mm_set1_epi16(0x0110));
    return _mm_packus_epi16(bytes, bytes);
  }

 private:
  __m256 midpoints_[15];
  __m128i codes_;
};

/** Looks values up by the low three bits of a code in both halves of the table and chooses by the fourth. */
class Decoder {
 public:
  explicit Decoder(int32_t format)
      : low_(_mm256_loadu_ps(values_4bit(format).data())), high_(_mm256_loadu_ps(values_4bit(format).data() + 8)) {}

  /** Values of the codes in the low bytes of `codes`. */
  Vec values(__m128i codes) const {
    const __m256i wide = _mm256_cvtepu8_epi32(codes);
    const __m256 low = _mm256_permutevar8x32_ps(low_, wide);
    const __m256 high = _mm256_permutevar8x32_ps(high_, wide);
    return {_mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(wide, 28)))};
  }

 private:
  __m256 low_, high_;
};

#endif

constexpr size_t kVectorBytes = kLanes / 2;

template <class T>
float quantize_block(const Coder& coder, const T* input, int64_t count, bool full, uint8_t* packed) {
  Vec most = zero();
  for (int64_t i = 0; i < count; i += kLanes) most = max_magnitude(most, abs(load_first(input + i, count - i)));
  const float absmax = reduce_max_magnitude(most);
  const float divisor = absmax < smallest_absmax ? smallest_absmax : absmax;
  if (full) {
    const Vec reciprocal = broadcast(1.0f / divisor);
    for (int64_t i = 0; i < count; i += kLanes) {
      const __m128i bytes = coder.pack(load(input + i) * reciprocal);
      std::memcpy(packed + i / 2, &bytes, kVectorBytes);
    }
    return absmax;
  }
  for (int64_t i = 0; i < count; i += kLanes) {
    // Lanes past the end are 0, and the code of 0 is what an odd count is padded with.
    const __m128i bytes = coder.pack(load_first(input + i, count - i) / broadcast(divisor));
    std::memcpy(packed + i / 2, &bytes, std::min(kVectorBytes, static_cast<size_t>((count - i + 1) / 2)));
  }
  return divisor;
}

void quantize_absmax(ThreadPool& pool, const float* absmax, int64_t blocks, int64_t block_size, uint8_t* codes,
                     float* nested_absmax, float* nested_offset) {
  // In order, so that every pack rounds the same sum.
  double sum = 0.0;
  for (int64_t b = 0; b < blocks; ++b) sum += static_cast<double>(absmax[b]);
  const float offset = blocks == 0 ? 0.0f : static_cast<float>(sum / static_cast<double>(blocks));
  *nested_offset = offset;
  const Search8Bit search(dynamic_signed_thresholds.data());
  pool.parallel_for(ceil_div(blocks, block_size), [&](int64_t group, int) {
    const int64_t first = group * block_size;
    const int64_t last = std::min(first + block_size, blocks);
    Vec most = zero();
    for (int64_t b = first; b < last; b += kLanes) {
      const Vec magnitude = abs(load_first(absmax + b, last - b) - broadcast(offset));
      most = max_magnitude(most, last - b < kLanes ? select(first_lanes(last - b), magnitude, zero()) : magnitude);
    }
    const float largest = reduce_max_magnitude(most);
    search.store_block(absmax + first, last - first, offset, largest, codes + first);
    nested_absmax[group] = largest;
  });
}

/** Dequantizes elements [first, last); first is the beginning of a block. */
template <class T>
void dequantize_range(const q4j_weight& weight, int64_t first, int64_t last, T* output) {
  const Decoder decoder(weight.format);
  const uint8_t* packed = static_cast<const uint8_t*>(weight.data);
  const __m128i low_bits = _mm_set1_epi8(15);
  for (int64_t begin = first; begin < last; begin += weight.block_size) {
    const Vec absmax = broadcast(dequantized_absmax(weight, begin / weight.block_size));
    const int64_t end = std::min(begin + weight.block_size, last);
    const auto values_at = [&](int64_t i, size_t bytes_left) {
      int64_t bits = 0;
      std::memcpy(&bits, packed + i / 2, bytes_left);
      const __m128i bytes = _mm_cvtsi64_si128(bits);
      const __m128i even = _mm_and_si128(_mm_srli_epi16(bytes, 4), low_bits);
      const __m128i odd = _mm_and_si128(bytes, low_bits);
      return decoder.values(_mm_unpacklo_epi8(even, odd)) * absmax;
    };
    int64_t i = begin;
    // A constant number of bytes makes the copy one load.
    for (; i + kLanes <= end; i += kLanes) store(output + i, values_at(i, kVectorBytes));
    if (i < end) store_first(output + i, values_at(i, static_cast<size_t>((end - i + 1) / 2)), end - i);
  }
}

}  // namespace

q4j_status quantize_4bit_workspace_size(q4j_pack_context*, const q4j_quantize_4bit_params* params, int64_t* bytes) {
  *bytes = params->nested_block_size > 0 ? ceil_div(params->n, params->block_size) * static_cast<int64_t>(sizeof(float)) : 0;
  return Q4J_OK;
}

q4j_status quantize_4bit(q4j_pack_context* context, const q4j_quantize_4bit_params* params) {
  const q4j_quantize_4bit_params& p = *params;
  const bool nested = p.nested_block_size > 0;
  const int64_t blocks = ceil_div(p.n, p.block_size);
  float* absmax = static_cast<float*>(nested ? p.workspace : p.absmax);
  const bool known = with_storage_type(p.dtype, [&](auto* tag) {
    using T = std::remove_pointer_t<decltype(tag)>;
    const T* input = static_cast<const T*>(p.input);
    uint8_t* packed = static_cast<uint8_t*>(p.packed);
    context->pool.parallel_pieces(p.n, kGrain, [&](int64_t first, int64_t last, int) {
      const Coder coder(p.format);
      for (int64_t begin = first; begin < last; begin += p.block_size) {
        const int64_t count = std::min<int64_t>(p.block_size, last - begin);
        absmax[begin / p.block_size] = quantize_block(coder, input + begin, count, count == p.block_size, packed + begin / 2);
      }
    });
  });
  Q4J_REQUIRE(known, Q4J_UNSUPPORTED, "quantize_4bit: dtype %s", dtype_name(p.dtype));
  if (nested) {
    quantize_absmax(context->pool, absmax, blocks, p.nested_block_size, static_cast<uint8_t*>(p.absmax),
                    static_cast<float*>(p.nested_absmax), static_cast<float*>(p.nested_offset));
  }
  return Q4J_OK;
}

q4j_status dequantize_4bit(q4j_pack_context* context, const q4j_dequantize_4bit_params* params) {
  const q4j_weight& weight = *params->weight;
  const bool known = with_storage_type(params->dtype, [&](auto* tag) {
    using T = std::remove_pointer_t<decltype(tag)>;
    T* output = static_cast<T*>(params->output);
    context->pool.parallel_pieces(weight.rows * weight.cols, kGrain,
                                  [&](int64_t first, int64_t last, int) { dequantize_range(weight, first, last, output); });
  });
  Q4J_REQUIRE(known, Q4J_UNSUPPORTED, "dequantize_4bit: dtype %s", dtype_name(params->dtype));
  return Q4J_OK;
}

}  // namespace q4j::cpu
