// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#include "host_execution.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#if !defined(__x86_64__) || defined(Q4J_FIBERS_BY_UCONTEXT)
#include <ucontext.h>
#define Q4J_FIBERS_BY_UCONTEXT 1
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace q4j::cuda::host {

namespace {

constexpr int kLanes = 32;
constexpr int kMostThreads = 1024;
// Objects in the shared memory of a block; kernels declare a handful.
constexpr size_t kMostObjects = 64;

#if defined(__SANITIZE_ADDRESS__)
// AddressSanitizer lays zones that nobody may touch around every array of a frame, and lets no two variables share a slot.
constexpr size_t kStackBytes = 256 * 1024;
// Such zones lie around the objects in shared memory too. A multiple of every alignment.
constexpr size_t kZone = 128;
#else
// Kernels keep their arrays in registers, so a frame is small; a guard page turns an overflow into a fault.
constexpr size_t kStackBytes = 64 * 1024;
constexpr size_t kZone = 0;
#endif

[[noreturn]] void fiber_main();

#if defined(Q4J_FIBERS_BY_UCONTEXT)

// Portable, but every switch makes two system calls for the signal mask.
struct Registers {
  ucontext_t context;
};

void prepare(Registers& registers, unsigned char* stack, size_t bytes) {
  getcontext(&registers.context);
  registers.context.uc_stack.ss_sp = stack;
  registers.context.uc_stack.ss_size = bytes;
  registers.context.uc_link = nullptr;
  makecontext(&registers.context, reinterpret_cast<void (*)()>(&fiber_main), 0);
}

void change(Registers& from, Registers& to) { swapcontext(&from.context, &to.context); }

#else

/** The stack pointer; what the System V ABI asks a callee to keep lies on the stack below it. */
struct Registers {
  void* stack_pointer;
};

}  // namespace

extern "C" void q4j_cuda_host_switch(void** save, void* load);

// rbx, rbp and r12 to r15 are the only general registers that a call preserves. The floating-point control words are equal in
// all fibers of a thread, so they stay.
__asm__(
    ".text\n"
    ".hidden q4j_cuda_host_switch\n"
    ".globl q4j_cuda_host_switch\n"
    ".type q4j_cuda_host_switch, @function\n"
    ".p2align 4\n"
    "q4j_cuda_host_switch:\n"
    "  pushq %rbp\n"
    "  pushq %rbx\n"
    "  pushq %r12\n"
    "  pushq %r13\n"
    "  pushq %r14\n"
    "  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n"
    "  popq %r14\n"
    "  popq %r13\n"
    "  popq %r12\n"
    "  popq %rbx\n"
    "  popq %rbp\n"
    "  ret\n"
    ".size q4j_cuda_host_switch, .-q4j_cuda_host_switch\n");

namespace {

void prepare(Registers& registers, unsigned char* stack, size_t bytes) {
  // From the top: a null return address of fiber_main, fiber_main for `ret`, six registers. After `ret` the stack pointer is 8
  // below a multiple of 16, as it is at the entry of a function that was called.
  auto** top = reinterpret_cast<void**>(stack + bytes);
  top[-1] = nullptr;
  top[-2] = reinterpret_cast<void*>(&fiber_main);
  for (int i = 3; i <= 8; ++i) top[-i] = nullptr;
  registers.stack_pointer = &top[-8];
}

void change(Registers& from, Registers& to) { q4j_cuda_host_switch(&from.stack_pointer, to.stack_pointer); }

#endif

#if defined(__SANITIZE_ADDRESS__)

/** One side of a switch: AddressSanitizer must know which stack the thread is on, and keeps a second, fake one for each. */
struct Side {
  void* fake = nullptr;
  const void* bottom = nullptr;
  size_t bytes = 0;
};

/** Before the switch. `last`: nobody comes back to this side, whose fake stack is freed. */
void leave(Side& from, const Side& to, bool last) {
  __sanitizer_start_switch_fiber(last ? nullptr : &from.fake, to.bottom, to.bytes);
  if (last) from.fake = nullptr;
}

/** After the switch, on the new stack; `from` learns where the old one lies. */
void enter(const Side& to, Side& from) { __sanitizer_finish_switch_fiber(to.fake, &from.bottom, &from.bytes); }

Side side_of(const void* stack, size_t bytes) { return {nullptr, stack, bytes}; }
bool keeps_fake_stack(const Side& side) { return side.fake != nullptr; }

/** Nothing may touch these bytes, or everything may again. */
void forbid(void* memory, size_t bytes) { ASAN_POISON_MEMORY_REGION(memory, bytes); }
void allow(void* memory, size_t bytes) { ASAN_UNPOISON_MEMORY_REGION(memory, bytes); }

#else

struct Side {};
void leave(Side&, const Side&, bool) {}
void enter(const Side&, Side&) {}
Side side_of(const void*, size_t) { return {}; }
bool keeps_fake_stack(const Side&) { return false; }
void forbid(void*, size_t) {}
void allow(void*, size_t) {}

#endif

/** A stack of its own with a guard page below. */
class Stack {
 public:
  Stack() : page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))) {
    void* memory =
        mmap(nullptr, page_ + kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<unsigned char*>(memory);
    mprotect(base_, page_, PROT_NONE);
  }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  ~Stack() {
    allow(memory(), kStackBytes);
    munmap(base_, page_ + kStackBytes);
  }

  unsigned char* memory() const { return base_ + page_; }

 private:
  size_t page_;
  unsigned char* base_ = nullptr;
};

enum class State : uint8_t { kReady, kPolling, kWarpWait, kBlockWait, kGridWait, kDone };

const char* name(State state) {
  switch (state) {
    case State::kReady:
      return "is running";
    case State::kPolling:
      return "waits for a memory barrier";
    case State::kWarpWait:
      return "waits in a warp operation";
    case State::kBlockWait:
      return "waits at a block barrier";
    case State::kGridWait:
      return "waits at a grid barrier";
    case State::kDone:
      return "has left the kernel";
  }
  return "?";
}

struct Warp {
  int arrived = 0;
  Together together = nullptr; /* what the lanes that have arrived came for; NULL: an exchange */
  void* operands[kLanes] = {};
  // Two sets: a lane may enter the next exchange while another has not read the last one yet.
  uint64_t slot[2][kLanes] = {};
};

struct SharedObject {
  const void* tag;
  void* memory;
};

// Behind the dynamic shared memory, to see that nobody wrote there.
constexpr size_t kFenceBytes = 256;
constexpr unsigned char kFence = 0xa5;

struct Block {
  std::vector<Warp> warps;
  std::vector<SharedObject> objects;
  int arrived = 0;
  size_t shared_used = 0;
  size_t dynamic_bytes = 0;
  alignas(128) unsigned char shared[kSharedBytes + (kMostObjects + 1) * kZone];
  alignas(kDynamicAlignment) unsigned char dynamic[kMostSharedBytes + kFenceBytes];

  bool fence_is_whole() {
    allow(dynamic + dynamic_bytes, kFenceBytes);
    for (size_t i = 0; i < kFenceBytes; ++i) {
      if (dynamic[dynamic_bytes + i] != kFence) return false;
    }
    return true;
  }
};

/** A copy that was asked for and is not made yet. */
struct AsyncCopy {
  void* to;
  const void* from;
  size_t bytes;
  size_t from_bytes;
  int group;
};

struct Fiber {
  Registers registers;
  Side side;
  Stack stack;
  Place place;
  State state = State::kDone;
  int exchanges = 0;
  Block* block = nullptr;
  std::vector<AsyncCopy> copies; /* oldest first */
  int groups = 0;                /* committed so far */
};

/** The fibers and blocks of one host thread; kept from launch to launch. */
class Machine {
 public:
  const char* run(int blocks, int threads, bool cooperative, const Body& body, size_t dynamic_bytes) {
    error_[0] = '\0';
    if (threads < kLanes || threads > kMostThreads || threads % kLanes != 0 || blocks < 1) {
      std::snprintf(error_, sizeof error_, "a launch of %d blocks of %d threads is not possible", blocks, threads);
      return error_;
    }
    if (cooperative && blocks > kResidentBlocks) {
      std::snprintf(error_, sizeof error_, "a cooperative launch of %d blocks, %d can be resident", blocks, kResidentBlocks);
      return error_;
    }
    if (dynamic_bytes > kMostSharedBytes) {
      std::snprintf(error_, sizeof error_, "a launch with %zu bytes of dynamic shared memory, a block has %zu", dynamic_bytes,
                    kMostSharedBytes);
      return error_;
    }
    body_ = &body;
    dynamic_bytes_ = dynamic_bytes;
    grid_arrived_ = 0;
    const int together = cooperative ? blocks : 1;
    cooperative_ = cooperative;
    for (int first = 0; first < blocks && error_[0] == '\0'; first += together) {
      start(first, together, threads, blocks);
      schedule(together * threads);
      if (error_[0] != '\0') abandon(together * threads);
      check_fences(together);
    }
    return error_[0] == '\0' ? nullptr : error_;
  }

  Fiber& fiber() { return *running_; }

  void body() {
    enter(running_->side, scheduler_side_);
    body_->call(body_->state);
  }

  void wait(State state) {
    suspend(state);
    if (abandoned_) suspend(State::kDone);
  }

  /** Makes every fiber that waits with `state` ready, of one block or of all, except the running one. */
  void release(State state, const Block* block, int first, int count) {
    for (int i = first; i < first + count; ++i) {
      Fiber& other = *fibers_[static_cast<size_t>(i)];
      if (other.state == state && (block == nullptr || other.block == block)) other.state = State::kReady;
    }
  }

  int live() const { return live_; }
  int grid_arrive() { return ++grid_arrived_; }
  void grid_reset() { grid_arrived_ = 0; }
  bool cooperative() const { return cooperative_; }
  void progress() { progress_ = true; }
  int number(const Fiber& fiber) const { return fiber.place.thread + first_fiber_of(fiber); }

  int first_fiber_of(const Fiber& fiber) const {
    for (size_t b = 0; b < blocks_.size(); ++b) {
      if (blocks_[b].get() == fiber.block) return static_cast<int>(b) * fiber.place.block_threads;
    }
    return 0;
  }

  void fail(const char* what) {
    if (error_[0] != '\0') return;
    const Place& place = running_->place;
    std::snprintf(error_, sizeof error_, "thread %d of block %d %s", place.thread, place.block_index, what);
  }

 private:
  void suspend(State state) {
    Fiber& self = *running_;
    self.state = state;
    leave(self.side, scheduler_side_, state == State::kDone);
    change(self.registers, scheduler_);
    enter(self.side, scheduler_side_);
  }

  void resume(Fiber& fiber) {
    running_ = &fiber;
    leave(scheduler_side_, fiber.side, false);
    change(scheduler_, fiber.registers);
    enter(scheduler_side_, fiber.side);
  }

  /** After a launch that failed: fibers that wait hand back their fake stacks and do nothing else. */
  void abandon(int count) {
    abandoned_ = true;
    for (int i = 0; i < count; ++i) {
      Fiber& fiber = *fibers_[static_cast<size_t>(i)];
      if (fiber.state != State::kDone && keeps_fake_stack(fiber.side)) resume(fiber);
    }
    abandoned_ = false;
  }

  void start(int first, int together, int threads, int blocks) {
    live_ = together * threads;
    while (fibers_.size() < static_cast<size_t>(live_)) fibers_.push_back(std::make_unique<Fiber>());
    while (blocks_.size() < static_cast<size_t>(together)) blocks_.push_back(std::make_unique<Block>());
    for (int b = 0; b < together; ++b) {
      Block& block = *blocks_[static_cast<size_t>(b)];
      block.warps.assign(static_cast<size_t>(threads / kLanes), Warp());
      block.objects.clear();
      block.arrived = 0;
      block.shared_used = 0;
      forbid(block.shared, sizeof block.shared);
      block.dynamic_bytes = dynamic_bytes_;
      allow(block.dynamic, sizeof block.dynamic);
      std::memset(block.dynamic, 0xff, dynamic_bytes_);
      std::memset(block.dynamic + dynamic_bytes_, kFence, kFenceBytes);
      forbid(block.dynamic + dynamic_bytes_, sizeof block.dynamic - dynamic_bytes_);
      for (int t = 0; t < threads; ++t) {
        Fiber& fiber = *fibers_[static_cast<size_t>(b * threads + t)];
        fiber.place = {t, first + b, threads, blocks};
        fiber.state = State::kReady;
        fiber.exchanges = 0;
        fiber.block = &block;
        allow(fiber.stack.memory(), kStackBytes);  // frames that nobody returned from left their zones
        fiber.copies.clear();
        fiber.groups = 0;
        prepare(fiber.registers, fiber.stack.memory(), kStackBytes);
        fiber.side = side_of(fiber.stack.memory(), kStackBytes);
      }
    }
  }

  void check_fences(int together) {
    for (int b = 0; b < together && error_[0] == '\0'; ++b) {
      if (blocks_[static_cast<size_t>(b)]->fence_is_whole()) continue;
      std::snprintf(error_, sizeof error_, "a block wrote behind its %zu bytes of dynamic shared memory", dynamic_bytes_);
    }
  }

  void schedule(int count) {
    const int warps = count / kLanes;
    for (bool backwards = false;; backwards = !backwards) {
      bool moved = false;
      progress_ = false;
      for (int i = 0; i < count; ++i) {
        Fiber& fiber = *fibers_[static_cast<size_t>(i)];
        if (fiber.state == State::kPolling) fiber.state = State::kReady;
      }
      for (int i = 0; i < warps; ++i) {
        const int warp = backwards ? warps - 1 - i : i;
        // A warp runs as far as it can: past a barrier it overwrites what slower warps may not have read yet.
        while (run_lanes(warp * kLanes, backwards)) {
          if (error_[0] != '\0') return;  // the fibers are abandoned: a kernel holds nothing that must be released
          moved = true;
        }
      }
      if (moved || progress_) continue;
      for (int i = 0; i < count; ++i) {
        const Fiber& fiber = *fibers_[static_cast<size_t>(i)];
        if (fiber.state == State::kDone) continue;
        report_stuck(fiber, count);
        return;
      }
      return;
    }
  }

  /** Lets every lane of a warp that is ready run until it waits. False when none was ready. */
  bool run_lanes(int first, bool backwards) {
    bool moved = false;
    for (int lane = 0; lane < kLanes; ++lane) {
      Fiber& fiber = *fibers_[static_cast<size_t>(first + (backwards ? kLanes - 1 - lane : lane))];
      if (fiber.state != State::kReady) continue;
      resume(fiber);
      if (error_[0] != '\0') return true;
      moved = moved || fiber.state != State::kPolling;
    }
    return moved;
  }

  /** Nobody can go on: names one thread that waits and one that is elsewhere. */
  void report_stuck(const Fiber& waiting, int count) {
    for (int i = 0; i < count; ++i) {
      const Fiber& other = *fibers_[static_cast<size_t>(i)];
      if (other.state == waiting.state) continue;
      std::snprintf(error_, sizeof error_, "thread %d of block %d %s, but thread %d of block %d %s", waiting.place.thread,
                    waiting.place.block_index, name(waiting.state), other.place.thread, other.place.block_index,
                    name(other.state));
      return;
    }
    std::snprintf(error_, sizeof error_, "every thread %s and none can go on", name(waiting.state));
  }

  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<std::unique_ptr<Block>> blocks_;
  Registers scheduler_{};
  Side scheduler_side_;
  Fiber* running_ = nullptr;
  const Body* body_ = nullptr;
  int live_ = 0;
  int grid_arrived_ = 0;
  size_t dynamic_bytes_ = 0;
  bool cooperative_ = false;
  bool abandoned_ = false;
  bool progress_ = false;
  char error_[256] = {};
};

Machine& machine() {
  thread_local Machine instance;
  return instance;
}

[[noreturn]] void fiber_main() {
  Machine& self = machine();
  self.body();
  self.wait(State::kDone);
  __builtin_unreachable();  // a fiber that has left the kernel is prepared anew before it runs again
}

}  // namespace

const Place& current() { return machine().fiber().place; }

void block_barrier() {
  Machine& self = machine();
  Fiber& fiber = self.fiber();
  if (++fiber.block->arrived < fiber.place.block_threads) {
    self.wait(State::kBlockWait);
    return;
  }
  fiber.block->arrived = 0;
  self.release(State::kBlockWait, fiber.block, self.first_fiber_of(fiber), fiber.place.block_threads);
}

void grid_barrier() {
  Machine& self = machine();
  if (!self.cooperative()) {
    self.fail("is at a grid barrier, but the launch is not cooperative");
    self.wait(State::kGridWait);
    return;
  }
  if (self.grid_arrive() < self.live()) {
    self.wait(State::kGridWait);
    return;
  }
  self.grid_reset();
  self.release(State::kGridWait, nullptr, 0, self.live());
}

void poll() { machine().wait(State::kPolling); }

void made_progress() { machine().progress(); }

namespace {

/** The lane arrives at an operation of its warp; true for the last one, with which all others go on. */
bool arrive(Machine& self, Fiber& fiber, Warp& warp, Together together) {
  if (warp.arrived > 0 && warp.together != together) {
    self.fail("makes another warp operation than its warp");
    self.wait(State::kDone);
  }
  warp.together = together;
  if (++warp.arrived < kLanes) return false;
  warp.arrived = 0;
  self.release(State::kWarpWait, nullptr, self.number(fiber) - fiber.place.thread % kLanes, kLanes);
  return true;
}

Warp& warp_of(Fiber& fiber) { return fiber.block->warps[static_cast<size_t>(fiber.place.thread / kLanes)]; }

}  // namespace

void warp_together(void* operands, Together together) {
  Machine& self = machine();
  Fiber& fiber = self.fiber();
  Warp& warp = warp_of(fiber);
  warp.operands[fiber.place.thread % kLanes] = operands;
  if (!arrive(self, fiber, warp, together)) {
    self.wait(State::kWarpWait);
    return;
  }
  // The others are ready again but do not run before this fiber waits, so their stacks hold the operands still.
  together(warp.operands);
}

uint64_t warp_exchange(uint64_t bits, int source_lane) {
  Machine& self = machine();
  Fiber& fiber = self.fiber();
  const int lane = fiber.place.thread % kLanes;
  Warp& warp = warp_of(fiber);
  uint64_t(&slot)[kLanes] = warp.slot[fiber.exchanges++ & 1];
  slot[lane] = bits;
  if (source_lane < 0 || source_lane >= kLanes) {
    self.fail("reads from a lane that does not exist");
    return bits;
  }
  if (!arrive(self, fiber, warp, nullptr)) self.wait(State::kWarpWait);
  return slot[source_lane];
}

void* shared_memory(const void* tag, size_t bytes, size_t alignment) {
  Machine& self = machine();
  Block& block = *self.fiber().block;
  for (const SharedObject& object : block.objects) {
    if (object.tag == tag) return object.memory;
  }
  const size_t offset = (block.shared_used + alignment - 1) / alignment * alignment;
  const bool fits = offset + bytes <= kSharedBytes && offset + bytes + block.dynamic_bytes <= kMostSharedBytes;
  if (!fits || block.objects.size() == kMostObjects) {
    self.fail("asks for more shared memory than a block has");
    self.wait(State::kDone);  // never resumed: the launch has failed
  }
  block.shared_used = offset + bytes;
  void* memory = block.shared + offset + (block.objects.size() + 1) * kZone;
  allow(memory, bytes);
  std::memset(memory, 0xff, bytes);
  block.objects.push_back({tag, memory});
  return memory;
}

void check_alignment(const void* address, size_t alignment) {
  if (reinterpret_cast<uintptr_t>(address) % alignment == 0) return;
  Machine& self = machine();
  self.fail("makes a misaligned access");
  self.wait(State::kDone);
}

void* dynamic_shared_memory() { return machine().fiber().block->dynamic; }

void check_shared(const void* address, size_t bytes) {
  Machine& self = machine();
  const Block& block = *self.fiber().block;
  const auto within = [&](const unsigned char* memory, size_t size) {
    const auto from = reinterpret_cast<uintptr_t>(address);
    const auto start = reinterpret_cast<uintptr_t>(memory);
    return from >= start && from + bytes <= start + size;
  };
  if (within(block.shared, sizeof block.shared) || within(block.dynamic, block.dynamic_bytes)) return;
  self.fail("names memory that is not shared memory of its block");
  self.wait(State::kDone);
}

void copy_async(void* to, const void* from, size_t bytes, size_t from_bytes) {
  check_alignment(to, bytes);
  check_alignment(from, bytes);
  check_shared(to, bytes);
  Fiber& fiber = machine().fiber();
  if (from_bytes > bytes) {
    machine().fail("copies more bytes than it asked for");
    machine().wait(State::kDone);
  }
  std::memset(to, 0xff, bytes);
  fiber.copies.push_back({to, from, bytes, from_bytes, fiber.groups});
}

void copy_async_commit() { ++machine().fiber().groups; }

void copy_async_wait(int pending) {
  Fiber& fiber = machine().fiber();
  size_t made = 0;
  for (; made < fiber.copies.size() && fiber.copies[made].group < fiber.groups - pending; ++made) {
    const AsyncCopy& copy = fiber.copies[made];
    std::memset(copy.to, 0, copy.bytes);
    std::memcpy(copy.to, copy.from, copy.from_bytes);
  }
  fiber.copies.erase(fiber.copies.begin(), fiber.copies.begin() + static_cast<std::ptrdiff_t>(made));
}

const char* run(int blocks, int threads, bool cooperative, const Body& body, size_t dynamic_bytes) {
  return machine().run(blocks, threads, cooperative, body, dynamic_bytes);
}

}  // namespace q4j::cuda::host
