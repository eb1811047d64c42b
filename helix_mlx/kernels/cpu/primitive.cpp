#include "primitive.h"

#include <stdexcept>

#include "mlx/allocator.h"

namespace mx = mlx::core;

namespace helix {

void CpuPrimitive::eval_gpu(const std::vector<mx::array>&, mx::array&) {
  throw std::runtime_error("Helix's CPU kernels run on the CPU only");
}

mx::cpu::CommandEncoder& CpuPrimitive::encoder_for(const std::vector<mx::array>& inputs, mx::array& out) {
  auto& encoder = mx::cpu::get_command_encoder(stream());
  for (const mx::array& input : inputs) encoder.set_input_array(input);
  encoder.set_output_array(out);
  return encoder;
}

bool QuantizedPrimitive::is_equivalent(const mx::Primitive& other) const {
  const auto& same = static_cast<const QuantizedPrimitive&>(other);
  return group_ == same.group_ && bits_ == same.bits_;
}

Weights QuantizedPrimitive::weights(const std::vector<mx::array>& inputs) const {
  return {inputs[1].data<uint32_t>(), inputs[2].data<float>(), inputs[3].data<float>(), inputs[1].shape(-2),
          int64_t{inputs[2].shape(-1)} * group_, group_, bits_};
}

void allocate_dense(mx::array& out) { out.set_data(mx::allocator::malloc(out.nbytes())); }

void allocate_by_rows(mx::array& out) {
  const int64_t heads = out.shape(1), rows = out.shape(2), dim = out.shape(3);
  auto flags = out.flags();
  flags.contiguous = true;
  flags.row_contiguous = heads == 1 || rows == 1;
  flags.col_contiguous = false;
  out.set_data(mx::allocator::malloc(out.nbytes()), out.size(), {rows * heads * dim, dim, heads * dim, 1}, flags);
}

}  // namespace helix
