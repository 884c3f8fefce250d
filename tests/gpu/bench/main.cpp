// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Measures the operators of a pack and judges them by the project's goals:
 *
 *   cuda_bench PACK [--operator NAME]... [--every-rung] [--small] [--csv FILE]
 *
 *   --operator    only this operator; may be given several times
 *   --every-rung  every version of the operators that keep several, and nothing else: the ladder for their pages
 *   --small       tiny shapes, to rehearse the program: the figures mean nothing
 *   --csv         the rows and goals as a table with device, versions and date
 *
 * Times are medians of the stream's own, the L2 cache overwritten before every run, over random data. Exit status: 0 measured
 * (whether goals were met is in the table and the closing line), 1 an operator failed, 2 a wrong argument or no pack.
 */
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "bench.h"
#include "rungs.h"

namespace {

using namespace q4j::bench;
using q4j::parity::Failure;

struct Arguments {
  std::string pack;
  std::string csv;
  std::vector<std::string> only;
  bool every_rung = false;
  bool small = false;
};

class Context {
 public:
  Context(const std::string& pack, const std::string& rungs, void* stream) {
    if (!rungs.empty()) setenv("Q4J_CUDA_RUNGS", rungs.c_str(), 1);
    auto options = params<q4j_context_options>();
    options.stream = stream;
    require(q4j_context_create(pack.c_str(), nullptr, &options, &context_), pack);
    if (!rungs.empty()) unsetenv("Q4J_CUDA_RUNGS");
  }
  ~Context() { q4j_context_destroy(context_); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  q4j_context* get() const { return context_; }

 private:
  q4j_context* context_ = nullptr;
};

/** Runs one benchmark on a context of its own. False when it failed. */
bool run(const Entry& entry, const Arguments& arguments, const Device& device, const std::string& rungs, Session* session) {
  const Context context(arguments.pack, rungs, device.stream());
  session->use(context.get(), rungs);
  const auto give_up = [&](const std::string& reason) {
    session->note(entry.operator_name + ": " + reason);
    if (rungs.empty()) {
      for (const std::string& goal : entry.goals) session->cannot_judge(goal, reason);
    }
  };
  if (!session->supports(entry.operator_name.c_str())) {
    give_up("the pack lacks the operator");
    return true;
  }
  try {
    entry.benchmark(*session);
    device.synchronize();
    return true;
  } catch (const Failure& failure) {
    if (failure.status() == Q4J_DEVICE_ERROR_FATAL) {
      std::fprintf(stderr, "cuda_bench: %s: %s\n", entry.operator_name.c_str(), failure.what());
      std::_Exit(1);
    }
    give_up(failure.what());
    return failure.status() == Q4J_UNSUPPORTED;
  }
}

int bench(const Arguments& arguments) {
  const Device device;
  Session session(device, arguments.small);
  std::string build;
  {
    const Context context(arguments.pack, "", device.stream());
    build = q4j_pack_build_info(context.get());
  }
  session.note(device.name() + ", " + device.versions() + ", " + build);
  bool worked = true;
  for (const Entry* entry : Entry::all()) {
    const std::string& name = entry->operator_name;
    if (!arguments.only.empty() && std::find(arguments.only.begin(), arguments.only.end(), name) == arguments.only.end())
      continue;
    const std::vector<std::string> choices = q4j::parity::rung_choices(name, arguments.every_rung);
    if (arguments.every_rung && choices.size() < 2) continue;
    for (const std::string& rungs : choices) worked = run(*entry, arguments, device, rungs, &session) && worked;
  }
  session.finish();
  if (!arguments.csv.empty()) session.write_csv(arguments.csv, build);
  return worked ? 0 : 1;
}

int usage(const std::string& wrong) {
  std::fprintf(stderr,
               "cuda_bench: %s\n"
               "usage: cuda_bench PACK [--operator NAME]... [--every-rung] [--small] [--csv FILE]\n",
               wrong.c_str());
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--small") {
      arguments.small = true;
    } else if (argument == "--every-rung") {
      arguments.every_rung = true;
    } else if (argument == "--operator" && i + 1 < argc) {
      arguments.only.emplace_back(argv[++i]);
    } else if (argument == "--csv" && i + 1 < argc) {
      arguments.csv = argv[++i];
    } else if (argument[0] == '-' || !arguments.pack.empty()) {
      return usage("unknown option, or one without its value: " + argument);
    } else {
      arguments.pack = std::filesystem::absolute(argument);  // a bare name would be searched on the library path
    }
  }
  if (arguments.pack.empty()) return usage("expected the file of a pack");
  try {
    return bench(arguments);
  } catch (const Failure& failure) {
    std::fprintf(stderr, "cuda_bench: %s\n", failure.what());
    return 2;
  }
}
