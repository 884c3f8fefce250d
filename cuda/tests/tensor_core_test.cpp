// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The host bodies of the matrix instructions, asynchronous copies and dynamic shared memory. */
#include "support/tensor_core.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "expect.h"

namespace {

using namespace q4j::cuda;

/** Runs `kernel` in one block and returns the text of what it did wrong, or "". */
template <typename Kernel>
std::string run(int threads, size_t dynamic_bytes, const Kernel& kernel) {
  const host::Body body = {[](const void* state) { (*static_cast<const Kernel*>(state))(); }, &kernel};
  const char* wrong = host::run(1, threads, false, body, dynamic_bytes);
  return wrong == nullptr ? "" : wrong;
}

bool holds(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

/** Small integers: exact in bf16, and so are their sums of products in f32. */
int value(int row, int column) { return (row * 7 + column * 13) % 23 - 11; }

uint32_t bf16_bits(float x) { return q4j::bf16_from_f32(x).bits; }

uint32_t bf16_pair(float low, float high) { return bf16_bits(low) | bf16_bits(high) << 16; }

// The fragments below follow the figures of the PTX ISA element by element ("Matrix fragments for mma.m16n8k16", "...
// m16n8k32").

void bf16_product() {
  EXPECT(run(64, 0, [] {
           const int group = lane_index() >> 2;
           const int in_group = lane_index() % 4;
           uint32_t a[4];
           for (int i = 0; i < 8; i += 2) {
             const int row = (i < 2 || (i >= 4 && i < 6)) ? group : group + 8;
             const int column = in_group * 2 + (i < 4 ? 0 : 8);
             a[i / 2] = bf16_pair(static_cast<float>(value(row, column)), static_cast<float>(value(row, column + 1)));
           }
           uint32_t b[2];
           for (int i = 0; i < 4; i += 2) {
             const int row = in_group * 2 + (i < 2 ? 0 : 8);
             b[i / 2] = bf16_pair(static_cast<float>(value(row, group + 50)), static_cast<float>(value(row + 1, group + 50)));
           }
           float c[4];
           for (int i = 0; i < 4; ++i) c[i] = static_cast<float>(1000 * i + warp_index());
           multiply_add_bf16(c, a, b[0], b[1]);
           for (int i = 0; i < 4; ++i) {
             const int row = i < 2 ? group : group + 8;
             const int column = in_group * 2 + (i & 1);
             int sum = 1000 * i + warp_index();
             for (int k = 0; k < 16; ++k) sum += value(row, k) * value(k, column + 50);
             EXPECT(c[i] == static_cast<float>(sum));
           }
         }).empty());
}

void bf16_product_of_no_numbers() {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT(run(32, 0, [&] {
           // Row 0 of A is 1, infinity, 0 ...; column 0 of B is 1, 1, 0 ...; column 1 is 1, 0, 0 ...
           uint32_t a[4] = {lane_index() == 0 ? bf16_pair(1.0f, infinity) : 0u, 0u, 0u, 0u};
           const uint32_t b0 = lane_index() == 0 ? bf16_pair(1.0f, 1.0f) : lane_index() == 4 ? bf16_pair(1.0f, 0.0f) : 0u;
           float c[4] = {0.0f, 0.0f, 0.0f, 0.0f};
           multiply_add_bf16(c, a, b0, 0u);
           if (lane_index() == 0) {
             EXPECT(c[0] == infinity);
             EXPECT(std::isnan(c[1]));
             EXPECT(c[2] == 0.0f);
           } else if (lane_index() < 4) {
             EXPECT(std::isnan(c[0]));  // infinity * 0
           } else {
             EXPECT(c[0] == 0.0f && c[1] == 0.0f);
           }
         }).empty());
}

void s8_product() {
  EXPECT(run(32, 0, [] {
           const int group = lane_index() >> 2;
           const int in_group = lane_index() % 4;
           const auto byte = [](int v, int i) { return (static_cast<uint32_t>(v) & 0xffu) << (8 * i); };
           uint32_t a[4] = {};
           for (int i = 0; i < 16; ++i) {
             const int row = (i < 4 || (i >= 8 && i < 12)) ? group : group + 8;
             const int column = in_group * 4 + (i & 3) + (i < 8 ? 0 : 16);
             a[i / 4] |= byte(value(row, column) * 11, i % 4);
           }
           uint32_t b[2] = {};
           for (int i = 0; i < 8; ++i) {
             const int row = in_group * 4 + (i & 3) + (i < 4 ? 0 : 16);
             b[i / 4] |= byte(value(row, group + 50) * 11, i % 4);
           }
           int32_t c[4] = {1, 2, 3, std::numeric_limits<int32_t>::max()};
           multiply_add_s8(c, a, b[0], b[1]);
           for (int i = 0; i < 4; ++i) {
             const int row = i < 2 ? group : group + 8;
             const int column = in_group * 2 + (i & 1);
             int64_t sum = i < 3 ? i + 1 : std::numeric_limits<int32_t>::max();
             for (int k = 0; k < 32; ++k) sum += value(row, k) * 11 * value(k, column + 50) * 11;
             EXPECT(c[i] == static_cast<int32_t>(static_cast<uint32_t>(sum)));
           }
         }).empty());
}

void matrices_from_shared_memory() {
  EXPECT(run(32, 32 * 48, [] {
           // 32 rows, 48 bytes apart; row r of matrix i is row (i * 8 + r) * 5 % 32 of memory.
           const auto memory_row = [](int matrix, int row) { return (matrix * 8 + row) * 5 % 32; };
           for (int column = 0; column < 8; ++column) {
             const auto element = static_cast<uint16_t>(lane_index() * 100 + column);
             std::memcpy(dynamic_shared() + lane_index() * 48 + column * 2, &element, 2);
           }
           block_barrier();
           const auto element = [&](int matrix, int row, int column) {
             return static_cast<uint32_t>(memory_row(matrix, row) * 100 + column);
           };
           const int group = lane_index() >> 2;
           const int in_group = lane_index() % 4;
           const void* row = dynamic_shared() + memory_row(lane_index() / 8, lane_index() % 8) * 48;
           uint32_t words[4];
           load_matrices(words, row);
           for (int i = 0; i < 4; ++i) {
             EXPECT(words[i] == (element(i, group, in_group * 2) | element(i, group, in_group * 2 + 1) << 16));
           }
           load_matrices_transposed(words, row);
           for (int i = 0; i < 4; ++i) {
             EXPECT(words[i] == (element(i, in_group * 2, group) | element(i, in_group * 2 + 1, group) << 16));
           }
         }).empty());
  EXPECT(holds(run(32, 1024,
                   [] {
                     uint32_t words[4];
                     load_matrices(words, dynamic_shared() + 8);
                   }),
               "misaligned"));
  EXPECT(holds(run(32, 1024,
                   [] {
                     uint32_t words[4];
                     load_matrices(words, dynamic_shared() + 1024);
                   }),
               "not shared memory"));
}

void matrix_in_registers() {
  EXPECT(run(32, 0, [] {
           const int group = lane_index() >> 2;
           const int in_group = lane_index() % 4;
           const auto element = [](int row, int column) { return static_cast<uint32_t>(row * 100 + column); };
           const uint32_t word = element(group, in_group * 2) | element(group, in_group * 2 + 1) << 16;
           const uint32_t transposed = transpose_matrix(word);
           EXPECT(transposed == (element(in_group * 2, group) | element(in_group * 2 + 1, group) << 16));
           EXPECT(transpose_matrix(transposed) == word);
         }).empty());
}

alignas(16) constexpr unsigned char kSource[64] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16,
                                                   17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32};

void copies_are_made_when_waited_for() {
  EXPECT(run(32, 4096, [] {
           unsigned char* to = dynamic_shared() + lane_index() * 64;
           std::memset(to, 7, 64);
           copy_async<16>(to, kSource);
           copy_async_commit();
           copy_async<8>(to + 16, kSource + 16);
           copy_async<4>(to + 24, kSource + 24);
           copy_async_commit();
           copy_async_commit();
           EXPECT(to[0] == 0xff && to[16] == 0xff && to[27] == 0xff && to[28] == 7);  // a missing wait shows
           copy_async_wait<2>();
           EXPECT(std::memcmp(to, kSource, 16) == 0 && to[16] == 0xff);
           copy_async_wait<1>();
           EXPECT(std::memcmp(to, kSource, 28) == 0);
           copy_async<4>(to + 28, kSource + 28);
           copy_async_wait<0>();  // waits for groups, and this copy is in none yet
           EXPECT(to[28] == 0xff);
           copy_async_commit();
           copy_async_wait<0>();
           EXPECT(std::memcmp(to, kSource, 32) == 0 && to[32] == 7);
         }).empty());
}

void copies_fill_with_zeros() {
  EXPECT(run(32, 4096, [] {
           unsigned char* to = dynamic_shared() + lane_index() * 64;
           copy_async<16>(to, kSource, 6);
           copy_async<8>(to + 16, reinterpret_cast<const void*>(uintptr_t{64}), 0);  // nothing is read
           Streamed().copy_async(to + 32, kSource, 3);
           copy_async_commit();
           copy_async_wait<0>();
           for (int i = 0; i < 16; ++i) EXPECT(to[i] == (i < 6 ? i + 1 : 0));
           for (int i = 16; i < 24; ++i) EXPECT(to[i] == 0);
           for (int i = 0; i < 16; ++i) EXPECT(to[32 + i] == (i < 3 ? i + 1 : 0));
         }).empty());
  EXPECT(holds(run(32, 64, [] { copy_async<16>(dynamic_shared(), kSource + 8); }), "misaligned"));
  EXPECT(holds(run(32, 64, [] { copy_async<8>(dynamic_shared() + 4, kSource); }), "misaligned"));
  EXPECT(holds(run(32, 64, [] { copy_async<16>(dynamic_shared() + 64, kSource); }), "not shared memory"));
}

void dynamic_shared_memory() {
  int numbers = 0;
  EXPECT(run(64, 1000, [&] {
           float first;
           std::memcpy(&first, dynamic_shared() + thread_index() * 4, 4);
           if (first == first) ++numbers;
           block_barrier();
           dynamic_shared()[999] = 1;
         }).empty());
  EXPECT(numbers == 0);
#if !defined(__SANITIZE_ADDRESS__)  // which would end the process
  EXPECT(holds(run(32, 1000, [] { dynamic_shared()[1000] = 1; }), "wrote behind"));
#endif
  EXPECT(holds(run(32, host::kMostSharedBytes + 1, [] {}), "dynamic shared memory"));
  EXPECT(run(32, host::kMostSharedBytes, [] { dynamic_shared()[host::kMostSharedBytes - 1] = 1; }).empty());
  struct Small {
    unsigned char at[1024];
  };
  EXPECT(holds(run(32, host::kMostSharedBytes - 1023, [] { block_shared<Small>().at[0] = 1; }), "more shared memory"));
}

void shuffles() {
  EXPECT(run(32, 0, [] {
           EXPECT(shuffle(lane_index(), 5) == 5);
           EXPECT(shuffle(lane_index(), 31 - lane_index()) == 31 - lane_index());
           EXPECT(shuffle_down(lane_index(), 4) == (lane_index() < 28 ? lane_index() + 4 : lane_index()));
         }).empty());
}

void different_operations_of_one_warp() {
  EXPECT(holds(run(32, 1024,
                   [] {
                     uint32_t words[4];
                     if (lane_index() < 16) {
                       load_matrices(words, dynamic_shared());
                     } else {
                       load_matrices_transposed(words, dynamic_shared());
                     }
                   }),
               "another warp operation"));
  EXPECT(holds(run(32, 1024,
                   [] {
                     uint32_t words[4];
                     if (lane_index() > 16) {
                       load_matrices(words, dynamic_shared());
                     } else {
                       static_cast<void>(shuffle_xor(1, 1));
                     }
                   }),
               "another warp operation"));
}

}  // namespace

int main() {
  bf16_product();
  bf16_product_of_no_numbers();
  s8_product();
  matrices_from_shared_memory();
  matrix_in_registers();
  copies_are_made_when_waited_for();
  copies_fill_with_zeros();
  dynamic_shared_memory();
  shuffles();
  different_operations_of_one_warp();
  return q4j::test::finish("tensor_core");
}
