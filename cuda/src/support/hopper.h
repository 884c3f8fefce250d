// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * What kernels for sm_90a use of Hopper alone: tensor maps and bulk copies (TMA), memory barriers with transaction counts,
 * products of a warpgroup (wgmma) and the hand-over of registers between warpgroups. Instructions and layouts are those of the
 * PTX ISA 8.x, "Asynchronous warpgroup level matrix instructions" and "Data movement and conversion instructions".
 *
 * The host bodies do what that text says, so that a kernel's indexing, barriers and fragments run in cuda-on-host. They read
 * the text the way its author did: that the instructions mean what is written here, only a GPU can show.
 */
#ifndef QLORA4J_CUDA_SUPPORT_HOPPER_H_
#define QLORA4J_CUDA_SUPPORT_HOPPER_H_

#include <cstdint>

#include "half.h"
#include "support/device.h"
#include "support/tensor_map.h"

/** True in code that is compiled for sm_90a, or on the host. Other architectures compile an empty kernel. */
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define Q4J_HOPPER 1
#else
#define Q4J_HOPPER 0
#endif

/** For a parameter that holds a TensorMap: the kernel uses it where it lies, because its address is what a copy is given. */
#if defined(__CUDACC__)
#define Q4J_GRID_CONSTANT __grid_constant__
#else
#define Q4J_GRID_CONSTANT
#endif

namespace q4j::cuda {

/** Threads of a warpgroup. */
constexpr int kWarpgroup = 128;

/** Bytes of a row of a swizzled tile, 64 bf16, and of the eight rows over which the swizzle's pattern runs. */
constexpr int kSwizzleRow = 128;
constexpr int kSwizzleAtom = 1024;

/** A barrier in shared memory that counts arrivals of threads and bytes of copies. */
#if defined(__CUDACC__)
struct alignas(8) Mbarrier {
  uint64_t word;
};
#else
struct alignas(8) Mbarrier {
  uint32_t expected; /* arrivals of a phase */
  uint32_t pending;
  int32_t bytes; /* expected minus arrived; a copy may be ahead of its expectation */
  uint32_t phase;
};
#endif

/** Accumulators of a warpgroup's product of 64 rows and N columns, one thread's share: see wgmma. */
template <int N>
struct WarpgroupTile {
  float at[N / 2];
};

/** A thread's part of the 64 x 16 operand A in registers: bf16 pairs at (row, col) = (g, 2t), (g+8, 2t), (g, 2t+8), (g+8, 2t+8)
 * of its warp's 16 rows, g = lane / 4, t = lane % 4. The same as of mma.m16n8k16. */
struct OperandA {
  uint32_t pair[4];
};

#if defined(__CUDACC__)

#if Q4J_HOPPER

/** By one thread, before mbarriers_visible. */
Q4J_DEVICE void mbarrier_init(Mbarrier& barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)), "r"(arrivals) : "memory");
}

/** Makes initialised barriers visible to bulk copies; a block barrier must follow. */
Q4J_DEVICE void mbarriers_visible() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

Q4J_DEVICE void mbarrier_arrive(Mbarrier& barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&barrier)) : "memory");
}

/** One arrival, and `bytes` of copies that the phase waits for too. */
Q4J_DEVICE void mbarrier_expect(Mbarrier& barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&barrier)), "r"(bytes) : "memory");
}

/** Waits until the phase of this parity is complete. */
Q4J_DEVICE void mbarrier_wait(Mbarrier& barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra finished;\n"
      "bra again;\n"
      "finished:\n"
      "}\n" ::"r"(shared_address(&barrier)),
      "r"(parity)
      : "memory");
}

/** The box of a two-dimensional tensor at element (column, row) into shared memory, 1024-byte aligned; rows beyond the tensor
 * read as zeros and count as bytes. */
Q4J_DEVICE void copy_box(void* shared, const TensorMap& map, int32_t column, int32_t row, Mbarrier& barrier) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
                   shared_address(shared)),
               "l"(reinterpret_cast<uint64_t>(&map)), "r"(column), "r"(row), "r"(shared_address(&barrier))
               : "memory");
}

/** Before the first product of a series: the registers it reads have been written. */
Q4J_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
Q4J_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/** Waits until at most `Groups` groups of products are under way. */
template <int Groups>
Q4J_DEVICE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Groups) : "memory");
}

/**
 * Keeps the compiler from moving work on the accumulators across this point: it does not know that wgmma writes them until
 * wgmma_wait. Before the first product of a series, and between the wait and the first use of the sums.
 */
template <int N>
Q4J_DEVICE void wgmma_pin(WarpgroupTile<N>& d) {
  Q4J_UNROLL
  for (int i = 0; i < N / 2; ++i) asm volatile("" : "+f"(d.at[i])::"memory");
}

/** Registers per thread of the calling warpgroup from here on. */
template <int Registers>
Q4J_DEVICE void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}
template <int Registers>
Q4J_DEVICE void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}

/**
 * Descriptor of operand B, [N, 64] bf16 with rows of 128 bytes under the 128-byte swizzle, from column 16 * step on: address /
 * 16, a leading offset that this layout ignores, 1024 bytes from eight rows to the next, swizzle mode 1.
 */
Q4J_DEVICE uint64_t operand_b(const void* tile, int step) {
  const uint64_t address = (shared_address(tile) + static_cast<uint32_t>(step) * 32u) >> 4 & 0x3fffu;
  return address | uint64_t{1} << 16 | uint64_t{kSwizzleAtom >> 4} << 32 | uint64_t{1} << 62;
}

#define Q4J_ACC8(i)                                                                                             \
  "+f"(d.at[i]), "+f"(d.at[i + 1]), "+f"(d.at[i + 2]), "+f"(d.at[i + 3]), "+f"(d.at[i + 4]), "+f"(d.at[i + 5]), \
      "+f"(d.at[i + 6]), "+f"(d.at[i + 7])

/** d += a * b^T for 64 rows of A, a warpgroup's, and the 256 rows of B; asynchronous until wgmma_wait. */
Q4J_DEVICE void wgmma(WarpgroupTile<256>& d, const OperandA& a, const void* tile, int step) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
      "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
      "{%128, %129, %130, %131}, %132, 1, 1, 1, 0;"
      : Q4J_ACC8(0), Q4J_ACC8(8), Q4J_ACC8(16), Q4J_ACC8(24), Q4J_ACC8(32), Q4J_ACC8(40), Q4J_ACC8(48), Q4J_ACC8(56),
        Q4J_ACC8(64), Q4J_ACC8(72), Q4J_ACC8(80), Q4J_ACC8(88), Q4J_ACC8(96), Q4J_ACC8(104), Q4J_ACC8(112), Q4J_ACC8(120)
      : "r"(a.pair[0]), "r"(a.pair[1]), "r"(a.pair[2]), "r"(a.pair[3]), "l"(operand_b(tile, step)));
}

#undef Q4J_ACC8

#endif  // sm_90a

#else

// ---------------------------------------------------------------- the host

inline void complete_phase(Mbarrier& barrier) {
  if (barrier.pending != 0 || barrier.bytes != 0) return;
  barrier.phase ^= 1u;
  barrier.pending = barrier.expected;
  host::made_progress();
}

inline void mbarrier_init(Mbarrier& barrier, uint32_t arrivals) { barrier = {arrivals, arrivals, 0, 0}; }
inline void mbarriers_visible() {}
inline void mbarrier_arrive(Mbarrier& barrier) {
  --barrier.pending;
  complete_phase(barrier);
}
inline void mbarrier_expect(Mbarrier& barrier, uint32_t bytes) {
  barrier.bytes += static_cast<int32_t>(bytes);
  mbarrier_arrive(barrier);
}
inline void mbarrier_wait(Mbarrier& barrier, uint32_t parity) {
  // The phase that is under way has the other parity once the awaited one is complete.
  while (barrier.phase == (parity & 1u)) host::poll();
}

/** Where a byte of a tile lies under the 128-byte swizzle: bits 4 to 6 are exclusive-ored with bits 7 to 9. */
inline uintptr_t swizzled(uintptr_t address) { return address ^ ((address >> 7 & 7u) << 4); }

inline void copy_box(void* shared, const TensorMap& map, int32_t column, int32_t row, Mbarrier& barrier) {
  host::check_alignment(shared, kSwizzleAtom);
  const int32_t row_bytes = map.box_columns * 2;
  for (int32_t r = 0; r < map.box_rows; ++r) {
    for (int32_t c = 0; c < map.box_columns; ++c) {
      const bool inside = column + c < map.columns && row + r < map.rows;
      const uint16_t value = inside ? static_cast<const uint16_t*>(map.base)[(row + r) * map.ld + column + c] : uint16_t{0};
      const uintptr_t target = reinterpret_cast<uintptr_t>(shared) + static_cast<uintptr_t>(r * row_bytes + 2 * c);
      *reinterpret_cast<uint16_t*>(swizzled(target)) = value;
    }
  }
  barrier.bytes -= map.box_rows * row_bytes;
  complete_phase(barrier);
}

inline void wgmma_fence() {}
inline void wgmma_commit() {}
template <int Groups>
inline void wgmma_wait() {}
template <int N>
inline void wgmma_pin(WarpgroupTile<N>&) {}
template <int Registers>
inline void give_registers() {}
template <int Registers>
inline void take_registers() {}

/** A warp's 16 of the warpgroup's 64 rows: the four warps of a product do not see each other's operands. */
template <int N>
inline void wgmma(WarpgroupTile<N>& d, const OperandA& a, const void* tile, int step) {
  const int group = lane_index() / 4;
  const int column = lane_index() % 4 * 2;
  float row[2][16];  // rows g and g + 8 of A
  for (int source = 0; source < 4; ++source) {
    for (int p = 0; p < 4; ++p) {
      const auto pair = static_cast<uint32_t>(host::warp_exchange(a.pair[p], group * 4 + source));
      const int at = source * 2 + (p / 2) * 8;
      row[p % 2][at] = to_f32(bf16{static_cast<uint16_t>(pair)});
      row[p % 2][at + 1] = to_f32(bf16{static_cast<uint16_t>(pair >> 16)});
    }
  }
  const uintptr_t base = reinterpret_cast<uintptr_t>(tile) + static_cast<uintptr_t>(step) * 32;
  for (int j = 0; j < N / 8; ++j) {
    for (int e = 0; e < 4; ++e) {
      const uintptr_t b = base + static_cast<uintptr_t>((8 * j + column + e % 2) * kSwizzleRow);
      float sum = d.at[4 * j + e];
      for (int i = 0; i < 16; ++i) {
        sum += row[e / 2][i] * to_f32(*reinterpret_cast<const bf16*>(swizzled(b + static_cast<uintptr_t>(2 * i))));
      }
      d.at[4 * j + e] = sum;
    }
  }
}

#endif

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_SUPPORT_HOPPER_H_
