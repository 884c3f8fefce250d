// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * q4j_measure: what this machine does at best with the instructions of this pack. Arithmetic is many independent chains of one
 * instruction on registers, so that neither its latency nor memory counts; reading is loads and nothing else. The chains are
 * inline assembly, because a compiler would fold sums that nobody reads.
 */
#include <algorithm>
#include <atomic>
#include <chrono>

#include "amx.h"
#include "cpu_operators.h"
#include "error.h"
#include "intrinsics.h"
#include "pack_context.h"

namespace q4j::cpu {

namespace {

using Clock = std::chrono::steady_clock;

// A run of a chain takes a few milliseconds: long against waking a thread, short against a neighbour's time slice.
constexpr long kRounds = 1000000;
constexpr int kRuns = 5;

#define Q4J_CHAIN_4(op, r, x, y, a, b, c, d)                                                                            \
  op " %%" r x ", %%" r y ", %%" r #a "\n" op " %%" r x ", %%" r y ", %%" r #b "\n" op " %%" r x ", %%" r y ", %%" r #c \
     "\n" op " %%" r x ", %%" r y ", %%" r #d "\n"

// The chains start from zeros: what another function left in the registers could be subnormal, which takes a hundred cycles.
#if defined(__AVX512F__)
constexpr double kLanes = 16;
constexpr double kChains = 24;
#define Q4J_EACH_CHAIN(op)                           \
  Q4J_CHAIN_4(op, "zmm", "31", "30", 0, 1, 2, 3)     \
  Q4J_CHAIN_4(op, "zmm", "31", "30", 4, 5, 6, 7)     \
  Q4J_CHAIN_4(op, "zmm", "31", "30", 8, 9, 10, 11)   \
  Q4J_CHAIN_4(op, "zmm", "31", "30", 12, 13, 14, 15) \
  Q4J_CHAIN_4(op, "zmm", "31", "30", 16, 17, 18, 19) Q4J_CHAIN_4(op, "zmm", "31", "30", 20, 21, 22, 23)
#define Q4J_CHAINS(op)                                                                                                  \
  long rounds = kRounds;                                                                                                \
  __asm__ volatile("vpxord %%zmm30, %%zmm30, %%zmm30\nvpxord %%zmm31, %%zmm31, %%zmm31\n" Q4J_EACH_CHAIN(               \
                       "vpxord") "1:\n" Q4J_EACH_CHAIN(op) "dec %0\njnz 1b"                                             \
                   : "+r"(rounds)                                                                                       \
                   :                                                                                                    \
                   : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",  \
                     "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", \
                     "xmm23", "xmm30", "xmm31", "cc")
#else
constexpr double kLanes = 8;
constexpr double kChains = 12;
#define Q4J_EACH_CHAIN(op)                       \
  Q4J_CHAIN_4(op, "ymm", "15", "14", 0, 1, 2, 3) \
  Q4J_CHAIN_4(op, "ymm", "15", "14", 4, 5, 6, 7) Q4J_CHAIN_4(op, "ymm", "15", "14", 8, 9, 10, 11)
#define Q4J_CHAINS(op)                                                                                                 \
  long rounds = kRounds;                                                                                               \
  __asm__ volatile("vpxor %%ymm14, %%ymm14, %%ymm14\nvpxor %%ymm15, %%ymm15, %%ymm15\n" Q4J_EACH_CHAIN(                \
                       "vpxor") "1:\n" Q4J_EACH_CHAIN(op) "dec %0\njnz 1b"                                             \
                   : "+r"(rounds)                                                                                      \
                   :                                                                                                   \
                   : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", \
                     "xmm14", "xmm15", "cc")
#endif

/** One thread's work, and the operations it makes. */
struct Chain {
  void (*run)();
  double operations;
};

void multiply_f32() { Q4J_CHAINS("vfmadd231ps"); }

constexpr Chain kF32 = {multiply_f32, 2 * kLanes* kChains* static_cast<double>(kRounds)};

#if defined(Q4J_AMX) && !defined(Q4J_AMX_EMULATED)

// A tile instruction makes 16 x 16 sums of 64 bytes each and takes 16 cycles.
constexpr long kTileRounds = kRounds / 16;

template <int Bytes>
constexpr double tile_operations() {
  return 2.0 * 16 * 16 * (64 / Bytes) * 4 * static_cast<double>(kTileRounds);
}

void multiply_bf16() {
  const amx::Session session;
  for (long i = 0; i < kTileRounds; ++i) {
    amx::multiply_bf16<0, 4, 6>();
    amx::multiply_bf16<1, 4, 7>();
    amx::multiply_bf16<2, 5, 6>();
    amx::multiply_bf16<3, 5, 7>();
  }
}

void multiply_int8() {
  const amx::Session session;
  for (long i = 0; i < kTileRounds; ++i) {
    __asm__ volatile(
        "tdpbssd %tmm6, %tmm4, %tmm0\n"
        "tdpbssd %tmm7, %tmm4, %tmm1\n"
        "tdpbssd %tmm6, %tmm5, %tmm2\n"
        "tdpbssd %tmm7, %tmm5, %tmm3\n");
  }
}

constexpr Chain kBf16 = {multiply_bf16, tile_operations<2>()};
constexpr Chain kInt8 = {multiply_int8, tile_operations<1>()};

bool has_int8() { return true; }

#else

#if defined(__AVX512BF16__)
void multiply_bf16() { Q4J_CHAINS("vdpbf16ps"); }
constexpr Chain kBf16 = {multiply_bf16, 2 * kF32.operations};
#else
constexpr Chain kBf16 = kF32;  // bf16 values are multiplied as f32
#endif

#if defined(__AVX512F__)
void multiply_int8() { Q4J_CHAINS("vpdpbusd"); }
constexpr Chain kInt8 = {multiply_int8, 4 * kF32.operations};
bool has_int8() { return __builtin_cpu_supports("avx512vnni") != 0; }
#else
constexpr Chain kInt8 = kF32;
bool has_int8() { return false; }
#endif

#endif

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double measure_arithmetic(ThreadPool& pool, const Chain& chain) {
  double best = 0;
  for (int run = 0; run < kRuns; ++run) {
    const auto start = Clock::now();
    pool.run(pool.threads(), [&](int) { chain.run(); });
    best = std::max(best, chain.operations * pool.threads() / seconds_since(start));
  }
  return best;
}

/** Loads every cache line; four at a time, so that the loads do not wait for the sums. */
uint64_t read_all(const char* memory, int64_t bytes) {
  constexpr int64_t kStep = 256;
  uint64_t sums[4] = {};
  int64_t i = 0;
#if defined(__AVX512F__)
  __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
  for (; i + kStep <= bytes; i += kStep) {
    a = _mm512_xor_si512(a, _mm512_loadu_si512(memory + i));
    b = _mm512_xor_si512(b, _mm512_loadu_si512(memory + i + 64));
    c = _mm512_xor_si512(c, _mm512_loadu_si512(memory + i + 128));
    d = _mm512_xor_si512(d, _mm512_loadu_si512(memory + i + 192));
  }
  const __m512i all = _mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d));
  sums[0] = static_cast<uint64_t>(_mm512_reduce_add_epi64(all));
#else
  __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
  for (; i + kStep / 2 <= bytes; i += kStep / 2) {
    const auto* from = reinterpret_cast<const __m256i*>(memory + i);
    a = _mm256_xor_si256(a, _mm256_loadu_si256(from));
    b = _mm256_xor_si256(b, _mm256_loadu_si256(from + 1));
    c = _mm256_xor_si256(c, _mm256_loadu_si256(from + 2));
    d = _mm256_xor_si256(d, _mm256_loadu_si256(from + 3));
  }
  const __m256i all = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums), all);
#endif
  uint64_t sum = sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
  for (; i < bytes; ++i) sum += static_cast<unsigned char>(memory[i]);
  return sum;
}

double measure_read(ThreadPool& pool, const char* memory, int64_t bytes) {
  constexpr int64_t kPiece = 1 << 20;
  std::atomic<uint64_t> sink{0};
  double best = 0;
  for (int run = 0; run < kRuns; ++run) {
    const auto start = Clock::now();
    pool.parallel_pieces(bytes, kPiece, [&](int64_t begin, int64_t end, int) {
      sink.fetch_xor(read_all(memory + begin, end - begin), std::memory_order_relaxed);
    });
    best = std::max(best, static_cast<double>(bytes) / seconds_since(start));
  }
  return best;
}

}  // namespace

q4j_status measure(q4j_pack_context* context, int32_t limit, const void* memory, int64_t bytes, double* per_second) {
  ThreadPool& pool = context->pool;
  switch (limit) {
    case Q4J_LIMIT_READ:
      *per_second = measure_read(pool, static_cast<const char*>(memory), bytes);
      return Q4J_OK;
    case Q4J_LIMIT_F32:
      *per_second = measure_arithmetic(pool, kF32);
      return Q4J_OK;
    case Q4J_LIMIT_BF16:
      *per_second = measure_arithmetic(pool, kBf16);
      return Q4J_OK;
    case Q4J_LIMIT_INT8:
      Q4J_REQUIRE(has_int8(), Q4J_UNSUPPORTED, "measure: the pack has no instruction that multiplies 8-bit integers here");
      *per_second = measure_arithmetic(pool, kInt8);
      return Q4J_OK;
    default:
      Q4J_FAIL(Q4J_UNSUPPORTED, "measure: the pack knows no limit %d", limit);
  }
}

}  // namespace q4j::cpu
