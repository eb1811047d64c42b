// Drives attention under the sanitizers: ragged batches, windows, sinks, half types, prefills, long contexts whose spans
// are shared out, and many callers at once. Everything lies in vectors of exactly its size, and what no row may see is
// NaN.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <thread>
#include <vector>

#include "attention_job.h"
#include "isa.h"
#include "pool.h"

using namespace helix;

namespace {

struct Sizes {
  std::vector<int32_t> lengths;  // positions before the rows, by sequence
  int64_t kv_heads, group, rows, key_dim, value_dim, page_size;
};

// Keys of zero weigh all positions alike, so a row yields the mean of the values it sees.
class Case {
 public:
  explicit Case(Sizes sizes) : s_(std::move(sizes)) {
    const int64_t batch = s_.lengths.size();
    for (int32_t n : s_.lengths) {
      committed_.push_back(n / s_.page_size * s_.page_size);
      slots_ = std::max(slots_, n + s_.rows - committed_.back());
      width_ = std::max<int64_t>(width_, committed_.back() / s_.page_size + 1);
    }
    table_.resize(batch * width_);
    int32_t pages = 1;
    for (int64_t b = 0; b < batch; b++)
      for (int64_t w = 0; w < committed_[b] / s_.page_size; w++) table_[b * width_ + w] = pages++;
    queries_.assign(batch * s_.kv_heads * s_.group * s_.rows * s_.key_dim, 0.5f);
    fill(pages_[0], pages * s_.page_size, s_.key_dim);
    fill(pages_[1], pages * s_.page_size, s_.value_dim);
    fill(tails_[0], batch * slots_, s_.key_dim);
    fill(tails_[1], batch * slots_, s_.value_dim);
    for (int64_t b = 0; b < batch; b++)
      for (int64_t p = 0; p < s_.lengths[b] + s_.rows; p++) place(b, p);
    sinks_.assign(s_.kv_heads * s_.group, 0.0f);
  }

  AttentionJob job(std::vector<float>& out, bool with_sinks, int64_t window) const {
    const int64_t heads = s_.kv_heads * s_.group;
    out.assign(s_.lengths.size() * s_.rows * heads * s_.value_dim, -1.0f);
    AttentionJob job{};
    job.queries = {queries_.data(), {heads * s_.rows * s_.key_dim, s_.rows * s_.key_dim, s_.key_dim, 1}};
    job.key_pages = rows_of(pages_[0], s_.page_size, s_.key_dim);
    job.value_pages = rows_of(pages_[1], s_.page_size, s_.value_dim);
    job.key_tail = rows_of(tails_[0], slots_, s_.key_dim);
    job.value_tail = rows_of(tails_[1], slots_, s_.value_dim);
    job.table = table_.data();
    job.committed = committed_.data();
    job.lengths = s_.lengths.data();
    job.sinks = with_sinks ? sinks_.data() : nullptr;
    job.out = out.data();
    job.type = Scalar::float32;
    job.batch = s_.lengths.size();
    job.kv_heads = s_.kv_heads;
    job.group = s_.group;
    job.rows = s_.rows;
    job.key_dim = s_.key_dim;
    job.value_dim = s_.value_dim;
    job.page_size = s_.page_size;
    job.table_width = width_;
    job.slots = slots_;
    job.window = window;
    job.scale = 0.125f;
    return job;
  }

  void check(const std::vector<float>& out, bool with_sinks, int64_t window) const {
    const int64_t heads = s_.kv_heads * s_.group;
    for (size_t i = 0; i < out.size(); i++) {
      const int64_t row = i / s_.value_dim / heads;
      const int64_t last = s_.lengths[row / s_.rows] + row % s_.rows, first = std::max<int64_t>(0, last - window + 1);
      double sum = 0;
      for (int64_t p = first; p <= last; p++) sum += value(p);
      const double expected = sum / (last - first + 1 + with_sinks);
      if (!(std::abs(out[i] - expected) < 1e-4)) {
        std::fprintf(stderr, "attention is wrong: %g instead of %g\n", out[i], expected);
        std::_Exit(1);
      }
    }
  }

 private:
  static float value(int64_t position) { return static_cast<float>(position % 7); }

  Strided rows_of(const std::vector<float>& data, int64_t each, int64_t dim) const {
    return {data.data(), {each * s_.kv_heads * dim, s_.kv_heads * dim, dim, 1}};
  }

  void fill(std::vector<float>& data, int64_t positions, int64_t dim) {
    data.assign(positions * s_.kv_heads * dim, std::numeric_limits<float>::quiet_NaN());
  }

  void place(int64_t b, int64_t p) {
    const bool paged = p < committed_[b];
    const int64_t at = paged ? table_[b * width_ + p / s_.page_size] * s_.page_size + p % s_.page_size
                             : b * slots_ + p - committed_[b];
    std::vector<float>*held = paged ? pages_ : tails_;
    for (int64_t i = 0; i < s_.kv_heads * s_.key_dim; i++) held[0][at * s_.kv_heads * s_.key_dim + i] = 0.0f;
    for (int64_t i = 0; i < s_.kv_heads * s_.value_dim; i++) held[1][at * s_.kv_heads * s_.value_dim + i] = value(p);
  }

  const Sizes s_;
  int64_t slots_ = 0, width_ = 0;
  std::vector<int32_t> table_, committed_;
  std::vector<float> queries_, pages_[2], tails_[2], sinks_;
};

void check(const Sizes& sizes) {
  const Case c(sizes);
  std::vector<float> out;
  for (bool with_sinks : {false, true})
    for (int64_t window : {int64_t{1} << 31, int64_t{9}, int64_t{300}}) {
      attend(c.job(out, with_sinks, window));
      c.check(out, with_sinks, window);
    }
}

// The numbers mean nothing here: only which bytes are read and written.
void half_types() {
  const Case c({{37, 4}, 2, 2, 3, 8, 24, 4});
  std::vector<float> out;
  for (Scalar type : {Scalar::float16, Scalar::bfloat16}) {
    AttentionJob job = c.job(out, false, 1 << 20);
    job.type = type;
    attend(job);
  }
}

}  // namespace

void sanitize_attention() {
  for (const char* form : {"portable", "avx2", "avx512", "neon"}) {
    if (!set_isa(form)) continue;
    for (int64_t rows : {1, 2, 5, 8}) check({{300, 0, 15, 256}, 2, 3, rows, 8, 24, 4});
    check({{511}, 1, 8, 5, 64, 64, 16});
    check({{100}, 2, 4, 70, 16, 16, 8});
    half_types();
  }
  set_isa("auto");
  for (int threads : {1, 2, 4}) {
    set_threads(threads);
    check({{1500}, 1, 8, 4, 64, 64, 16});
    check({{1500, 700}, 4, 8, 4, 32, 32, 16});
  }
  const Case c({{1500}, 1, 8, 4, 64, 64, 16});
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; i++)
    callers.emplace_back([&] {
      std::vector<float> out;
      for (int j = 0; j < 20; j++) {
        attend(c.job(out, false, 1000));
        c.check(out, false, 1000);
      }
    });
  for (std::thread& caller : callers) caller.join();
  set_threads(0);
}
