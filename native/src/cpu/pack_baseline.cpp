// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The entry point of a CPU pack: asks the CPU and the operating system for the instructions the pack was compiled for before
 * any code that uses them runs.
 *
 * This file is compiled without instruction-set flags (the name *_baseline.cpp tells the build) and calls no inline function
 * of a shared header. Which instructions those are follows from the pack's name.
 */
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pack_table.h"

#ifndef Q4J_PACK_NAME
#error "define Q4J_PACK_NAME, for example -DQ4J_PACK_NAME=\"cpu-avx2\""
#endif

namespace q4j::cpu {

namespace {

void (*host_set_error)(const char*) = nullptr;

struct Registers {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers r;
  if (__get_cpuid_max(0, nullptr) >= leaf) __cpuid_count(leaf, subleaf, r.a, r.b, r.c, r.d);
  return r;
}

constexpr bool equal(const char* a, const char* b) { return *a == *b && (*a == '\0' || equal(a + 1, b + 1)); }

// Each level needs what the levels before it need.
enum Level { kUnknown = -1, kAvx2, kAvx512, kAvx512Bf16, kAmx };

constexpr Level kLevel = equal(Q4J_PACK_NAME, "cpu-avx2")         ? kAvx2
                         : equal(Q4J_PACK_NAME, "cpu-avx512")     ? kAvx512
                         : equal(Q4J_PACK_NAME, "cpu-avx512bf16") ? kAvx512Bf16
                         : equal(Q4J_PACK_NAME, "cpu-amx")        ? kAmx
                                                                  : kUnknown;
static_assert(kLevel != kUnknown, "a CPU pack of this name is not known");

constexpr bool has(unsigned word, int bit) { return (word >> bit & 1u) != 0; }

unsigned long long xcr0() {
  unsigned low = 0;
  unsigned high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<unsigned long long>(high) << 32 | low;
}

// Text of the first thing that is missing, or NULL.
const char* missing() {
  const Registers one = cpuid(1, 0);
  const Registers seven = cpuid(7, 0);
  // OSXSAVE: without it XGETBV itself faults.
  if (!has(one.c, 27)) return "the operating system does not save AVX registers (no OSXSAVE)";
  const unsigned long long state = xcr0();
  if ((state & 0x6) != 0x6) return "the operating system does not save AVX registers (XCR0)";
  if (!has(one.c, 12)) return "the CPU lacks FMA";
  if (!has(one.c, 29)) return "the CPU lacks F16C";
  if (!has(seven.b, 5)) return "the CPU lacks AVX2";
  if (kLevel >= kAvx512) {
    if ((state & 0xe6) != 0xe6) return "the operating system does not save AVX-512 registers (XCR0)";
    if (!has(seven.b, 16)) return "the CPU lacks AVX512F";
    if (!has(seven.b, 17)) return "the CPU lacks AVX512DQ";
    if (!has(seven.b, 28)) return "the CPU lacks AVX512CD";
    if (!has(seven.b, 30)) return "the CPU lacks AVX512BW";
    if (!has(seven.b, 31)) return "the CPU lacks AVX512VL";
  }
  if (kLevel >= kAvx512Bf16) {
    if (!has(cpuid(7, 1).a, 5)) return "the CPU lacks AVX512_BF16";
    if (!has(seven.c, 11)) return "the CPU lacks AVX512_VNNI";
  }
  if (kLevel >= kAmx) {
    if (!has(seven.d, 24)) return "the CPU lacks AMX-TILE";
    if (!has(seven.d, 22)) return "the CPU lacks AMX-BF16";
    if (!has(seven.d, 25)) return "the CPU lacks AMX-INT8";
    if ((state & 0x60000) != 0x60000) return "the operating system does not save AMX tiles (XCR0)";
    // Linux hands out the 8 KiB of tile state only on request: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA). The
    // permission holds for the whole process, threads that run already included.
    constexpr long kRequestPermission = 0x1023;
    constexpr long kTileData = 18;
    if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) {
      return "the kernel refused permission to use AMX tiles (arch_prctl ARCH_REQ_XCOMP_PERM)";
    }
  }
  return nullptr;
}

// Appends to a fixed buffer; <cstring> and <string> are avoided on purpose (see the top).
char* append(char* to, const char* end, const char* text) {
  while (*text != '\0' && to + 1 < end) *to++ = *text++;
  *to = '\0';
  return to;
}

}  // namespace

void set_error(const char* text) {
  if (host_set_error != nullptr) host_set_error(text);
}

}  // namespace q4j::cpu

extern "C" const q4j_pack* q4j_pack_open(const q4j_host* host) {
  q4j::cpu::host_set_error = host == nullptr ? nullptr : host->set_error;
  const char* lack = q4j::cpu::missing();
  if (lack != nullptr) {
    char text[256];
    char* to = q4j::cpu::append(text, text + sizeof text, "pack " Q4J_PACK_NAME " cannot run on this machine: ");
    q4j::cpu::append(to, text + sizeof text, lack);
    q4j::cpu::set_error(text);
    return nullptr;
  }
  return q4j::cpu::pack_table();
}
