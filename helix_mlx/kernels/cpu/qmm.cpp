#include "qmm.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include "pool.h"
#include "qmm_kernel.h"

namespace helix {
namespace {

// Multiplications that are worth a chunk of their own: a few microseconds.
constexpr int64_t kChunkWork = 256 * 1024;

const QmmForm& form() {
  switch (isa()) {
#if defined(__x86_64__)
    case Isa::avx512: return qmm_form_avx512;
    case Isa::avx2: return qmm_form_avx2;
#elif defined(__aarch64__)
    case Isa::neon: return qmm_form_neon;
#endif
    default: return qmm_form_portable;
  }
}

// Neighbouring rows of x that one matrix multiplies, in blocks of `block` rows and chunks of `step` outputs.
struct Segment {
  int64_t first, last, expert, block, step, chunks_before;
};

int64_t bytes(Scalar type) { return type == Scalar::float32 ? 4 : 2; }

// The rows by matrix: `order[i]` is the row that comes i-th.
std::vector<Segment> segments_of(const Weights& weights, const Rows& rows, int most, std::vector<int64_t>& order) {
  for (int64_t i = 0; i < rows.count; i++) order[i] = i;
  const uint32_t* experts = rows.experts;
  if (experts) std::stable_sort(order.begin(), order.end(), [=](int64_t a, int64_t b) { return experts[a] < experts[b]; });
  std::vector<Segment> segments;
  for (int64_t i = 0; i < rows.count; i++) {
    const int64_t expert = experts ? experts[order[i]] : 0;
    if (segments.empty() || segments.back().expert != expert) segments.push_back({i, i, expert, 0, 0, 0});
    segments.back().last = i + 1;
  }
  for (Segment& s : segments) {
    const int64_t count = s.last - s.first, blocks = (count + most - 1) / most;
    s.block = (count + blocks - 1) / blocks;
    const int64_t wanted = kChunkWork / (weights.inputs * s.block);
    s.step = std::clamp<int64_t>(wanted / kTileStep * kTileStep, kTileStep, kMostStep);
  }
  return segments;
}

Weights expert_of(const Weights& all, int64_t expert) {
  Weights one = all;
  const int64_t rows = expert * all.outputs;
  one.codes += rows * (all.inputs * all.bits / 32);
  one.scales += rows * (all.inputs / all.group);
  one.biases += rows * (all.inputs / all.group);
  return one;
}

class Product {
 public:
  Product(const Weights& weights, const Rows& rows)
      : weights_(weights),
        rows_(rows),
        form_(form()),
        room_(form_.room(weights)),
        order_(rows.count),
        segments_(segments_of(weights, rows, form_.rows, order_)) {}

  void run() {
    const size_t size = sizeof(float) * rows_.count * room_;
    arranged_.reset(static_cast<float*>(::operator new(size, std::align_val_t(64))));
    int64_t chunks = 0;
    for (Segment& s : segments_) {
      arrange(s);
      s.chunks_before = chunks;
      chunks += (weights_.outputs + s.step - 1) / s.step;
    }
    if (rows_.count * weights_.outputs * weights_.inputs <= 2 * kChunkWork)
      for (int64_t c = 0; c < chunks; c++) multiply(c);
    else
      parallel_for(static_cast<int>(chunks), [this](int c) { multiply(c); });
  }

 private:
  struct Free {
    void operator()(float* p) const { ::operator delete(p, std::align_val_t(64)); }
  };

  void arrange(const Segment& s) {
    for (int64_t i = s.first; i < s.last; i++) {
      const int64_t before = (i - s.first) % s.block, block = i - before;
      const int rows = static_cast<int>(std::min(s.block, s.last - block));
      const int64_t start = rows_.starts ? rows_.starts[order_[i]] : order_[i] * weights_.inputs;
      const char* x = static_cast<const char*>(rows_.x) + start * bytes(rows_.type);
      float* to = arranged_.get() + block * room_;
      form_.arrange(weights_, x, rows_.type, rows_.stride, to, static_cast<int>(before), rows);
    }
  }

  void multiply(int64_t chunk) {
    auto after = std::upper_bound(segments_.begin(), segments_.end(), chunk, [](int64_t c, const Segment& s) {
      return c < s.chunks_before;
    });
    const Segment& s = *(after - 1);
    const int64_t first = (chunk - s.chunks_before) * s.step, last = std::min(first + s.step, weights_.outputs);
    const Weights weights = expert_of(weights_, s.expert);
    for (int64_t i = s.first; i < s.last; i += s.block)
      multiply_block(weights, i, static_cast<int>(std::min(s.block, s.last - i)), first, last);
  }

  void multiply_block(const Weights& weights, int64_t i, int count, int64_t first, int64_t last) {
    const float* x = arranged_.get() + i * room_;
    float* y[kMostRows];
    if (rows_.type == Scalar::float32) {
      for (int m = 0; m < count; m++) y[m] = static_cast<float*>(rows_.y) + order_[i + m] * weights.outputs + first;
      form_.multiply(weights, x, count, y, first, last);
      return;
    }
    float whole[kMostRows][kMostStep];
    for (int m = 0; m < count; m++) y[m] = whole[m];
    form_.multiply(weights, x, count, y, first, last);
    for (int m = 0; m < count; m++) {
      const int64_t at = order_[i + m] * weights.outputs + first;
      form_.store(whole[m], last - first, rows_.type, static_cast<char*>(rows_.y) + at * bytes(rows_.type));
    }
  }

  const Weights weights_;
  const Rows rows_;
  const QmmForm& form_;
  const int64_t room_;
  std::vector<int64_t> order_;
  std::vector<Segment> segments_;
  std::unique_ptr<float[], Free> arranged_;
};

}  // namespace

void quantized_matmul(const Weights& weights, const Rows& rows) {
  if (rows.count > 0 && weights.outputs > 0) Product(weights, rows).run();
}

}  // namespace helix
