// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Compares the operators of a pack with the reference pack:
 *
 *   cuda_parity PACK REFERENCE [--operator NAME]... [--every-rung] [--small] [--no-guards] [--seed N] [--list]
 *   cuda_parity --rungs
 *
 *   --operator    only this operator; may be given several times
 *   --every-rung  every version of an operator that keeps several, instead of the one that runs
 *   --small       only shapes that compute-sanitizer and AddressSanitizer finish in seconds
 *   --no-guards   for compute-sanitizer: no guard bytes around tensors, nothing in outputs, every case once
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

int parity(const std::string& pack_path, const std::string& reference_path, const std::vector<std::string>& only,
           bool every_rung, bool list, const Options& options) {
  const std::vector<Case> cases = all_cases(options);
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
  if (list) {
    for (const std::string& name : operators) {
      for (const Case& c : cases) {
        if (c.operator_name == name) std::printf("%s\t%s\n", name.c_str(), c.name.c_str());
      }
    }
    return 0;
  }
  const Context reference(reference_path);
  Totals totals;
  {
    const Context pack(pack_path);
    std::printf("%s (%s) against %s, seed %llu%s\n", pack.name().c_str(), q4j_pack_build_info(pack.get()),
                reference.name().c_str(), static_cast<unsigned long long>(options.seed), options.small ? ", small shapes" : "");
  }
  for (const std::string& name : operators) {
    for (const std::string& choice : rung_choices(name, every_rung)) {
      const Context pack(pack_path, every_rung ? choice.c_str() : nullptr);
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

int usage(const char* wrong) {
  std::fprintf(
      stderr,
      "cuda_parity: %s\n"
      "usage: cuda_parity PACK REFERENCE [--operator NAME]... [--every-rung] [--small] [--no-guards] [--seed N] [--list]\n"
      "       cuda_parity --rungs\n",
      wrong);
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  std::vector<std::string> paths;
  std::vector<std::string> only;
  bool every_rung = false;
  bool list = false;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--small") {
      options.small = true;
    } else if (argument == "--no-guards") {
      options.guards = false;
    } else if (argument == "--every-rung") {
      every_rung = true;
    } else if (argument == "--list") {
      list = true;
    } else if (argument == "--rungs") {
      return list_rungs(options);
    } else if (argument == "--operator" && i + 1 < argc) {
      only.emplace_back(argv[++i]);
    } else if (argument == "--seed" && i + 1 < argc) {
      char* end = nullptr;
      options.seed = std::strtoull(argv[++i], &end, 10);
      if (*end != '\0') return usage("--seed takes a number");
    } else if (begins(argument, "-")) {
      return usage(("unknown option, or one without its value: " + argument).c_str());
    } else {
      paths.push_back(std::filesystem::absolute(argument));  // a bare name would be searched on the library path
    }
  }
  if (paths.size() != 2) return usage("expected the files of two packs");
  try {
    return parity(paths[0], paths[1], only, every_rung, list, options);
  } catch (const Failure& failure) {
    std::fprintf(stderr, "cuda_parity: %s\n", failure.what());
    return 2;
  }
}
