#include "embedding.h"

#include <memory>
#include <vector>

#include "embedding_job.h"
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

// Inputs: ids, codes, scales, biases.
class Embedding : public QuantizedPrimitive {
 public:
  using QuantizedPrimitive::QuantizedPrimitive;

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    allocate_dense(out);
    encoder_for(inputs, out).dispatch(
        [matrix = weights(inputs), ids = inputs[0].data<int32_t>(), count = static_cast<int64_t>(inputs[0].size()),
         y = out.data<float>()] { embed(matrix, ids, count, y); });
  }

  const char* name() const override { return "HelixEmbedding"; }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    mx::Shape shape = inputs[0].shape();
    shape.push_back(inputs[2].shape(1) * group_);
    return {shape};
  }
};

mx::array embedded(const mx::array& ids, const mx::array& codes, const mx::array& scales, const mx::array& biases,
                   int group, int bits) {
  check(mx::issubdtype(ids.dtype(), mx::integer) && ids.size() > 0, "the ids have to be whole numbers");
  check_matrix(codes, scales, biases, group, bits);
  check(codes.ndim() == 2, "the codes have to be one matrix");
  const mx::Stream stream = mx::to_stream({}, mx::Device::cpu);
  mx::Shape shape = ids.shape();
  shape.push_back(scales.shape(1) * group);
  return mx::array(
      shape, mx::float32, std::make_shared<Embedding>(stream, group, bits),
      {dense(mx::astype(ids, mx::int32, stream), stream), dense(codes, stream), dense(scales, stream),
       dense(biases, stream)});
}

}  // namespace

void bind_embedding(nb::module_& module) {
  module.def("embedding", &embedded, "ids"_a, "codes"_a, "scales"_a, "biases"_a, "group_size"_a, "bits"_a);
}

}  // namespace helix
