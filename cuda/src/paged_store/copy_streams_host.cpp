// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The paged store's streams, events and memory, played on the CPU; copy_streams.h says how. */
#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <vector>

#include "error.h"
#include "host_memory.h"
#include "paged_store/copy_streams.h"

namespace q4j::cuda {

namespace {

constexpr int kPattern = 0xc5; /* as f32 and as bf16 a number no test computes, as an integer neither */

/** How far each stream has come, as far as one of them knows: what it does next happens after all of that. */
using Clock = std::array<int64_t, kLanes>;

void join(Clock* clock, const Clock& other) {
  for (size_t i = 0; i < clock->size(); ++i) (*clock)[i] = std::max((*clock)[i], other[i]);
}

const char* name_of(Lane lane) {
  return lane == Lane::kWork ? "work" : lane == Lane::kIn ? "a copy to the device" : "a copy from the device";
}

/** Something put on kIn or kOut and not carried out yet. */
struct Operation {
  enum Kind { kCopy, kZero, kWait, kNothing } kind;
  void* to;
  const void* from;
  int64_t bytes;
  Lane awaited;             /* kWait: until this stream ... */
  int64_t awaited_position; /* ... has carried out so many operations */
};

struct Queue {
  std::deque<Operation> pending;
  int64_t put = 0;
  int64_t done = 0;
};

struct Recorded {
  Lane lane = Lane::kWork;
  int64_t position = 0;
  Clock clock = {};
};

/** The last accesses of one page or frame: a stream's own count at that time, 0 for never. */
struct Accesses {
  Clock reads = {};
  Clock writes = {};
};

struct Allocation {
  unsigned char* memory = nullptr;
  int64_t bytes = 0;
  std::vector<Accesses> units;
};

}  // namespace

struct CopyStreams::Body {
  int64_t unit = 0;
  std::array<Queue, kLanes> queues;
  std::array<Clock, kLanes> clocks = {};
  std::vector<Recorded> events;
  std::vector<Allocation> allocations;

  ~Body() {
    for (const Allocation& allocation : allocations) host_free(allocation.memory);
  }

  Queue& queue(Lane lane) { return queues[static_cast<size_t>(lane)]; }
  Clock& clock(Lane lane) { return clocks[static_cast<size_t>(lane)]; }

  q4j_status allocate(int64_t bytes, void** memory) {
    Allocation allocation;
    allocation.bytes = bytes;
    allocation.units.resize(static_cast<size_t>(bytes / unit));
    allocations.reserve(allocations.size() + 1);
    Q4J_RETURN_IF_ERROR(host_allocate(bytes, memory));
    host_fill(*memory, kPattern, bytes);
    allocation.memory = static_cast<unsigned char*>(*memory);
    allocations.push_back(std::move(allocation));
    return Q4J_OK;
  }

  /** NULL for memory that is the caller's. */
  Accesses* accesses_of(const void* address) {
    const auto* byte = static_cast<const unsigned char*>(address);
    for (Allocation& allocation : allocations) {
      if (byte < allocation.memory || byte >= allocation.memory + allocation.bytes) continue;
      return &allocation.units[static_cast<size_t>((byte - allocation.memory) / unit)];
    }
    return nullptr;
  }

  /** Notes an access of the stream's current operation after comparing it with those that it must not overtake. */
  q4j_status access(Lane lane, const void* address, bool writes) {
    Accesses* accesses = accesses_of(address);
    if (accesses == nullptr) return Q4J_OK;
    const Clock& known = clock(lane);
    for (const Lane other : {Lane::kWork, Lane::kIn, Lane::kOut}) {
      const auto i = static_cast<size_t>(other);
      const bool after_writes = accesses->writes[i] <= known[i];
      const bool after_reads = accesses->reads[i] <= known[i];
      Q4J_REQUIRE(after_writes && (after_reads || !writes), Q4J_INTERNAL_ERROR,
                  "paged_store: %s %s memory that %s %s, and no event orders them", name_of(lane), writes ? "writes" : "reads",
                  name_of(other), after_writes ? "reads" : "writes");
    }
    const int64_t now = known[static_cast<size_t>(lane)];
    (writes ? accesses->writes : accesses->reads)[static_cast<size_t>(lane)] = now;
    return Q4J_OK;
  }

  void tick(Lane lane) { ++clock(lane)[static_cast<size_t>(lane)]; }

  /** The host has waited for what the clock says: nothing it submits from now on can come before that. */
  void host_knows(const Clock& known) {
    const Clock copy = known;
    for (Clock& each : clocks) join(&each, copy);
  }

  void carry_out(const Operation& operation) {
    if (operation.kind == Operation::kCopy) host_copy(operation.to, operation.from, operation.bytes);
    if (operation.kind == Operation::kZero) host_fill(operation.to, 0, operation.bytes);
    if (operation.kind == Operation::kWait) carry_out_until(operation.awaited, operation.awaited_position);
  }

  void carry_out_until(Lane lane, int64_t position) {
    Queue& on = queue(lane);
    while (on.done < position) {
      const Operation next = on.pending.front();
      on.pending.pop_front();
      carry_out(next);
      ++on.done;
    }
  }

  void put(Lane lane, const Operation& operation) {
    Queue& on = queue(lane);
    ++on.put;
    if (lane == Lane::kWork) {
      carry_out(operation);  // as operators do: they have finished when a launch returns
      ++on.done;
    } else {
      on.pending.push_back(operation);
    }
  }
};

CopyStreams::CopyStreams(std::unique_ptr<Body> body) : body_(std::move(body)) {}
CopyStreams::~CopyStreams() = default;

q4j_status CopyStreams::create(const q4j_pack_context&, int64_t page_bytes, std::unique_ptr<CopyStreams>* streams) {
  auto body = std::make_unique<Body>();
  body->unit = page_bytes;
  streams->reset(new CopyStreams(std::move(body)));
  return Q4J_OK;
}

q4j_status CopyStreams::allocate_device(int64_t bytes, void** memory) { return body_->allocate(bytes, memory); }
q4j_status CopyStreams::allocate_pinned(int64_t bytes, void** memory) { return body_->allocate(bytes, memory); }
q4j_status CopyStreams::allocate_managed(int64_t bytes, void** memory) { return body_->allocate(bytes, memory); }

q4j_status CopyStreams::record(Lane lane, Event* event) {
  if (event->index < 0) {
    body_->events.emplace_back();
    event->index = static_cast<int64_t>(body_->events.size()) - 1;
  }
  body_->events[static_cast<size_t>(event->index)] = {lane, body_->queue(lane).put, body_->clock(lane)};
  return Q4J_OK;
}

q4j_status CopyStreams::wait(Lane lane, Event event) {
  if (event.index < 0) return Q4J_OK;
  const Recorded& recorded = body_->events[static_cast<size_t>(event.index)];
  join(&body_->clock(lane), recorded.clock);
  body_->put(lane, {Operation::kWait, nullptr, nullptr, 0, recorded.lane, recorded.position});
  return Q4J_OK;
}

q4j_status CopyStreams::synchronize(Event event) {
  if (event.index < 0) return Q4J_OK;
  const Recorded& recorded = body_->events[static_cast<size_t>(event.index)];
  body_->carry_out_until(recorded.lane, recorded.position);
  body_->host_knows(recorded.clock);
  return Q4J_OK;
}

q4j_status CopyStreams::synchronize(Lane lane) {
  body_->carry_out_until(lane, body_->queue(lane).put);
  body_->host_knows(body_->clock(lane));
  return Q4J_OK;
}

q4j_status CopyStreams::copy(Lane lane, void* to, const void* from, int64_t bytes) {
  body_->tick(lane);
  Q4J_RETURN_IF_ERROR(body_->access(lane, from, false));
  Q4J_RETURN_IF_ERROR(body_->access(lane, to, true));
  body_->put(lane, {Operation::kCopy, to, from, bytes, lane, 0});
  return Q4J_OK;
}

q4j_status CopyStreams::zero(Lane lane, void* memory, int64_t bytes) {
  body_->tick(lane);
  Q4J_RETURN_IF_ERROR(body_->access(lane, memory, true));
  body_->put(lane, {Operation::kZero, memory, nullptr, bytes, lane, 0});
  return Q4J_OK;
}

q4j_status CopyStreams::prefetch(Lane lane, void* managed, int64_t, bool) {
  // The bytes stay where they are, as addresses do on a GPU; the order is what the budget of the device rests on.
  body_->tick(lane);
  Q4J_RETURN_IF_ERROR(body_->access(lane, managed, true));
  body_->put(lane, {Operation::kNothing, nullptr, nullptr, 0, lane, 0});
  return Q4J_OK;
}

q4j_status CopyStreams::work_uses(void* memory, int64_t) {
  body_->tick(Lane::kWork);
  return body_->access(Lane::kWork, memory, true);
}

}  // namespace q4j::cuda
