// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The streams that the paged store copies on, as the CPU plays them: late, in order, and strict about waits. */
#include <cstring>
#include <string>
#include <vector>

#include "error.h"
#include "expect.h"
#include "pack/context.h"
#include "paged_store/copy_streams.h"

namespace {

using namespace q4j::cuda;

constexpr int64_t kUnit = 256;
std::string last_text;

/** Two units of "device" memory, two of "host" memory, and the streams. */
struct Machine {
  Machine() {
    const q4j_pack_context context;
    EXPECT(CopyStreams::create(context, kUnit, &streams) == Q4J_OK);
    void* memory = nullptr;
    EXPECT(streams->allocate_device(2 * kUnit, &memory) == Q4J_OK);
    device = static_cast<unsigned char*>(memory);
    EXPECT(streams->allocate_pinned(2 * kUnit, &memory) == Q4J_OK);
    host = static_cast<unsigned char*>(memory);
    std::memset(host, 7, kUnit);
  }

  std::unique_ptr<CopyStreams> streams;
  unsigned char* device = nullptr;
  unsigned char* host = nullptr;
};

bool refused(q4j_status status, const char* text) {
  const bool ok = status == Q4J_INTERNAL_ERROR && last_text.find(text) != std::string::npos;
  if (!ok) std::fprintf(stderr, "    found status %d, %s\n", static_cast<int>(status), last_text.c_str());
  return ok;
}

void copies_as_late_as_allowed() {
  Machine m;
  Event arrived;
  EXPECT(m.streams->copy(Lane::kIn, m.device, m.host, kUnit) == Q4J_OK);
  EXPECT(m.streams->record(Lane::kIn, &arrived) == Q4J_OK);
  EXPECT(m.streams->zero(Lane::kIn, m.device + kUnit, kUnit) == Q4J_OK);
  EXPECT(m.device[0] == 0xc5 && m.device[kUnit] == 0xc5);
  EXPECT(m.streams->wait(Lane::kWork, arrived) == Q4J_OK);
  EXPECT(m.device[kUnit - 1] == 7 && m.device[kUnit] == 0xc5);  // what was recorded, and no more
  EXPECT(m.streams->synchronize(Lane::kIn) == Q4J_OK);
  EXPECT(m.device[kUnit] == 0);
}

void finds_work_that_starts_too_early() {
  Machine m;
  EXPECT(m.streams->copy(Lane::kIn, m.device, m.host, kUnit) == Q4J_OK);
  EXPECT(refused(m.streams->work_uses(m.device, kUnit), "work writes memory that a copy to the device writes"));
  EXPECT(m.streams->work_uses(m.device + kUnit, kUnit) == Q4J_OK);  // another frame
}

void finds_copies_that_start_too_early() {
  Machine m;
  Event released;
  EXPECT(m.streams->work_uses(m.device, kUnit) == Q4J_OK);
  EXPECT(m.streams->record(Lane::kWork, &released) == Q4J_OK);
  EXPECT(m.streams->work_uses(m.device, kUnit) == Q4J_OK);
  EXPECT(m.streams->wait(Lane::kOut, released) == Q4J_OK);
  // The event was recorded before the last work.
  EXPECT(refused(m.streams->copy(Lane::kOut, m.host, m.device, kUnit), "a copy from the device reads memory that work writes"));
  EXPECT(m.streams->record(Lane::kWork, &released) == Q4J_OK);
  EXPECT(m.streams->wait(Lane::kOut, released) == Q4J_OK);
  EXPECT(m.streams->copy(Lane::kOut, m.host, m.device, kUnit) == Q4J_OK);
  EXPECT(m.streams->wait(Lane::kIn, released) == Q4J_OK);
  EXPECT(refused(m.streams->copy(Lane::kIn, m.device, m.host + kUnit, kUnit),
                 "a copy to the device writes memory that a copy from the device reads"));
  EXPECT(refused(m.streams->copy(Lane::kIn, m.device + kUnit, m.host, kUnit),
                 "a copy to the device reads memory that a copy from the device writes"));
}

/** One event stands for all that its stream had waited for. */
void waits_reach_through() {
  Machine m;
  Event released;
  Event saved;
  Event arrived;
  std::memset(m.device, 42, kUnit);
  std::memset(m.host + kUnit, 9, kUnit);
  EXPECT(m.streams->work_uses(m.device, kUnit) == Q4J_OK);
  EXPECT(m.streams->record(Lane::kWork, &released) == Q4J_OK);
  EXPECT(m.streams->wait(Lane::kOut, released) == Q4J_OK);
  EXPECT(m.streams->copy(Lane::kOut, m.host, m.device, kUnit) == Q4J_OK);
  EXPECT(m.streams->record(Lane::kOut, &saved) == Q4J_OK);
  EXPECT(m.streams->wait(Lane::kIn, saved) == Q4J_OK);
  EXPECT(m.streams->copy(Lane::kIn, m.device, m.host + kUnit, kUnit) == Q4J_OK);
  EXPECT(m.streams->record(Lane::kIn, &arrived) == Q4J_OK);
  EXPECT(m.streams->copy(Lane::kIn, m.device + kUnit, m.host, kUnit) == Q4J_OK);
  EXPECT(m.device[0] == 42 && m.host[0] == 7);
  EXPECT(m.streams->wait(Lane::kWork, arrived) == Q4J_OK);
  EXPECT(m.device[0] == 9 && m.host[0] == 42 && m.device[kUnit] == 0xc5);
  EXPECT(m.streams->work_uses(m.device, kUnit) == Q4J_OK);
  // What the host has waited for is before everything that it submits from then on.
  EXPECT(m.streams->synchronize(Lane::kIn) == Q4J_OK);
  EXPECT(m.device[kUnit] == 42);
  EXPECT(m.streams->work_uses(m.device + kUnit, kUnit) == Q4J_OK);
}

}  // namespace

int main() {
  q4j::error_sink = [](const char* text) { last_text = text; };
  copies_as_late_as_allowed();
  finds_work_that_starts_too_early();
  finds_copies_that_start_too_early();
  waits_reach_through();
  return q4j::test::finish("copy_streams_test");
}
