#include "rope.h"

#include <nanobind/stl/variant.h>

#include <algorithm>
#include <memory>
#include <variant>
#include <vector>

#include "mlx/array.h"
#include "mlx/ops.h"
#include "mlx/utils.h"
#include "operands.h"
#include "primitive.h"
#include "rope_job.h"

namespace nb = nanobind;
namespace mx = mlx::core;
using namespace nb::literals;

namespace helix {
namespace {

// Inputs: x [batch, heads, rows, dim], offsets [1] or [batch], frequencies [turned / 2].
class Rope : public CpuPrimitive {
 public:
  Rope(mx::Stream stream, bool traditional, float scale)
      : CpuPrimitive(stream), traditional_(traditional), scale_(scale) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    allocate_by_rows(out);
    const mx::array& x = inputs[0];
    RopeJob job{};
    job.x = x.data<void>();
    std::copy(x.strides().begin(), x.strides().end(), job.strides);
    job.batch = x.shape(0);
    job.heads = x.shape(1);
    job.rows = x.shape(2);
    job.dim = x.shape(3);
    job.y = out.data<void>();
    job.offsets = inputs[1].data<int32_t>();
    job.offset_each = inputs[1].size() > 1;
    job.frequencies = inputs[2].data<float>();
    job.turned = 2 * static_cast<int64_t>(inputs[2].size());
    job.traditional = traditional_;
    job.scale = scale_;
    job.type = scalar_of(x);
    encoder_for(inputs, out).dispatch([job] { rope(job); });
  }

  const char* name() const override { return "HelixRope"; }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& same = static_cast<const Rope&>(other);
    return traditional_ == same.traditional_ && scale_ == same.scale_;
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override { return {inputs[0].shape()}; }

 private:
  bool traditional_;
  float scale_;
};

using Offset = std::variant<int, mx::array>;

mx::array offsets_of(const Offset& offset, int batch, mx::Stream stream) {
  if (const int* one = std::get_if<int>(&offset)) return mx::array({*one}, mx::int32);
  const mx::array& given = std::get<mx::array>(offset);
  check(given.size() == 1 || (given.ndim() == 1 && given.shape(0) == batch), "there has to be an offset a sequence");
  return dense(mx::astype(given, mx::int32, stream), stream);
}

mx::array rotated(const mx::array& x, const Offset& offset, const mx::array& frequencies, bool traditional, float scale) {
  scalar_of(x);
  check(x.ndim() == 4 && x.size() > 0, "x has to be [batch, heads, rows, dim]");
  check(frequencies.ndim() == 1 && frequencies.dtype() == mx::float32, "the frequencies have to be float32");
  check(2 * frequencies.shape(0) <= x.shape(3), "there are more frequencies than pairs in a row");
  const mx::Stream stream = mx::to_stream({}, mx::Device::cpu);
  return mx::array(
      x.shape(), x.dtype(), std::make_shared<Rope>(stream, traditional, scale),
      {x, offsets_of(offset, x.shape(0), stream), dense(frequencies, stream)});
}

}  // namespace

void bind_rope(nb::module_& module) {
  module.def("rope", &rotated, "x"_a, "offset"_a, "frequencies"_a, "traditional"_a, "scale"_a);
}

}  // namespace helix
