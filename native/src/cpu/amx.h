// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The six AMX instructions that the packs use, behind one thin layer with two bodies: the instructions themselves, and plain
 * C++ that does what Intel's manual says they do. The second is compiled into the pack when Q4J_AMX_EMULATED is defined; it
 * lets a machine without AMX test everything around the instructions.
 *
 * Eight tiles of 16 rows of 64 bytes each; all sixteen rows are always used.
 */
#ifndef QLORA4J_SRC_CPU_AMX_H_
#define QLORA4J_SRC_CPU_AMX_H_

#if defined(__AMX_TILE__) && defined(__AMX_BF16__)
#define Q4J_AMX 1
#endif
#if defined(Q4J_AMX_EMULATED) && !defined(Q4J_AMX)
#define Q4J_AMX 1
#endif

#if defined(Q4J_AMX)

#include <cstdint>
#include <cstring>

#include "intrinsics.h"

namespace q4j::cpu::amx {

#if !defined(Q4J_AMX_EMULATED)

/** Tiles of this thread are configured while one of these lives. */
class Session {
 public:
  Session() {
    struct alignas(64) Configuration {
      uint8_t palette = 1;
      uint8_t start_row = 0;
      uint8_t reserved[14] = {};
      uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    };
    const Configuration configuration;
    // Not _tile_loadconfig: that of GCC 12 names eight bytes as read, and the compiler may leave the others unwritten.
    __asm__ volatile("ldtilecfg %0" ::"m"(configuration));
  }
  ~Session() { _tile_release(); }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
};

// The number of a tile is part of the instruction, so it is a template argument; the intrinsics are macros that paste it.
template <int Tile>
static inline void zero_tile() {
  __asm__ volatile("tilezero %%tmm%c0" ::"i"(Tile));
}
template <int Tile>
static inline void load_tile(const void* base, int64_t stride_bytes) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(base), "r"(stride_bytes), "i"(Tile) : "memory");
}
template <int Tile>
static inline void store_tile(void* base, int64_t stride_bytes) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(base), "r"(stride_bytes), "i"(Tile) : "memory");
}
/** C += A * B: A 16 rows of 32 bf16, B 16 rows of 16 pairs, C 16 x 16 f32. */
template <int C, int A, int B>
static inline void multiply_bf16() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}

/** C += A * B: A 16 rows of 64 INT8, B 16 rows of 16 fours, C 16 x 16 i32. */
template <int C, int A, int B>
static inline void multiply_int8() {
  __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}

#else

struct Tiles {
  alignas(64) uint8_t bytes[8][16][64];
};
inline thread_local Tiles tiles;

class Session {
 public:
  // The hardware clears tiles when they are configured; the emulation makes a forgotten load or clear visible.
  Session() { std::memset(&tiles, 0xff, sizeof tiles); }
  ~Session() {}
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
};

template <int Tile>
static inline void zero_tile() {
  std::memset(tiles.bytes[Tile], 0, sizeof tiles.bytes[Tile]);
}
template <int Tile>
static inline void load_tile(const void* base, int64_t stride_bytes) {
  for (int row = 0; row < 16; ++row)
    std::memcpy(tiles.bytes[Tile][row], static_cast<const char*>(base) + row * stride_bytes, 64);
}
template <int Tile>
static inline void store_tile(void* base, int64_t stride_bytes) {
  for (int row = 0; row < 16; ++row) std::memcpy(static_cast<char*>(base) + row * stride_bytes, tiles.bytes[Tile][row], 64);
}
template <int C, int A, int B>
static inline void multiply_bf16() {
  // Intel SDM, TDPBF16PS: inputs that are denormal count as zero, products are summed pair by pair in order, results that are
  // denormal are flushed. Each of the two multiply-adds of a pair rounds once.
  const auto widen = [](const uint8_t* element) {
    uint16_t bits;
    std::memcpy(&bits, element, 2);
    if ((bits & 0x7f80) == 0) bits &= 0x8000;
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
  };
  for (int row = 0; row < 16; ++row) {
    for (int pair = 0; pair < 16; ++pair) {
      for (int column = 0; column < 16; ++column) {
        float sum;
        std::memcpy(&sum, &tiles.bytes[C][row][column * 4], 4);
        for (int half = 0; half < 2; ++half) {
          const float a = widen(&tiles.bytes[A][row][(2 * pair + half) * 2]);
          const float b = widen(&tiles.bytes[B][pair][(2 * column + half) * 2]);
          sum = __builtin_fmaf(a, b, sum);
        }
        std::memcpy(&tiles.bytes[C][row][column * 4], &sum, 4);
      }
    }
  }
}

// Without sanitizers: every access is to the tiles' own bytes, and long rows of codes would take minutes.
template <int C, int A, int B>
__attribute__((no_sanitize("address", "undefined"))) static inline void multiply_int8() {
  // Intel SDM, TDPBSSD: four products of signed bytes are added to each sum, which wraps.
  for (int row = 0; row < 16; ++row) {
    for (int four = 0; four < 16; ++four) {
      for (int column = 0; column < 16; ++column) {
        uint32_t sum;
        std::memcpy(&sum, &tiles.bytes[C][row][column * 4], 4);
        for (int i = 0; i < 4; ++i) {
          const int a = static_cast<int8_t>(tiles.bytes[A][row][4 * four + i]);
          const int b = static_cast<int8_t>(tiles.bytes[B][four][4 * column + i]);
          sum += static_cast<uint32_t>(a * b);
        }
        std::memcpy(&tiles.bytes[C][row][column * 4], &sum, 4);
      }
    }
  }
}

#endif

template <bool Codes, int C, int A, int B>
static inline void multiply() {
  if constexpr (Codes) {
    multiply_int8<C, A, B>();
  } else {
    multiply_bf16<C, A, B>();
  }
}

}  // namespace q4j::cpu::amx

#endif  // Q4J_AMX

#endif  // QLORA4J_SRC_CPU_AMX_H_
