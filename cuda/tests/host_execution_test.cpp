// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The CPU that plays a GPU: kernels that are right give what a GPU would, kernels that are wrong are found out. */
#include <cstring>
#include <string>
#include <vector>

#include "expect.h"
#include "support/device.h"

namespace {

using namespace q4j::cuda;

/** Runs `kernel` and returns the text of what it did wrong, or "". */
template <typename Kernel>
std::string run(int blocks, int threads, bool cooperative, const Kernel& kernel) {
  const host::Body body = {[](const void* state) { (*static_cast<const Kernel*>(state))(); }, &kernel};
  const char* wrong = host::run(blocks, threads, cooperative, body);
  return wrong == nullptr ? "" : wrong;
}

bool holds(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

void every_thread_runs_once() {
  std::vector<int> runs(5 * 96, 0);
  EXPECT(run(5, 96, false, [&] {
           ++runs[static_cast<size_t>(block_index() * block_threads() + thread_index())];
           EXPECT(grid_blocks() == 5 && block_threads() == 96);
         }).empty());
  for (const int count : runs) EXPECT(count == 1);
}

void shuffles_reach_every_lane() {
  std::vector<double> sums(64, 0.0);
  EXPECT(run(1, 64, false, [&] {
           double value = lane_index() + 100.0 * warp_index();
           for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
           sums[static_cast<size_t>(thread_index())] = value;
         }).empty());
  for (int t = 0; t < 64; ++t) EXPECT(sums[static_cast<size_t>(t)] == 496.0 + (t < 32 ? 0.0 : 3200.0));
}

struct Slots {
  float at[96];
};

void barriers_publish_shared_memory() {
  for (const bool with_barrier : {true, false}) {
    int wrong = 0;
    EXPECT(run(4, 96, false, [&] {
             auto& slots = block_shared<Slots>();
             for (int round = 0; round < 3; ++round) {
               slots.at[thread_index()] = static_cast<float>(round * 1000 + thread_index());
               if (with_barrier) block_barrier();
               const int other = 95 - thread_index();
               if (!(slots.at[other] == static_cast<float>(round * 1000 + other))) ++wrong;
               if (with_barrier) block_barrier();
             }
           }).empty());
    EXPECT((wrong == 0) == with_barrier);
  }
}

void missing_barrier_before_overwriting_shows() {
  // Right in the first round; a fast warp then overwrites what a slow warp has yet to read.
  int wrong = 0;
  EXPECT(run(1, 96, false, [&] {
           auto& slots = block_shared<Slots>();
           for (int round = 0; round < 3; ++round) {
             slots.at[thread_index()] = static_cast<float>(round);
             block_barrier();
             if (slots.at[95 - thread_index()] != static_cast<float>(round)) ++wrong;
           }
         }).empty());
  EXPECT(wrong > 0);
}

void shared_memory_starts_as_nan_in_every_block() {
  int numbers = 0;
  EXPECT(run(3, 32, false, [&] {
           auto& slots = block_shared<Slots>();
           if (slots.at[thread_index()] == slots.at[thread_index()]) ++numbers;
           block_barrier();
           slots.at[thread_index()] = 1.0f;
         }).empty());
  EXPECT(numbers == 0);
}

void grid_barriers_hold_all_blocks() {
  const int blocks = host::kResidentBlocks;
  std::vector<int> first(static_cast<size_t>(blocks), 0);
  int wrong = 0;
  const auto kernel = [&] {
    auto& slots = block_shared<Slots>();  // one per block, also while the blocks run together
    slots.at[thread_index()] = static_cast<float>(block_index());
    first[static_cast<size_t>(block_index())] += thread_index() == 0 ? 1 : 0;
    grid_barrier();
    for (const int count : first) wrong += count == 1 ? 0 : 1;
    if (slots.at[thread_index()] != static_cast<float>(block_index())) ++wrong;
  };
  EXPECT(run(blocks, 64, true, kernel).empty());
  EXPECT(wrong == 0);
  EXPECT(holds(run(blocks, 64, false, kernel), "the launch is not cooperative"));
  EXPECT(holds(run(blocks + 1, 64, true, kernel), "can be resident"));
}

void wrong_kernels_are_found_out() {
  EXPECT(holds(run(1, 64, false,
                   [] {
                     if (thread_index() != 40) block_barrier();
                   }),
               "thread 40 of block 0 has left the kernel"));
  EXPECT(holds(run(1, 64, false,
                   [] {
                     if (lane_index() < 16) static_cast<void>(shuffle_xor(1.0f, 1));
                   }),
               "waits in a warp operation"));
  EXPECT(holds(run(2, 32, false,
                   [] {
                     alignas(16) const unsigned char bytes[32] = {};
                     static_cast<void>(load_read_only(reinterpret_cast<const Words4*>(bytes + 4)));
                   }),
               "misaligned"));
  EXPECT(holds(run(1, 32, false, [] { static_cast<void>(shuffle_xor(1.0f, 32)); }), "lane that does not exist"));
  struct Large {
    unsigned char at[host::kSharedBytes + 1];
  };
  EXPECT(holds(run(1, 32, false, [] { block_shared<Large>().at[0] = 1; }), "more shared memory"));
  EXPECT(holds(run(1, 33, false, [] {}), "not possible"));
  // The machine is whole after a launch that failed.
  int runs = 0;
  EXPECT(run(2, 64, false, [&] {
           block_barrier();
           ++runs;
         }).empty());
  EXPECT(runs == 128);
}

void byte_permute_picks_bytes() {
  EXPECT(byte_permute(0x33221100u, 0x77665544u, 0x7520u) == 0x77552200u);
  EXPECT(byte_permute(0x000000ffu, 0x00000080u, 0x1c80u) == 0x00ffffffu);
}

}  // namespace

int main() {
  every_thread_runs_once();
  shuffles_reach_every_lane();
  barriers_publish_shared_memory();
  missing_barrier_before_overwriting_shows();
  shared_memory_starts_as_nan_in_every_block();
  grid_barriers_hold_all_blocks();
  wrong_kernels_are_found_out();
  byte_permute_picks_bytes();
  return q4j::test::finish("host_execution");
}
