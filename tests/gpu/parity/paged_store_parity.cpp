// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The paged store under load: work on pages is submitted without ever waiting, so that on a GPU it runs while pages are on
 * their way. The reference does the same calls one after the other, and every bit of what work saw, and of what the pages hold
 * in the end, must be the same.
 */
#include <algorithm>
#include <cstring>

#include "harness.h"

namespace q4j::parity {
namespace {

/** A store whose calls are one line each. */
class Store {
 public:
  Store(Run& run, int32_t strategy, int64_t pages, int64_t page_bytes, int64_t frames) : run_(run) {
    auto p = params<q4j_paged_store_create_params>();
    // The reference has no managed memory; what a store holds does not depend on how it moves it.
    p.strategy = std::strcmp(q4j_pack_name(run.context()), "reference") == 0 ? Q4J_PAGING_AUTO : strategy;
    p.pages = pages;
    p.page_bytes = page_bytes;
    p.resident_bytes = frames * page_bytes;
    p.store = &store_;
    run.call(q4j_paged_store_create, p);
  }
  ~Store() {
    auto p = params<q4j_paged_store_destroy_params>();
    p.store = store_;
    q4j_paged_store_destroy(run_.context(), &p);
  }
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  void plan(const std::vector<int64_t>& order) {
    auto p = params<q4j_paged_store_plan_params>();
    p.store = store_;
    p.count = static_cast<int64_t>(order.size());
    p.order = order.data();
    run_.call(q4j_paged_store_plan, p);
  }
  void* acquire(int64_t page) {
    void* memory = nullptr;
    auto p = params<q4j_paged_store_acquire_params>();
    p.store = store_;
    p.page = page;
    p.memory = &memory;
    run_.call(q4j_paged_store_acquire, p);
    return memory;
  }
  void release(int64_t page, bool dirty) {
    auto p = params<q4j_paged_store_release_params>();
    p.store = store_;
    p.page = page;
    p.dirty = dirty ? 1 : 0;
    run_.call(q4j_paged_store_release, p);
  }
  void copy(bool to_host, int64_t page, int64_t offset, std::vector<uint8_t>* bytes) {
    auto p = params<q4j_paged_store_copy_params>();
    p.store = store_;
    p.to_host = to_host ? 1 : 0;
    p.page = page;
    p.offset = offset;
    p.bytes = static_cast<int64_t>(bytes->size());
    p.host = bytes->data();
    run_.call(q4j_paged_store_copy, p);
  }
  int64_t misses() {
    int64_t misses = 0;
    auto p = params<q4j_paged_store_statistics_params>();
    p.store = store_;
    p.misses = &misses;
    run_.call(q4j_paged_store_statistics, p);
    return misses;
  }

 private:
  Run& run_;
  void* store_ = nullptr;
};

/** Pages as matrices of f32: work turns some of their rows into codes, or codes into some of their rows. */
struct Work {
  Work(Run& run_of, int64_t rows_of, int64_t cols_of, int64_t readings)
      : run(run_of),
        rows(rows_of),
        cols(cols_of),
        codes(run.input_bytes(Q4J_I8, rows, cols, run.random.bytes(rows * cols))),
        scales(run.input(Q4J_F32, 1, rows, run.random.uniform(rows, 0.1, 100.0))),
        read(run.output(Q4J_I8, readings * rows, cols)),
        read_absmax(run.output(Q4J_F32, readings, rows)) {
    read.put(std::vector<uint8_t>(static_cast<size_t>(readings * rows * cols), 0));
    read_absmax.put(std::vector<uint8_t>(static_cast<size_t>(readings * rows) * sizeof(float), 0));
  }

  static void* at(const void* memory, int64_t bytes) {
    return const_cast<unsigned char*>(static_cast<const unsigned char*>(memory)) + bytes;
  }

  /** Rows of the page from rows of `codes` and scales that belong to others, so that every write is a new one. */
  void write(void* page, int64_t first, int64_t count) {
    const int64_t from = run.random.below(rows - count + 1);
    const int64_t scale = run.random.below(rows - count + 1);
    auto p = params<q4j_dequantize_int8_rowwise_params>();
    p.dtype = Q4J_F32;
    p.rows = count;
    p.cols = cols;
    p.codes = at(codes.data(), from * cols);
    p.row_absmax = at(scales.data(), scale * 4);
    p.output = at(page, first * cols * 4);
    run.call(q4j_dequantize_int8_rowwise, p);
  }

  /** The whole page as codes, kept for the comparison. */
  void look_at(void* page, int64_t reading) {
    auto p = params<q4j_quantize_int8_rowwise_params>();
    p.dtype = Q4J_F32;
    p.rows = rows;
    p.cols = cols;
    p.input = page;
    p.codes = at(read.data(), reading * rows * cols);
    p.row_absmax = at(read_absmax.data(), reading * rows * 4);
    run.call(q4j_quantize_int8_rowwise, p);
  }

  Run& run;
  const int64_t rows;
  const int64_t cols;
  const Tensor& codes;
  const Tensor& scales;
  Tensor& read;
  Tensor& read_absmax;
};

struct Shape {
  int32_t strategy;
  int64_t pages;
  int64_t frames;
  int64_t rows; /* of a page */
  int64_t cols;
};

void compare_pages(Run& run, Store* store, const Shape& shape) {
  const int64_t bytes = shape.rows * shape.cols * 4;
  Tensor& all = run.output(Q4J_U8, shape.pages, bytes);
  std::vector<uint8_t> contents;
  for (int64_t page = 0; page < shape.pages; ++page) {
    std::vector<uint8_t> content(static_cast<size_t>(bytes));
    store->copy(true, page, 0, &content);
    contents.insert(contents.end(), content.begin(), content.end());
  }
  all.put(contents);
  run.compare("pages", all, Tolerance::bits());
}

/** Every page once a round, as an optimizer does: nothing is ever missed, and the next round sees what this one wrote. */
void rounds(Run& run, const Shape& shape, int64_t count) {
  Store store(run, shape.strategy, shape.pages, shape.rows * shape.cols * 4, shape.frames);
  Work work(run, shape.rows, shape.cols, shape.pages * count);
  std::vector<int64_t> order(static_cast<size_t>(shape.pages));
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
  store.plan(order);
  for (int64_t i = 0; i < shape.pages * count; ++i) {
    const int64_t page = i % shape.pages;
    void* memory = store.acquire(page);
    work.look_at(memory, i);
    const int64_t rows = 1 + run.random.below(shape.rows);
    work.write(memory, run.random.below(shape.rows - rows + 1), rows);
    store.release(page, true);
  }
  const bool plans = std::strcmp(q4j_pack_name(run.context()), "reference") != 0;
  run.compare("misses with a plan", plans ? static_cast<double>(store.misses()) : 0.0, Tolerance::exact());
  run.compare("what work saw", work.read, Tolerance::bits());
  run.compare("its absmax", work.read_absmax, Tolerance::bits());
  compare_pages(run, &store, shape);
}

/** Any order, several pages at a time, plans that are kept now and then, copies by the host in between. */
void any_order(Run& run, const Shape& shape, int64_t calls) {
  const int64_t bytes = shape.rows * shape.cols * 4;
  Store store(run, shape.strategy, shape.pages, bytes, shape.frames);
  Work work(run, shape.rows, shape.cols, calls);
  std::vector<int64_t> held;
  std::vector<int64_t> order;
  size_t step = 0;
  for (int64_t call = 0; call < calls; ++call) {
    const int64_t what = run.random.below(100);
    if (what < 5) {
      order.resize(static_cast<size_t>(run.random.below(16)));
      for (int64_t& page : order) page = run.random.below(shape.pages);
      step = 0;
      store.plan(order);
    } else if (what < 12) {
      const int64_t page = run.random.below(shape.pages);
      const int64_t offset = run.random.below(bytes / 4) * 4;
      const int64_t count = run.random.below((bytes - offset) / 4 + 1);
      std::vector<uint8_t> content = bytes_of(run.random.normal(count, 1.0));
      store.copy(false, page, offset, &content);
    } else if (what < 60 && static_cast<int64_t>(held.size()) < shape.frames) {
      const int64_t page = !order.empty() && run.random.below(6) > 0 ? order[step++ % order.size()]  //
                                                                     : run.random.below(shape.pages);
      void* memory = store.acquire(page);
      work.look_at(memory, call);
      held.push_back(page);
      if (run.random.one_in(3)) continue;
      const int64_t rows = 1 + run.random.below(shape.rows);
      work.write(memory, run.random.below(shape.rows - rows + 1), rows);
      store.release(page, true);
      held.pop_back();
    } else if (!held.empty()) {
      const auto which = held.begin() + run.random.below(static_cast<int64_t>(held.size()));
      store.release(*which, false);
      held.erase(which);
    }
  }
  run.compare("what work saw", work.read, Tolerance::bits());
  run.compare("its absmax", work.read_absmax, Tolerance::bits());
  compare_pages(run, &store, shape);
}

/** AdamW over moments in pages against AdamW over moments in memory, on the same pack: not a bit may differ. */
void adamw(Run& run, const Shape& shape, int64_t steps) {
  const int64_t n = shape.rows * shape.cols / 2; /* elements of a page: the first half holds m, the second v */
  const int64_t all = n * shape.pages;
  Store store(run, shape.strategy, shape.pages, n * 8, shape.frames);
  std::vector<int64_t> order(static_cast<size_t>(shape.pages));
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
  store.plan(order);
  const std::vector<float> start = run.random.normal(all, 0.1);
  Tensor& paged = run.input(Q4J_F32, shape.pages, n, start);
  Tensor& resident = run.input(Q4J_F32, shape.pages, n, start);
  Tensor& m = run.input(Q4J_F32, shape.pages, n, std::vector<float>(static_cast<size_t>(all), 0.0f));
  Tensor& v = run.input(Q4J_F32, shape.pages, n, std::vector<float>(static_cast<size_t>(all), 0.0f));
  Tensor& gradient = run.input(Q4J_F32, shape.pages, n, run.random.normal(all, 1.0));
  for (int64_t t = 1; t <= steps; ++t) {
    const float decay = 0.01f;
    const auto step = [&](int64_t at, int64_t length, void* parameter, void* first, void* second) {
      const void* gradients = Work::at(gradient.data(), at * 4);
      auto p = params<q4j_adamw_params>();
      p.count = 1;
      p.t = t;
      p.learning_rate = 1e-3;
      p.beta1 = 0.9;
      p.beta2 = 0.999;
      p.eps = 1e-8;
      p.gradient_scale = 0.5f / static_cast<float>(t);
      p.lengths = &length;
      p.weight_decays = &decay;
      p.parameters = &parameter;
      p.gradients = &gradients;
      p.first_moments = &first;
      p.second_moments = &second;
      run.call(q4j_adamw, p);
    };
    step(0, all, resident.data(), m.data(), v.data());
    for (int64_t page = 0; page < shape.pages; ++page) {
      void* memory = store.acquire(page);
      step(page * n, n, Work::at(paged.data(), page * n * 4), memory, Work::at(memory, n * 4));
      store.release(page, true);
    }
  }
  int64_t different = paged.get() == resident.get() ? 0 : 1;
  const std::vector<uint8_t> first = m.get();
  const std::vector<uint8_t> second = v.get();
  for (int64_t page = 0; page < shape.pages; ++page) {
    std::vector<uint8_t> content(static_cast<size_t>(n * 8));
    store.copy(true, page, 0, &content);
    const auto half = static_cast<ptrdiff_t>(n * 4);
    if (!std::equal(content.begin(), content.begin() + half, first.begin() + page * half)) ++different;
    if (!std::equal(content.begin() + half, content.end(), second.begin() + page * half)) ++different;
  }
  run.compare("differences", static_cast<double>(different), Tolerance::exact());
}

void cases(const Options& options) {
  for (const int32_t strategy : {Q4J_PAGING_COPIES, Q4J_PAGING_MANAGED}) {
    std::vector<Shape> shapes = {{strategy, 1, 1, 4, 64},   {strategy, 3, 2, 8, 48},   {strategy, 7, 3, 5, 64},
                                 {strategy, 12, 6, 16, 64}, {strategy, 11, 9, 3, 128}, {strategy, 20, 10, 4, 64},
                                 {strategy, 6, 6, 8, 64}};
    // Pages that take longer to travel than work takes, and work that is slower than the way.
    if (!options.small) {
      shapes.push_back({strategy, 16, 8, 1024, 2048});
      shapes.push_back({strategy, 24, 3, 64, 512});
    }
    for (const Shape& shape : shapes) {
      const bool large = shape.rows * shape.cols > 100000;
      const bool small = options.small;
      const int64_t calls = large ? 40 : small ? 80 : 200;
      const std::string name =
          text("strategy %d pages %lld frames %lld rows %lld cols %lld", strategy, static_cast<long long>(shape.pages),
               static_cast<long long>(shape.frames), static_cast<long long>(shape.rows), static_cast<long long>(shape.cols));
      register_case("paged_store_plan", "rounds " + name, [=](Run& run) { rounds(run, shape, large || small ? 3 : 6); });
      for (int seed = 0; seed < (large ? 1 : small ? 2 : 4); ++seed) {
        register_case("paged_store_acquire", text("any order %d ", seed) + name,
                      [=](Run& run) { any_order(run, shape, calls); });
      }
      register_case("paged_store_release", "adamw " + name, [=](Run& run) { adamw(run, shape, large ? 3 : 5); });
    }
  }
}

const Family family(&cases);

}  // namespace
}  // namespace q4j::parity
