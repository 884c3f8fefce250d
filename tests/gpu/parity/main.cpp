// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Compares the operators of a pack with the reference pack:
 *
 *   cuda_parity PACK REFERENCE [--operator NAME]... [--every-rung] [--small] [--no-guards] [--seed N] [--shard I/N]
 *               [--list]
 *   cuda_parity --rungs
 *
 *   --operator    only this operator; may be given several times
 *   --every-rung  every version of an operator that keeps several, instead of the one that runs
 *   --small       only shapes that compute-sanitizer and AddressSanitizer finish in seconds
 *   --no-guards   for compute-sanitizer: no guard bytes around tensors, nothing in outputs, every case once
 *   --shard       the I-th of N parts of the cases, counted from 0, to run them side by side
 *   --list        the cases instead of running them
 *   --rungs       every operator that keeps several versions: how many, which one runs, how many cases; 1 if one has no case
 *
 * One line per operator and a closing line; operators that the pack lacks are skipped and counted. Exit status: 0 all passed,
 * 1 a case failed, 2 a wrong argument or a pack that does not open.
 */
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "harness.h"
#include "rungs.h"

namespace {

using namespace q4j::parity;

bool begins(const std::string& text, const std::string& with) { return text.compare(0, with.size(), with) == 0; }

// Failures printed in full for one operator; the rest is counted.
constexpr int kMostPrinted = 5;

struct Arguments {
  Options options;
  std::vector<std::string> packs;
  std::vector<std::string> only;
  bool every_rung = false;
  bool list = false;
  bool rungs = false;
  unsigned shard = 0;
  unsigned shards = 1;
};

struct Totals {
  int passed = 0;
  int failed = 0;
  int skipped = 0;
  int missing_operators = 0;
};

/** Runs the cases of one operator. False when the device answers no call any more. */
bool run(const std::string& operator_name, const std::vector<Case>& cases, const Context& pack, const Context& reference,
         const Options& options, const std::string& label, Totals* totals) {
  int passed = 0;
  int failed = 0;
  int unsupported = 0;
  double share = 0;
  std::string worst;
  bool fatal = false;
  for (const Case& c : cases) {
    if (c.operator_name != operator_name) continue;
    const Verdict verdict = check(c, pack, reference, options);
    switch (verdict.kind) {
      case Verdict::kPassed:
        ++passed;
        if (verdict.share > share) {
          share = verdict.share;
          worst = "\"" + c.name + "\" " + verdict.detail;
        }
        break;
      case Verdict::kFailed:
        if (++failed <= kMostPrinted) std::printf("FAILED %s, %s: %s\n", label.c_str(), c.name.c_str(), verdict.detail.c_str());
        break;
      case Verdict::kUnsupported:
        if (++unsupported == 1) std::printf("unsupported %s, %s: %s\n", label.c_str(), c.name.c_str(), verdict.detail.c_str());
        break;
    }
    fatal = verdict.fatal;
    if (fatal) break;
  }
  std::printf("%-36s %5d passed %5d failed %5d unsupported", label.c_str(), passed, failed, unsupported);
  if (share > 0) {
    std::printf("  worst %.1f %% of its tolerance: %s", 100 * share, worst.c_str());
  } else if (passed > 0) {
    std::printf("  equal");
  }
  std::printf("\n");
  std::fflush(stdout);
  totals->passed += passed;
  totals->failed += failed;
  totals->skipped += unsupported;
  return !fatal;
}

int parity(const Arguments& arguments) {
  const Options& options = arguments.options;
  const std::vector<std::string>& only = arguments.only;
  const std::vector<Case> all = all_cases(options);
  std::vector<Case> cases;
  // By turns, so that every part has a share of every operator.
  for (size_t i = arguments.shard; i < all.size(); i += arguments.shards) cases.push_back(all[i]);
  std::vector<std::string> operators;
  std::map<std::string, int> counts;
  for (const Case& c : cases) {
    if (counts[c.operator_name]++ == 0 && (only.empty() || std::find(only.begin(), only.end(), c.operator_name) != only.end()))
      operators.push_back(c.operator_name);
  }
  for (const std::string& name : only) {
    if (counts.find(name) != counts.end()) continue;
    std::fprintf(stderr, "cuda_parity: there are no cases of \"%s\"\n", name.c_str());
    return 2;
  }
  if (arguments.list) {
    for (const std::string& name : operators) {
      for (const Case& c : cases) {
        if (c.operator_name == name) std::printf("%s\t%s\n", name.c_str(), c.name.c_str());
      }
    }
    return 0;
  }
  const Context reference(arguments.packs[1]);
  Totals totals;
  {
    const Context pack(arguments.packs[0]);
    std::printf("%s (%s) against %s, seed %llu%s\n", pack.name().c_str(), q4j_pack_build_info(pack.get()),
                reference.name().c_str(), static_cast<unsigned long long>(options.seed), options.small ? ", small shapes" : "");
  }
  for (const std::string& name : operators) {
    for (const std::string& choice : rung_choices(name, arguments.every_rung)) {
      const Context pack(arguments.packs[0], arguments.every_rung ? choice.c_str() : nullptr);
      if (q4j_supports(pack.get(), name.c_str()) == 0) {
        std::printf("%-36s %5d skipped: the pack lacks the operator\n", name.c_str(), counts[name]);
        totals.skipped += counts[name];
        ++totals.missing_operators;
        break;
      }
      const std::string label = choice.empty() ? name : begins(choice, name) ? choice : name + " " + choice;
      if (!run(name, cases, pack, reference, options, label, &totals)) {
        std::printf("the device cannot be used any more; the other cases did not run\n");
        std::_Exit(1);  // without the destructors, which would call the device
      }
    }
  }
  std::printf("%d passed, %d failed, %d skipped", totals.passed, totals.failed, totals.skipped);
  if (totals.missing_operators > 0) std::printf(" (%d operators that the pack lacks)", totals.missing_operators);
  std::printf("\n");
  return totals.failed == 0 ? 0 : 1;
}

/** Lists the table of versions; 1 where no case would run some of them. */
int list_rungs(const Options& options) {
  const std::vector<Case> cases = all_cases(options);
  int status = 0;
  for (const Rung& rung : kRungs) {
    const auto count =
        std::count_if(cases.begin(), cases.end(), [&](const Case& c) { return rung_concerns(rung.name, c.operator_name); });
    std::printf("%-28s %d versions, %d runs, %td cases\n", rung.name, rung.rungs, rung.chosen, count);
    if (count == 0) status = 1;
  }
  return status;
}

int usage(const std::string& wrong) {
  std::fprintf(stderr,
               "cuda_parity: %s\n"
               "usage: cuda_parity PACK REFERENCE [--operator NAME]... [--every-rung] [--small] [--no-guards] [--seed N]\n"
               "                   [--shard I/N] [--list]\n"
               "       cuda_parity --rungs\n",
               wrong.c_str());
  return 2;
}

/** Fills `arguments`; the text of what is wrong, or "". */
std::string parse(int argc, char** argv, Arguments* arguments) {
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const bool has_value = i + 1 < argc;
    if (argument == "--small") {
      arguments->options.small = true;
    } else if (argument == "--no-guards") {
      arguments->options.guards = false;
    } else if (argument == "--every-rung") {
      arguments->every_rung = true;
    } else if (argument == "--list") {
      arguments->list = true;
    } else if (argument == "--rungs") {
      arguments->rungs = true;
    } else if (argument == "--operator" && has_value) {
      arguments->only.emplace_back(argv[++i]);
    } else if (argument == "--seed" && has_value) {
      char* end = nullptr;
      arguments->options.seed = std::strtoull(argv[++i], &end, 10);
      if (*end != '\0') return "--seed takes a number";
    } else if (argument == "--shard" && has_value) {
      if (std::sscanf(argv[++i], "%u/%u", &arguments->shard, &arguments->shards) != 2 || arguments->shard >= arguments->shards)
        return "--shard takes I/N with I below N";
    } else if (begins(argument, "-")) {
      return "unknown option, or one without its value: " + argument;
    } else {
      arguments->packs.push_back(std::filesystem::absolute(argument));  // a bare name would be searched on the library path
    }
  }
  return arguments->rungs || arguments->packs.size() == 2 ? "" : "expected the files of two packs";
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  const std::string wrong = parse(argc, argv, &arguments);
  if (!wrong.empty()) return usage(wrong);
  try {
    return arguments.rungs ? list_rungs(arguments.options) : parity(arguments);
  } catch (const Failure& failure) {
    std::fprintf(stderr, "cuda_parity: %s\n", failure.what());
    return 2;
  }
}
