// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Executes a kernel on the CPU: every thread of a block is a fiber that runs until it waits (block barrier, warp exchange,
 * grid barrier) and then hands over to the next one. One block at a time, or all blocks of a cooperative launch together.
 *
 * It is a test instrument: it shows wrong indexing, missing or divergent barriers, reads of shared memory nobody wrote and
 * misaligned wide accesses, asynchronous copies nobody waited for. Each warp runs ahead of the others as far as barriers let
 * it, in an order that is reversed on every other pass, so that data passed between warps without a barrier usually goes wrong.
 * It does not show races within a warp or between blocks reliably, memory-ordering defects, or anything about speed.
 */
#ifndef QLORA4J_CUDA_SUPPORT_HOST_EXECUTION_H_
#define QLORA4J_CUDA_SUPPORT_HOST_EXECUTION_H_

#include <cstddef>
#include <cstdint>

namespace q4j::cuda::host {

/** Where the running fiber stands in the grid. */
struct Place {
  int thread;
  int block_index;
  int block_threads;
  int grid_blocks;
};

const Place& current();

void block_barrier();
void grid_barrier();

/** Lets every other thread run once before this one looks again at what it waits for; see made_progress. */
void poll();

/** Something that a poller may wait for has happened. A pass over all threads in which nothing has is a deadlock. */
void made_progress();

/** All lanes of the warp give `bits`; each gets what lane `source_lane` gave. */
uint64_t warp_exchange(uint64_t bits, int source_lane);

/**
 * A warp operation on more than a word: every lane gives the address of its operands and results, the last lane to come calls
 * `together` with all of them, then all go on. Lanes that come with another `together` are an error.
 */
using Together = void (*)(void* const (&lanes)[32]);
void warp_together(void* operands, Together together);

/** The block's object for `tag`, the same for all its threads. */
void* shared_memory(const void* tag, size_t bytes, size_t alignment);

/** The block's dynamic shared memory: as many bytes as the launch asked for, on a boundary of kDynamicAlignment. */
void* dynamic_shared_memory();

/** Records an error of the launch where [address, address + bytes) is not shared memory of the block. */
void check_shared(const void* address, size_t bytes);

/**
 * An asynchronous copy to shared memory: `bytes` of it, the first `from_bytes` from `from`, the others zero. The copy is made
 * when its group is waited for and not a moment earlier; until then the memory holds a NaN pattern. So a missing wait shows,
 * and so does a copy into memory that somebody still reads.
 */
void copy_async(void* to, const void* from, size_t bytes, size_t from_bytes);
/** Closes the thread's group of copies. */
void copy_async_commit();
/** Makes all but the thread's `pending` newest groups. */
void copy_async_wait(int pending);

/** Records an error of the launch where `address` is not a multiple of `alignment`. */
void check_alignment(const void* address, size_t alignment);

/** A kernel with its arguments bound. */
struct Body {
  void (*call)(const void* state);
  const void* state;
};

/**
 * Runs the grid. Returns NULL, or the text of what the kernel did wrong (valid until this thread's next call); its output is
 * undefined then.
 */
const char* run(int blocks, int threads, bool cooperative, const Body& body, size_t dynamic_bytes = 0);

/** Blocks that a cooperative launch may have: few, so that loops over the grid run more than once, and more than one. */
constexpr int kResidentBlocks = 3;

/** Bytes of statically declared shared memory that a block may use; the device's limit. */
constexpr size_t kSharedBytes = 48 * 1024;

/** Bytes of shared memory, dynamic and static, that a block may use where a launch asks for them: the limit of sm_80. */
constexpr size_t kMostSharedBytes = 163 * 1024;
constexpr size_t kDynamicAlignment = 1024;

}  // namespace q4j::cuda::host

#endif  // QLORA4J_CUDA_SUPPORT_HOST_EXECUTION_H_
