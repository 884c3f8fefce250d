// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The instrument of cuda_parity: what lies outside a tensor is watched, and differences are measured by the error model. */
#include <cmath>
#include <cstring>
#include <string>

#include "expect.h"
#include "harness.h"

namespace {

using namespace q4j::parity;

/** The text of the Failure that `work` throws, or "". */
template <typename Work>
std::string failure_of(const Work& work) {
  try {
    work();
  } catch (const Failure& failure) {
    return failure.what();
  }
  return "";
}

bool holds(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

Output output(const std::vector<float>& values, const Tolerance& tolerance) {
  return {"y", Q4J_F32, 2, bytes_of(values), tolerance};
}

void bytes_outside_are_watched(const Context& context) {
  for (const Layout layout : {Layout{5, 0}, Layout{5, 1}, Layout{3, 1}}) {
    const Tensor tensor(context, Q4J_BF16, 4, 3, layout, true);
    auto* const first = static_cast<unsigned char*>(tensor.data());
    EXPECT(failure_of([&] { tensor.check(); }).empty());
    const int64_t end = (3 * tensor.ld() + 3) * 2;
    for (const int64_t outside : {int64_t{-1}, end, int64_t{6}}) {
      if (outside == 6 && tensor.ld() == 3) continue;  // no gap between rows
      const unsigned char before = first[outside];
      first[outside] = 0;
      EXPECT(holds(failure_of([&] { tensor.check(); }), outside < 0      ? "1 bytes before the start"
                                                        : outside == end ? "after the end"
                                                                         : "between the rows"));
      first[outside] = before;
    }
    EXPECT(failure_of([&] { tensor.check(); }).empty());
  }
}

void elements_arrive_rounded_and_without_gaps(const Context& context) {
  Tensor tensor(context, Q4J_BF16, 2, 2, {7, 1}, true);
  EXPECT(reinterpret_cast<uintptr_t>(tensor.data()) % 4 == 2);
  // 1 + 2^-8 lies between two bf16 values and goes to the even one, 1 + 3 * 2^-8 up to 1 + 2^-6.
  tensor.put(narrow({1.0f + 0x1p-8f, 1.0f + 3 * 0x1p-8f, -0.0f, INFINITY}, Q4J_BF16));
  EXPECT(tensor.get() == bytes_of(std::vector<uint16_t>{0x3f80, 0x3f82, 0x8000, 0x7f80}));
  float start = 0;
  const std::vector<uint8_t> untouched = Tensor(context, Q4J_F32, 1, 1, {}, true).get();
  std::memcpy(&start, untouched.data(), 4);
  EXPECT(std::isnan(start));
}

void differences_are_measured() {
  const Tolerance twice = Tolerance::rounded(Q4J_BF16, 1) + Tolerance::of_largest(0x1p-8, "half a step of the largest");
  // Allowed at 1: 2^-7 + 4 * 2^-8.
  Comparison c = Comparison::of(output({1, 2, 4, -1}, twice), output({1, 2, 4, -1 - 0x1p-8f}, twice));
  EXPECT(c.failures == 0 && c.worst == 3 && std::fabs(c.share - 1.0 / 6) < 1e-9);
  EXPECT(holds(c.where, "y[1, 1] expected -1 found -1.00390625"));
  c = Comparison::of(output({1, 2, 4, -1}, twice), output({1.1f, 2, 4, -1}, twice));
  EXPECT(c.failures == 1 && c.worst == 0);
  const Tolerance any = Tolerance::of_largest(1e30, "anything finite");
  EXPECT(Comparison::of(output({NAN, 1}, any), output({1, 1}, any)).failures == 1);
  EXPECT(Comparison::of(output({1, 1}, any), output({NAN, 1}, any)).failures == 1);
  EXPECT(Comparison::of(output({INFINITY, 1}, any), output({-INFINITY, 1}, any)).failures == 1);
  EXPECT(Comparison::of(output({NAN, INFINITY}, any), output({NAN, INFINITY}, any)).failures == 0);
  EXPECT(Comparison::of(output({0.0f}, Tolerance::exact()), output({-0.0f}, Tolerance::exact())).failures == 0);
  EXPECT(Comparison::of(output({0.0f}, Tolerance::bits()), output({-0.0f}, Tolerance::bits())).failures == 1);
  EXPECT(Tolerance::sum(4).of_terms(10).allowed(0, 0) == 10 * 8 * 2 * 0x1p-24);
}

void a_case_that_leaves_its_tensor_fails(const Context& reference) {
  const auto writes = [](int64_t at) {
    return Case{"adamw", "a case of this test", [at](Run& run) {
                  const Tensor& tensor = run.output(Q4J_F32, 1, 4);
                  require(q4j_fill(run.context(), static_cast<float*>(tensor.data()) + at, 0, 4), "fill");
                }};
  };
  EXPECT(check(writes(3), reference, reference, {}).kind == Verdict::kPassed);
  const Verdict verdict = check(writes(4), reference, reference, {});
  EXPECT(verdict.kind == Verdict::kFailed && holds(verdict.detail, "after the end of a tensor of 16 bytes"));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const Context reference(argv[1]);
  bytes_outside_are_watched(reference);
  elements_arrive_rounded_and_without_gaps(reference);
  differences_are_measured();
  a_case_that_leaves_its_tensor_fails(reference);
  return q4j::test::finish("parity_harness");
}
