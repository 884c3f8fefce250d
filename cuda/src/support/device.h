// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * What a kernel may use of a GPU, with two bodies: instructions of the device when nvcc compiles, and the fibers of
 * host_execution.h when g++ compiles the same kernel into the pack cuda-on-host.
 *
 * Rules that keep both bodies equal:
 *  - grids and blocks are one-dimensional, a block is a multiple of 32 threads;
 *  - warp operations are done by all 32 lanes, block barriers by all threads of the block, grid barriers by all threads of
 *    a cooperative launch. The host body reports a thread that leaves or waits elsewhere as an error;
 *  - shared memory comes from block_shared<T>() and dynamic_shared() and is not initialised (the host body fills it with NaN
 *    patterns);
 *  - asynchronous copies are visible to the thread that made them after copy_async_wait, to its block after a barrier
 *    behind that;
 *  - arithmetic whose rounding is part of a format goes through multiply, add, divide: no compiler may contract those to a
 *    fused multiply-add.
 */
#ifndef QLORA4J_CUDA_SUPPORT_DEVICE_H_
#define QLORA4J_CUDA_SUPPORT_DEVICE_H_

#include "support/arithmetic.h"
#include "support/execution.h"
#include "support/memory.h"

#endif  // QLORA4J_CUDA_SUPPORT_DEVICE_H_
