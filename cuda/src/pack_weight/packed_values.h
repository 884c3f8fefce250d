// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * From packed_layout.h's tiles to values: where an element lies, and a table of pairs of values in shared memory, indexed by a
 * byte of codes.
 *
 * The rounding of the format is one f32 product of table value and absmax, rounded once more to bf16. The values are f32 with
 * full mantissas, so a look-up must bring 4 bytes per code, whatever fetches them. Shared memory delivers 128 bytes per clock
 * and multiprocessor: 32 codes, one access of 8 bytes per pair. From registers, byte planes and byte_permute would take 5.5
 * instructions of the 64-lane pipe per code (3 per plane and four codes, 8 to put four planes together, 2 for the selectors),
 * so 12 codes per clock. Per code the table costs 0.5 byte_permute, 0.5 loads, 1 multiplication, 0.5 conversions.
 *
 * The table holds every pair 16 times, once for each lane of a half warp: a load of 8 bytes is done half a warp at a time, and
 * each of the 16 lanes has a pair of banks of its own, so no two lanes collide whatever their codes are. Pairs are 256 bytes
 * apart, which makes byte_permute the whole address computation: (byte << 8) | lane's place. The other 128 bytes of a row are
 * free for the user.
 */
#ifndef QLORA4J_CUDA_PACK_WEIGHT_PACKED_VALUES_H_
#define QLORA4J_CUDA_PACK_WEIGHT_PACKED_VALUES_H_

#include "pack_weight/packed_layout.h"
#include "support/codes.h"
#include "support/elements.h"

namespace q4j::cuda {

/** Where the code of an element lies: a byte, and whether in its low or its high nibble. */
struct CodePlace {
  int64_t byte;
  int shift;
};

Q4J_DEVICE CodePlace place_in_tiles(int64_t row_tiles, int64_t row, int64_t col) {
  const int r = static_cast<int>(row % kTileRows);
  const int c = static_cast<int>(col % kTileCols);
  const int lane = r % 8 * 4 + c % 8 / 2;
  const int word = c / 32 * 2 + r / 8;
  const int nibble = c % 32 / 8 + c % 2 * 4;
  const int64_t tile = row / kTileRows * row_tiles + col / kTileCols;
  return {tile * kTileBytes + lane * 16 + word * 4 + nibble / 2, nibble % 2 * 4};
}

/** Which element of absmax belongs to a row and a block of it. */
Q4J_DEVICE int64_t absmax_in_tiles(int64_t row_blocks, int64_t row, int64_t block) {
  return (row / kTileRows * row_blocks + block) * kTileRows + row % 8 * 2 + row % kTileRows / 8;
}

constexpr int kValuePairs = 256;
/** Bytes from one pair to the next; the first kPairCopies * 8 of them are the table's. */
constexpr int kPairStride = 256;
constexpr int kPairCopies = 16;
constexpr int kPairBytes = kPairCopies * 8;
constexpr int kPairTableBytes = kValuePairs * kPairStride;

/** All threads of the block fill the table, which is aligned to 256 bytes, with pairs of `values`; a barrier must follow. */
Q4J_DEVICE void fill_value_pairs(unsigned char* table, const float (&values)[16]) {
  constexpr int kPerPair = kPairBytes / static_cast<int>(sizeof(Words4));
  Q4J_NO_UNROLL
  for (int i = thread_index(); i < kValuePairs * kPerPair; i += block_threads()) {
    const int byte = i / kPerPair;
    const uint32_t low = float_bits(values[byte & 15]);
    const uint32_t high = float_bits(values[byte >> 4]);
    store(reinterpret_cast<Words4*>(table + byte * kPairStride) + i % kPerPair, Words4{{low, high, low, high}});
  }
}

/** The lane's place in a row of the table: an argument of value_pair. */
Q4J_DEVICE uint32_t pair_place() { return static_cast<uint32_t>(lane_index() % kPairCopies * 8); }

/** Values of byte `byte` of a word of codes: of the low nibble and of the high one. */
struct ValuePair {
  float low;
  float high;
};
Q4J_DEVICE ValuePair value_pair(const unsigned char* table, uint32_t word, int byte, uint32_t place) {
  const uint32_t offset = byte_permute(word, place, 0x5504u | static_cast<uint32_t>(byte) << 4);
  const Words2 values = *reinterpret_cast<const Words2*>(table + offset);
  return {bits_float(values.word[0]), bits_float(values.word[1])};
}

/**
 * The 16 values of a block rounded to bf16, as planes of their low and high bytes: for look-ups in registers, with byte_permute
 * alone. Made once per block and lane (16 multiplications, 8 conversions, 8 permutes), worth it where shared memory binds and
 * the arithmetic units have time.
 */
struct ValuePlanes {
  uint32_t low[4];
  uint32_t high[4];
};

Q4J_DEVICE ValuePlanes value_planes(const float (&values)[16], float absmax) {
  ValuePlanes planes;
  Q4J_UNROLL
  for (int i = 0; i < 4; ++i) {
    const uint32_t first = narrow_pair<bf16>(multiply(values[4 * i], absmax), multiply(values[4 * i + 1], absmax));
    const uint32_t second = narrow_pair<bf16>(multiply(values[4 * i + 2], absmax), multiply(values[4 * i + 3], absmax));
    planes.low[i] = byte_permute(first, second, 0x6420u);
    planes.high[i] = byte_permute(first, second, 0x7531u);
  }
  return planes;
}

/**
 * The bf16 pairs of the four bytes of a word of codes: 21 instructions for 8 codes. First and Second merge the low and the high
 * bytes of four codes into two pairs each, in the order in which the codes lie.
 */
template <uint32_t First, uint32_t Second>
Q4J_DEVICE Words4 look_up_pairs(const ValuePlanes& planes, uint32_t codes) {
  uint32_t within = codes & 0x77777777u;                     // a place in one half of the values
  uint32_t half = (codes >> 1 & 0x44444444u) | 0x32103210u;  // code i of what the lower half gives or of the upper half's
  Words4 pairs;
  Q4J_UNROLL
  for (int i = 0; i < 4; i += 2) {
    const uint32_t low = byte_permute(byte_permute(planes.low[0], planes.low[1], within),
                                      byte_permute(planes.low[2], planes.low[3], within), half);
    const uint32_t high = byte_permute(byte_permute(planes.high[0], planes.high[1], within),
                                       byte_permute(planes.high[2], planes.high[3], within), half);
    pairs.word[i] = byte_permute(low, high, First);
    pairs.word[i + 1] = byte_permute(low, high, Second);
    within >>= 16;
    half >>= 16;
  }
  return pairs;
}

/** Of a packed word: the low nibble's value first. */
Q4J_DEVICE Words4 look_up(const ValuePlanes& planes, uint32_t codes) { return look_up_pairs<0x5140u, 0x7362u>(planes, codes); }

/** Of canonical codes: the even element of a byte is in its high nibble. */
Q4J_DEVICE Words4 look_up_canonical(const ValuePlanes& planes, uint32_t codes) {
  return look_up_pairs<0x4051u, 0x6273u>(planes, codes);
}

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_PACK_WEIGHT_PACKED_VALUES_H_
