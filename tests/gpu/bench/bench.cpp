// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#include "bench.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>

#include "half.h"
#include "qlora4j/pack.h"

namespace q4j::bench {

namespace {

// A chunk of random data that is repeated; an odd number of elements, so that rows differ.
constexpr int64_t kChunk = (int64_t{1} << 22) + 1;
constexpr int64_t kRivalWorkspace = int64_t{64} << 20;

std::vector<Entry*>& entries() {
  static std::vector<Entry*> all;
  return all;
}

/** About normal: the sum of four uniform 16-bit numbers, from one draw. */
float quick_normal(parity::Random& random) {
  const uint64_t bits = random.next();
  const auto sum = static_cast<double>((bits & 0xffffu) + (bits >> 16 & 0xffffu) + (bits >> 32 & 0xffffu) + (bits >> 48));
  return static_cast<float>((sum / 65536.0 - 2.0) * 1.7320508);
}

std::string date() {
  char line[32];
  const std::time_t now = std::time(nullptr);
  std::strftime(line, sizeof line, "%Y-%m-%d", std::gmtime(&now));
  return line;
}

/** A field of a CSV file. */
std::string field(const std::string& value) {
  std::string quoted = "\"";
  for (const char c : value) {
    if (c == '"') quoted += '"';
    quoted += c;
  }
  return quoted + "\"";
}

}  // namespace

Session::Session(const Device& device, bool small) : device_(device), small_(small) {
  const char* reason = nullptr;
  cublaslt_ = cuda::open_cublaslt(&reason);
  if (cublaslt_ == nullptr) note(std::string("no ratios to cuBLASLt: ") + reason);
}

void Session::use(q4j_context* context, const std::string& rung) {
  context_ = context;
  rung_ = rung;
  if (copy_rate_ == 0) measure_copy();
}

void Session::measure_copy() {
  const int64_t bytes = size(int64_t{1} << 30, 1 << 16);
  const MemoryPointer from = random_bytes(bytes);
  const MemoryPointer to = allocate(bytes);
  const double time = seconds([&] { device_.copy(to->at(), from->at(), bytes); });
  copy_rate_ = 2.0 * static_cast<double>(bytes) / time;
  note(text("copy within the device: %.1f GB/s, read and written bytes counted", copy_rate_ * 1e-9));
}

MemoryPointer Session::repeat(const std::vector<uint8_t>& chunk, int64_t bytes) const {
  MemoryPointer memory = allocate(bytes);
  for (int64_t at = 0; at < bytes; at += static_cast<int64_t>(chunk.size())) {
    const int64_t part = std::min(static_cast<int64_t>(chunk.size()), bytes - at);
    require(q4j_copy_in(context_, memory->at(at), chunk.data(), part), "copy_in");
  }
  return memory;
}

MemoryPointer Session::normal(int32_t dtype, int64_t count, double deviation) const {
  parity::Random random(11);
  std::vector<float> values(static_cast<size_t>(std::min(count, kChunk)));
  for (float& value : values) value = quick_normal(random) * static_cast<float>(deviation);
  return repeat(parity::narrow(values, dtype), count * dtype_bytes(dtype));
}

MemoryPointer Session::uniform(int64_t count, double from, double to) const {
  parity::Random random(12);
  return repeat(parity::bytes_of(random.uniform(std::min(count, kChunk), from, to)), count * 4);
}

MemoryPointer Session::random_bytes(int64_t count) const {
  parity::Random random(13);
  std::vector<uint64_t> words(static_cast<size_t>(std::min(count, kChunk) / 8 + 1));
  for (uint64_t& word : words) word = random.next();
  return repeat(parity::bytes_of(words), count);
}

void Session::add(const Row& measured) {
  Row row = measured;
  if (small_) row.what += " (rehearsed, tiny)";
  rows_.push_back({row, rung_});
  std::string line =
      text("%-26s %-46s %-22s %10.1f us", row.operator_name.c_str(), row.what.c_str(), rung_.c_str(), row.seconds * 1e6);
  if (row.operations > 0) line += text(" %8.1f TFLOPS", row.operations / row.seconds * 1e-12);
  if (row.bytes > 0) {
    line += text(" %8.1f GB/s %5.1f %% of copy", row.bytes / row.seconds * 1e-9, 100 * row.bytes / row.seconds / copy_rate_);
  }
  if (row.rival_seconds > 0) line += text("  %.3f x cuBLASLt", row.seconds / row.rival_seconds);
  note(line);
}

void Session::judge(const std::string& goal, double measured, Limit limit, double bound, const char* unit) {
  if (is_ladder()) return;  // goals are for the versions that run
  const bool met = limit == Limit::kAtLeast ? measured >= bound : measured <= bound;
  goals_.push_back({goal, text("%.3f %s", measured, unit), !device_.measures() ? "rehearsed" : met ? "met" : "MISSED"});
}

void Session::cannot_judge(const std::string& goal, const std::string& reason) {
  if (!is_ladder()) goals_.push_back({goal, reason, "not measured"});
}

void Session::note(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

void Session::finish() const {
  int met = 0;
  int missed = 0;
  std::printf("\n%-100s %-28s %s\n", "goal", "measured", "result");
  for (const Goal& goal : goals_) {
    std::printf("%-100s %-28s %s\n", goal.name.c_str(), goal.measured.c_str(), goal.result.c_str());
    met += goal.result == "met" ? 1 : 0;
    missed += goal.result == "MISSED" ? 1 : 0;
  }
  std::printf("%zu rows, %zu goals: %d met, %d missed, %zu not measured\n", rows_.size(), goals_.size(), met, missed,
              goals_.size() - static_cast<size_t>(met + missed));
}

void Session::write_csv(const std::string& path, const std::string& pack_build) const {
  std::FILE* file = std::fopen(path.c_str(), "w");
  if (file == nullptr) throw parity::Failure(Q4J_INVALID_ARGUMENT, "cannot write " + path);
  const std::string machine = field(device_.name()) + "," + field(device_.versions()) + "," + field(pack_build) + "," + date();
  std::fprintf(file,
               "kind,operator,case,rung,microseconds,gb_per_s,share_of_copy,tflops,ratio_to_cublaslt,measured,result,device,"
               "cuda,pack,date\n");
  for (const Measured& m : rows_) {
    const Row& row = m.row;
    const double rate = row.bytes / row.seconds;
    std::fprintf(file, "row,%s,%s,%s,%.3f,", row.operator_name.c_str(), field(row.what).c_str(), m.rung.c_str(),
                 row.seconds * 1e6);
    if (row.bytes > 0) std::fprintf(file, "%.3f,%.4f", rate * 1e-9, rate / copy_rate_);
    std::fprintf(file, row.bytes > 0 ? "," : ",,");
    if (row.operations > 0) std::fprintf(file, "%.3f", row.operations / row.seconds * 1e-12);
    std::fprintf(file, ",");
    if (row.rival_seconds > 0) std::fprintf(file, "%.4f", row.seconds / row.rival_seconds);
    std::fprintf(file, ",,,%s\n", machine.c_str());
  }
  for (const Goal& goal : goals_) {
    std::fprintf(file, "goal,,%s,,,,,,,%s,%s,%s\n", field(goal.name).c_str(), field(goal.measured).c_str(), goal.result.c_str(),
                 machine.c_str());
  }
  std::fclose(file);
}

Entry::Entry(const char* name, Benchmark function, std::vector<std::string> all_goals)
    : operator_name(name), benchmark(function), goals(std::move(all_goals)) {
  entries().push_back(this);
}

std::vector<const Entry*> Entry::all() {
#define Q4J_OPERATOR_NAME(name) #name,
  static const std::vector<std::string> names = {Q4J_FOR_EACH_OPERATOR(Q4J_OPERATOR_NAME)};
#undef Q4J_OPERATOR_NAME
  std::vector<const Entry*> ordered;
  for (const std::string& name : names) {
    for (const Entry* entry : entries()) {
      if (entry->operator_name == name) ordered.push_back(entry);
    }
  }
  return ordered;
}

// ---------------------------------------------------------------- parts of calls

RandomWeight::RandomWeight(const Session& session, int64_t n, int64_t k) : weight_(params<q4j_weight>()) {
  const int64_t blocks = (n * k + 63) / 64;
  const int64_t nested_blocks = (blocks + 255) / 256;
  weight_.format = Q4J_WEIGHT_NF4;
  weight_.dtype = Q4J_BF16;
  weight_.block_size = 64;
  weight_.nested_block_size = 256;
  weight_.nested_offset = 0.05f;
  weight_.rows = n;
  weight_.cols = k;
  weight_.ld = k;
  bytes_ = static_cast<double>((n * k + 1) / 2 + blocks + nested_blocks * 4);
  data_ = session.random_bytes((n * k + 1) / 2);
  absmax_ = session.random_bytes(blocks);
  nested_absmax_ = session.uniform(nested_blocks, 0.01, 0.03);
  weight_.data = data_->at();
  weight_.absmax = absmax_->at();
  weight_.nested_absmax = nested_absmax_->at();
  if (!session.supports("pack_weight")) return;
  int64_t packed_bytes = 0;
  auto p = params<q4j_pack_weight_params>();
  p.weight = &weight_;
  p.packed_bytes = &packed_bytes;
  require(q4j_pack_weight(session.context(), &p), "pack_weight");
  MemoryPointer packed = session.allocate(packed_bytes);
  p.packed = packed->at();
  require(q4j_pack_weight(session.context(), &p), "pack_weight");
  session.device().synchronize();
  weight_.layout = Q4J_LAYOUT_PACKED;
  weight_.data = p.packed;
  weight_.absmax = nullptr;
  weight_.nested_absmax = nullptr;
  data_ = std::move(packed);
  absmax_.reset();
  nested_absmax_.reset();
}

Rival::Rival(const Session& session, int64_t m, int64_t n, int64_t k) : session_(session) {
  if (session.cublaslt() == nullptr || !product_.plan(*session.cublaslt(), m, n, k, k, k, n, kRivalWorkspace)) return;
  x_ = session.normal(Q4J_BF16, m * k, 1.0);
  w_ = session.normal(Q4J_BF16, n * k, 0.02);
  y_ = session.allocate(m * n * 2);
  workspace_ = session.allocate(kRivalWorkspace);
  double least = 0;
  for (int i = 0; i < product_.algorithms(); ++i) {
    bool accepted = true;
    const double time = session.device().seconds(
        [&] {
          accepted = product_.run(i, x_->at(), w_->at(), y_->at(), workspace_->at(), session.device().stream()) && accepted;
        },
        5);
    if (!accepted || (best_ >= 0 && time >= least)) continue;
    least = time;
    best_ = i;
  }
}

void Rival::run() const {
  if (!product_.run(best_, x_->at(), w_->at(), y_->at(), workspace_->at(), session_.device().stream()))
    throw parity::Failure(Q4J_DEVICE_ERROR, "cublasLtMatmul failed");
}

}  // namespace q4j::bench
