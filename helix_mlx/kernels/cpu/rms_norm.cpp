#include "rms_norm.h"

#include <memory>
#include <vector>

#include "mlx/array.h"
#include "mlx/utils.h"
#include "operands.h"
#include "primitive.h"
#include "rms_norm_job.h"

namespace nb = nanobind;
namespace mx = mlx::core;
using namespace nb::literals;

namespace helix {
namespace {

// Inputs: x [..., size], weight [size].
class RmsNorm : public CpuPrimitive {
 public:
  RmsNorm(mx::Stream stream, float eps) : CpuPrimitive(stream), eps_(eps) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    allocate_dense(out);
    const mx::array& x = inputs[0];
    const int64_t size = x.shape(-1);
    const int64_t count = static_cast<int64_t>(x.size()) / size;
    const NormJob norm{
        x.data<void>(), inputs[1].data<void>(), out.data<void>(), count, size, x.strides(-1), nullptr, eps_,
        scalar_of(x)};
    encoder_for(inputs, out).dispatch([norm, starts = row_starts(x)] {
      NormJob placed = norm;
      if (!starts.empty()) placed.starts = starts.data();
      rms_norm(placed);
    });
  }

  const char* name() const override { return "HelixRmsNorm"; }

  bool is_equivalent(const mx::Primitive& other) const override {
    return eps_ == static_cast<const RmsNorm&>(other).eps_;
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override { return {inputs[0].shape()}; }

 private:
  float eps_;
};

mx::array normalised(const mx::array& x, const mx::array& weight, float eps) {
  scalar_of(x);
  check(x.ndim() >= 1 && x.size() > 0, "x has to have rows");
  check(weight.ndim() == 1 && weight.shape(0) == x.shape(-1), "there has to be a weight an element of a row");
  check(weight.dtype() == x.dtype(), "x and weight differ in their types");
  const mx::Stream stream = mx::to_stream({}, mx::Device::cpu);
  return mx::array(x.shape(), x.dtype(), std::make_shared<RmsNorm>(stream, eps), {x, dense(weight, stream)});
}

}  // namespace

void bind_rms_norm(nb::module_& module) { module.def("rms_norm", &normalised, "x"_a, "weight"_a, "eps"_a); }

}  // namespace helix
