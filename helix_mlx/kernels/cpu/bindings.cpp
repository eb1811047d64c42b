// The Python module: the product as an MLX primitive, the settings, and the versions this was compiled for.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>

#include <memory>
#include <vector>

#include "attention.h"
#include "embedding.h"
#include "isa.h"
#include "mlx/array.h"
#include "mlx/ops.h"
#include "mlx/utils.h"
#include "mlx/version.h"
#include "operands.h"
#include "pool.h"
#include "primitive.h"
#include "qmm.h"
#include "rms_norm.h"
#include "rope.h"
#include "scan.h"

namespace nb = nanobind;
namespace mx = mlx::core;
using namespace nb::literals;

namespace helix {
namespace {

// Inputs: x [..., K], codes, scales, biases, and for expert matrices the index of each row's matrix.
class QuantizedMatmul : public QuantizedPrimitive {
 public:
  using QuantizedPrimitive::QuantizedPrimitive;

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    allocate_dense(out);
    const mx::array& x = inputs[0];
    const Rows rows{
        x.data<void>(), out.data<void>(), scalar_of(x), static_cast<int64_t>(x.size() / x.shape(-1)), nullptr,
        x.strides(-1), inputs.size() > 4 ? inputs[4].data<uint32_t>() : nullptr};
    encoder_for(inputs, out).dispatch([matrix = weights(inputs), rows, starts = row_starts(x)]() mutable {
      Rows placed = rows;
      if (!starts.empty()) placed.starts = starts.data();
      quantized_matmul(matrix, placed);
    });
  }

  const char* name() const override { return "HelixQuantizedMatmul"; }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    mx::Shape shape = inputs[0].shape();
    shape.back() = inputs[1].shape(-2);
    return {shape};
  }
};

void check_weights(const mx::array& x, const mx::array& codes, const mx::array& scales, const mx::array& biases,
                   int group, int bits) {
  scalar_of(x);
  check_matrix(codes, scales, biases, group, bits);
  check(x.ndim() >= 1 && int64_t{scales.shape(-1)} * group == x.shape(-1), "x and the codes differ in their sizes");
}

mx::array product(const mx::array& x, const mx::array& codes, const mx::array& scales, const mx::array& biases,
                  int group, int bits) {
  check_weights(x, codes, scales, biases, group, bits);
  check(codes.ndim() == 2, "the codes have to be one matrix");
  const mx::Stream stream = mx::to_stream({}, mx::Device::cpu);
  mx::Shape shape = x.shape();
  shape.back() = codes.shape(0);
  return mx::array(
      shape, x.dtype(), std::make_shared<QuantizedMatmul>(stream, group, bits),
      {x, dense(codes, stream), dense(scales, stream), dense(biases, stream)});
}

mx::array gathered_product(const mx::array& x, const mx::array& codes, const mx::array& scales, const mx::array& biases,
                           const mx::array& experts, int group, int bits) {
  check_weights(x, codes, scales, biases, group, bits);
  check(codes.ndim() == 3 && x.ndim() >= 2, "the codes have to be a matrix an expert");
  const mx::Stream stream = mx::to_stream({}, mx::Device::cpu);
  const mx::Shape before(x.shape().begin(), x.shape().end() - 2);
  mx::Shape batch = mx::broadcast_shapes(before, experts.shape());
  mx::Shape whole = batch;
  whole.insert(whole.end(), {x.shape(-2), x.shape(-1)});
  mx::Shape each = batch;
  each.push_back(x.shape(-2));
  auto index = mx::astype(mx::expand_dims(mx::broadcast_to(experts, batch, stream), -1, stream), mx::uint32, stream);
  mx::Shape shape = whole;
  shape.back() = codes.shape(-2);
  return mx::array(
      shape, x.dtype(), std::make_shared<QuantizedMatmul>(stream, group, bits),
      {mx::broadcast_to(x, whole, stream), dense(codes, stream), dense(scales, stream), dense(biases, stream),
       mx::contiguous(mx::broadcast_to(index, each, stream), false, stream)});
}

}  // namespace
}  // namespace helix

NB_MODULE(helix_cpu, module) {
  module.attr("mlx_version") = MLX_VERSION_NUMERIC;
  module.def("threads", &helix::threads);
  module.def("set_threads", &helix::set_threads, "count"_a);
  module.def("isa", [] { return helix::isa_name(helix::isa()); });
  module.def("set_isa", [](const std::string& name) { return helix::set_isa(name.c_str()); }, "name"_a);
  module.def(
      "quantized_matmul", &helix::product, "x"_a, "codes"_a, "scales"_a, "biases"_a, "group_size"_a, "bits"_a);
  module.def(
      "gather_qmm", &helix::gathered_product, "x"_a, "codes"_a, "scales"_a, "biases"_a, "experts"_a, "group_size"_a,
      "bits"_a);
  helix::bind_attention(module);
  helix::bind_embedding(module);
  helix::bind_rms_norm(module);
  helix::bind_rope(module);
  helix::bind_scan(module);
}
