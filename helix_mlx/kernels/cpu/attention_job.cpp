#include "attention_job.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "attention_kernel.h"
#include "pool.h"
#include "scalars.h"

namespace helix {
namespace {

// Multiplications that are too few to wake another thread for.
constexpr int64_t kSmallWork = 512 * 1024;

const AttentionForm& form() {
  switch (isa()) {
#if defined(__x86_64__)
    case Isa::avx512: return attention_form_avx512;
    case Isa::avx2: return attention_form_avx2;
#elif defined(__aarch64__)
    case Isa::neon: return attention_form_neon;
#endif
    default: return attention_form_portable;
  }
}

int64_t whole(int64_t count, int64_t of) { return (count + of - 1) / of * of; }

template <class Type>
void widen_type(const void* data, int64_t stride, int64_t count, float* to) {
  const auto* from = static_cast<const typename Type::Stored*>(data);
  for (int64_t i = 0; i < count; i++) to[i] = Type::read(from[i * stride]);
}

template <class Type>
void narrow_type(const float* from, int64_t count, void* data) {
  auto* to = static_cast<typename Type::Stored*>(data);
  for (int64_t i = 0; i < count; i++) to[i] = Type::write(from[i]);
}

int64_t bytes(Scalar type) { return type == Scalar::float32 ? 4 : 2; }

// Copies `count` elements from `offset` on as float32.
void widen(const void* data, Scalar type, int64_t offset, int64_t stride, int64_t count, float* to) {
  const void* from = static_cast<const char*>(data) + offset * bytes(type);
  switch (type) {
    case Scalar::float32: return widen_type<Float>(from, stride, count, to);
    case Scalar::float16: return widen_type<Half>(from, stride, count, to);
    case Scalar::bfloat16: return widen_type<BFloat>(from, stride, count, to);
  }
}

// Copies `count` elements of float32 to `offset`.
void narrow(const float* from, Scalar type, int64_t offset, int64_t count, void* data) {
  void* to = static_cast<char*>(data) + offset * bytes(type);
  switch (type) {
    case Scalar::float32: return narrow_type<Float>(from, count, to);
    case Scalar::float16: return narrow_type<Half>(from, count, to);
    case Scalar::bfloat16: return narrow_type<BFloat>(from, count, to);
  }
}

struct Free {
  void operator()(float* p) const { ::operator delete(p, std::align_val_t(64)); }
};
using Floats = std::unique_ptr<float[], Free>;

Floats floats(int64_t count) {
  return Floats(static_cast<float*>(::operator new(sizeof(float) * count, std::align_val_t(64))));
}

// Keys or values of one head of one sequence, row by position.
class Rows {
 public:
  // `widened` is room for [kSpan, width] floats, and `zeros` a row of them.
  Rows(const AttentionJob& job, const Strided& pages, const Strided& tail, int64_t dim, float* widened,
       const float* zeros)
      : job_(job), pages_(pages), tail_(tail), dim_(dim), width_(whole(dim, kWidth)), widened_(widened), zeros_(zeros),
        dense_(job.type == Scalar::float32 && width_ == dim && pages.strides[3] == 1 && tail.strides[3] == 1) {}

  // Points `rows` to positions [first, last) of a span, and to zeros what is left of the vectors they touch.
  void find(int64_t b, int64_t h, int64_t span, int first, int last, const float** rows) const {
    const int64_t committed = job_.committed[b], start = span * kSpan;
    const int32_t* table = job_.table + b * job_.table_width;
    for (int at = first; at < last;) {
      const int64_t p = start + at;
      const bool paged = p < committed;
      const Strided& from = paged ? pages_ : tail_;
      const int64_t slot = paged ? p % job_.page_size : p - committed;
      const int64_t left = paged ? std::min(job_.page_size - slot, committed - p) : last - at;
      const int end = static_cast<int>(std::min<int64_t>(last, at + left));
      int64_t offset = (paged ? table[p / job_.page_size] : b) * from.strides[0] + slot * from.strides[1] +
          h * from.strides[2];
      for (; at < end; at++, offset += from.strides[1]) rows[at] = row(from, offset, at);
    }
    for (int at = first / kWidth * kWidth; at < first; at++) rows[at] = zeros_;
    for (int at = last; at < whole(last, kWidth); at++) rows[at] = zeros_;
  }

 private:
  const float* row(const Strided& from, int64_t offset, int at) const {
    if (dense_) return static_cast<const float*>(from.data) + offset;
    float* to = widened_ + at * width_;
    widen(from.data, job_.type, offset, from.strides[3], dim_, to);
    std::fill(to + dim_, to + width_, 0.0f);
    return to;
  }

  const AttentionJob& job_;
  const Strided &pages_, &tail_;
  const int64_t dim_, width_;
  float* const widened_;
  const float* const zeros_;
  const bool dense_;
};

// Rows of one sequence that share a head of keys: row r is query head head * group + r % group of row r / group.
struct Item {
  int64_t b, head, row;
  int rows;
  int64_t first_span, spans;
};

// One thread's room for a span, kept from one operation to the next: fresh memory would cost more than the work.
struct Room {
  Floats memory;
  int64_t size = 0;

  float* take(int64_t wanted) {
    if (wanted > size) memory = floats(size = wanted);
    return memory.get();
  }
};

class Attention {
 public:
  explicit Attention(const AttentionJob& job)
      : job_(job), form_(form()), key_width_(whole(job.key_dim, kWidth)), value_width_(whole(job.value_dim, kWidth)) {
    const int64_t rows = job.rows * job.group;
    for (int64_t b = 0; b < job.batch; b++)
      for (int64_t h = 0; h < job.kv_heads; h++)
        for (int64_t row = 0; row < rows; row += kMostQueries) {
          const int count = static_cast<int>(std::min<int64_t>(kMostQueries, rows - row));
          items_.push_back(placed({b, h, row, count, 0, 0}));
        }
  }

  void run() {
    int64_t work = 0, spans = 0;
    for (const Item& item : items_) {
      spans += item.spans;
      work += item.spans * kSpan * item.rows * (key_width_ + value_width_);
    }
    const int count = static_cast<int>(items_.size());
    if (work <= kSmallWork) {
      for (int i = 0; i < count; i++) whole_item(items_[i]);
    } else if (count >= 2 * threads() || spans == count) {
      parallel_for(count, [this](int i) { whole_item(items_[i]); });
    } else {
      by_span(static_cast<int>(spans));
    }
  }

 private:
  // Floats that a partial result of kMostQueries rows takes.
  int64_t partial_size() const { return kMostQueries * (value_width_ + 2); }
  Partial partial(float* at) const { return {at, at + kMostQueries, at + 2 * kMostQueries}; }

  // The positions that a row sees, [first, last).
  std::pair<int64_t, int64_t> sight(const Item& item, int r) const {
    const int64_t at = job_.lengths[item.b] + (item.row + r) / job_.group;
    const int64_t held = job_.committed[item.b] + job_.slots;
    return {std::max<int64_t>(0, at - job_.window + 1), std::min(at + 1, held)};
  }

  Item placed(Item item) const {
    const int64_t first = sight(item, 0).first, last = sight(item, item.rows - 1).second;
    item.first_span = first / kSpan;
    item.spans = std::max<int64_t>(0, (last + kSpan - 1) / kSpan - item.first_span);
    return item;
  }

  void whole_item(const Item& item) const {
    static thread_local Room room;
    float* memory = room.take(2 * partial_size() + span_size());
    const Partial all = partial(memory), next = partial(memory + partial_size());
    begin(item, all);
    for (int64_t s = 0; s < item.spans; s++) {
      span(item, item.first_span + s, memory + 2 * partial_size(), next);
      form_.merge(item.rows, static_cast<int>(value_width_), next, all);
    }
    finish(item, all);
  }

  // Shares out the spans of every item, then merges them as one thread would have.
  void by_span(int spans) const {
    std::vector<std::pair<int, int64_t>> tasks;
    std::vector<int64_t> before;
    for (size_t i = 0; i < items_.size(); i++) {
      before.push_back(static_cast<int64_t>(tasks.size()));
      for (int64_t s = 0; s < items_[i].spans; s++) tasks.push_back({static_cast<int>(i), items_[i].first_span + s});
    }
    const Floats partials = floats(spans * partial_size());
    parallel_for(spans, [&](int t) {
      static thread_local Room room;
      span(items_[tasks[t].first], tasks[t].second, room.take(span_size()), partial(partials.get() + t * partial_size()));
    });
    parallel_for(static_cast<int>(items_.size()), [&](int i) {
      static thread_local Room room;
      const Item& item = items_[i];
      const Partial all = partial(room.take(partial_size()));
      begin(item, all);
      for (int64_t s = 0; s < item.spans; s++) {
        const Partial next = partial(partials.get() + (before[i] + s) * partial_size());
        form_.merge(item.rows, static_cast<int>(value_width_), next, all);
      }
      finish(item, all);
    });
  }

  // Nothing but the sinks, which take part in the softmax and have no values.
  void begin(const Item& item, const Partial& all) const {
    for (int r = 0; r < kMostQueries; r++) {
      const int64_t head = item.head * job_.group + (item.row + r) % job_.group;
      all.most[r] = job_.sinks ? job_.sinks[head] : -std::numeric_limits<float>::infinity();
      all.total[r] = job_.sinks ? 1.0f : 0.0f;
    }
    std::fill(all.values, all.values + item.rows * value_width_, 0.0f);
  }

  int64_t span_size() const {
    return kMostQueries * (key_width_ + kSpan) + key_width_ * kKeyTile + kSpan * (key_width_ + value_width_) +
        std::max(key_width_, value_width_);
  }

  void span(const Item& item, int64_t number, float* memory, const Partial& out) const {
    float* queries = memory;
    float* transposed = queries + kMostQueries * key_width_;
    float* scores = transposed + key_width_ * kKeyTile;
    float* widened_keys = scores + kMostQueries * kSpan;
    float* widened_values = widened_keys + kSpan * key_width_;
    float* zeros = widened_values + kSpan * value_width_;
    std::fill(zeros, zeros + std::max(key_width_, value_width_), 0.0f);
    gather_queries(item, queries);
    int first[kMostQueries], last[kMostQueries];
    int begin = kSpan, end = 0;
    for (int r = 0; r < item.rows; r++) {
      const auto [from, to] = sight(item, r);
      first[r] = static_cast<int>(std::clamp<int64_t>(from - number * kSpan, 0, kSpan));
      last[r] = static_cast<int>(std::clamp<int64_t>(to - number * kSpan, 0, kSpan));
      begin = std::min(begin, first[r]);
      end = std::max(end, last[r]);
    }
    const float* keys[kSpan];
    const float* values[kSpan];
    Rows(job_, job_.key_pages, job_.key_tail, job_.key_dim, widened_keys, zeros)
        .find(item.b, item.head, number, begin, end, keys);
    Rows(job_, job_.value_pages, job_.value_tail, job_.value_dim, widened_values, zeros)
        .find(item.b, item.head, number, begin, end, values);
    form_.span(
        {keys, values, queries, first, last, item.rows, static_cast<int>(key_width_), static_cast<int>(value_width_),
         transposed, scores},
        out);
  }

  void gather_queries(const Item& item, float* to) const {
    const Strided& from = job_.queries;
    for (int r = 0; r < item.rows; r++, to += key_width_) {
      const int64_t i = (item.row + r) / job_.group, head = item.head * job_.group + (item.row + r) % job_.group;
      const int64_t offset = item.b * from.strides[0] + head * from.strides[1] + i * from.strides[2];
      widen(from.data, job_.type, offset, from.strides[3], job_.key_dim, to);
      for (int64_t d = 0; d < job_.key_dim; d++) to[d] *= job_.scale;
      std::fill(to + job_.key_dim, to + key_width_, 0.0f);
    }
  }

  void finish(const Item& item, const Partial& all) const {
    for (int r = 0; r < item.rows; r++) {
      const int64_t i = (item.row + r) / job_.group, head = item.head * job_.group + (item.row + r) % job_.group;
      float* values = all.values + r * value_width_;
      for (int64_t d = 0; d < job_.value_dim; d++) values[d] /= all.total[r];
      const int64_t row = (item.b * job_.rows + i) * job_.kv_heads * job_.group + head;
      narrow(values, job_.type, row * job_.value_dim, job_.value_dim, job_.out);
    }
  }

  const AttentionJob& job_;
  const AttentionForm& form_;
  const int64_t key_width_, value_width_;
  std::vector<Item> items_;
};

}  // namespace

void attend(const AttentionJob& job) {
  if (job.batch > 0 && job.rows > 0) Attention(job).run();
}

}  // namespace helix
