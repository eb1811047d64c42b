#include "attention.h"

#include <nanobind/stl/optional.h>

#include <limits>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "attention_job.h"
#include "mlx/array.h"
#include "mlx/ops.h"
#include "mlx/utils.h"
#include "operands.h"
#include "primitive.h"

namespace nb = nanobind;
namespace mx = mlx::core;
using namespace nb::literals;

namespace helix {
namespace {

constexpr int kNoWindow = std::numeric_limits<int>::max();

Strided strided(const mx::array& a) {
  return {a.data<void>(), {a.strides(0), a.strides(1), a.strides(2), a.strides(3)}};
}

// Pages lie head by head, and are read position by position as tails are.
Strided by_position(const mx::array& pages) {
  return {pages.data<void>(), {pages.strides(0), pages.strides(2), pages.strides(1), pages.strides(3)}};
}

// Inputs: queries, pages of keys and of values, block table, committed, tail of keys and of values, lengths, sinks.
class PagedAttention : public CpuPrimitive {
 public:
  PagedAttention(mx::Stream stream, float scale, int window) : CpuPrimitive(stream), scale_(scale), window_(window) {}

  void eval_cpu(const std::vector<mx::array>& in, mx::array& out) override {
    allocate_by_rows(out);
    const AttentionJob job = job_of(in, out.data<void>());
    encoder_for(in, out).dispatch([job] { attend(job); });
  }

  const char* name() const override { return "HelixPagedAttention"; }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& same = static_cast<const PagedAttention&>(other);
    return scale_ == same.scale_ && window_ == same.window_;
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& in) override {
    mx::Shape shape = in[0].shape();
    shape.back() = in[2].shape(-1);
    return {shape};
  }

 private:
  AttentionJob job_of(const std::vector<mx::array>& in, void* out) const {
    const mx::array &queries = in[0], &pages = in[1], &tail = in[5];
    AttentionJob job{};
    job.queries = strided(queries);
    job.key_pages = by_position(pages);
    job.value_pages = by_position(in[2]);
    job.key_tail = strided(tail);
    job.value_tail = strided(in[6]);
    job.table = in[3].data<int32_t>();
    job.committed = in[4].data<int32_t>();
    job.lengths = in[7].data<int32_t>();
    job.sinks = in.size() > 8 ? in[8].data<float>() : nullptr;
    job.out = out;
    job.type = scalar_of(queries);
    job.batch = queries.shape(0);
    job.kv_heads = pages.shape(1);
    job.group = queries.shape(1) / job.kv_heads;
    job.rows = queries.shape(2);
    job.key_dim = queries.shape(3);
    job.value_dim = in[2].shape(3);
    job.page_size = pages.shape(2);
    job.table_width = in[3].shape(1);
    job.slots = tail.shape(1);
    job.window = window_;
    job.scale = scale_;
    return job;
  }

  float scale_;
  int window_;
};

using Pair = std::pair<mx::array, mx::array>;

void check_shapes(const mx::array& queries, const Pair& pages, const Pair& tail) {
  scalar_of(queries);
  check(queries.ndim() == 4, "the queries have to be [batch, heads, rows, dim]");
  for (const auto& [pair, head_axis] : {std::pair{&pages, 1}, std::pair{&tail, 2}}) {
    const mx::array &keys = pair->first, &values = pair->second;
    check(keys.ndim() == 4 && values.ndim() == 4, "pages and tail need four axes");
    check(keys.dtype() == queries.dtype() && values.dtype() == queries.dtype(), "the types differ");
    for (int axis = 0; axis < 3; axis++) check(keys.shape(axis) == values.shape(axis), "keys and values differ");
    const int heads = keys.shape(head_axis);
    check(heads > 0 && queries.shape(1) % heads == 0, "the heads do not fit each other");
    check(keys.shape(3) == queries.shape(3) && keys.shape(3) > 0, "queries and keys differ in their last axis");
  }
  check(pages.first.shape(1) == tail.first.shape(2), "pages and tail differ in their heads");
  check(pages.second.shape(3) == tail.second.shape(3), "pages and tail differ in their last axis");
  check(tail.first.shape(0) == queries.shape(0), "there has to be a tail a sequence");
}

// Integers [batch, ...] in their own order: they may come as a slice.
mx::array integers(const mx::array& a, int batch, size_t axes, mx::Stream stream) {
  check(a.ndim() == axes && a.shape(0) == batch, "block table, committed and lengths need an entry a sequence");
  const mx::array whole = mx::astype(a, mx::int32, stream);
  const bool dense = whole.is_available() && whole.flags().row_contiguous;
  return dense ? whole : mx::contiguous(whole, false, stream);
}

mx::array paged_attention(const mx::array& queries, const Pair& pages, const mx::array& block_table,
                          const mx::array& committed, const Pair& tail, const mx::array& lengths, float scale,
                          std::optional<int> window, const std::optional<mx::array>& sinks) {
  check_shapes(queries, pages, tail);
  check(!window || *window > 0, "the window has to be at least one position");
  const mx::Stream stream = mx::to_stream({}, mx::Device::cpu);
  const int batch = queries.shape(0);
  std::vector<mx::array> inputs = {
      queries, pages.first, pages.second, integers(block_table, batch, 2, stream), integers(committed, batch, 1, stream),
      tail.first, tail.second, integers(lengths, batch, 1, stream)};
  if (sinks) {
    check(sinks->ndim() == 1 && sinks->shape(0) == queries.shape(1), "there has to be a sink a query head");
    inputs.push_back(mx::contiguous(mx::astype(*sinks, mx::float32, stream), false, stream));
  }
  mx::Shape shape = queries.shape();
  shape.back() = pages.second.shape(3);
  return mx::array(
      shape, queries.dtype(), std::make_shared<PagedAttention>(stream, scale, window.value_or(kNoWindow)),
      std::move(inputs));
}

}  // namespace

void bind_attention(nb::module_& module) {
  module.def(
      "paged_attention",
      [](const mx::array& queries, const mx::array& key_pages, const mx::array& value_pages,
         const mx::array& block_table, const mx::array& committed, const mx::array& key_tail,
         const mx::array& value_tail, const mx::array& lengths, float scale, std::optional<int> window,
         const std::optional<mx::array>& sinks) {
        return paged_attention(
            queries, {key_pages, value_pages}, block_table, committed, {key_tail, value_tail}, lengths, scale, window,
            sinks);
      },
      "queries"_a, "key_pages"_a, "value_pages"_a, "block_table"_a, "committed"_a, "key_tail"_a, "value_tail"_a,
      "lengths"_a, "scale"_a, "window"_a = nb::none(), "sinks"_a = nb::none());
}

}  // namespace helix
