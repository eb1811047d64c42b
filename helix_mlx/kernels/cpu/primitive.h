// What all of the library's MLX primitives are: operations of one output that only a CPU does.
#pragma once

#include <vector>

#include "mlx/array.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/primitives.h"
#include "qmm.h"

namespace helix {

class CpuPrimitive : public mlx::core::UnaryPrimitive {
 public:
  using UnaryPrimitive::UnaryPrimitive;

  void eval_gpu(const std::vector<mlx::core::array>&, mlx::core::array&) override;

 protected:
  // The stream's encoder, told what the work to be dispatched reads and writes. The output's memory is there.
  mlx::core::cpu::CommandEncoder& encoder_for(const std::vector<mlx::core::array>& inputs, mlx::core::array& out);
};

// What works on a quantised matrix, or on one an expert.
class QuantizedPrimitive : public CpuPrimitive {
 public:
  QuantizedPrimitive(mlx::core::Stream stream, int group, int bits)
      : CpuPrimitive(stream), group_(group), bits_(bits) {}

  bool is_equivalent(const mlx::core::Primitive& other) const override;

 protected:
  // The matrix whose codes, scales and biases are the inputs after the first.
  Weights weights(const std::vector<mlx::core::array>& inputs) const;

  int group_, bits_;
};

// Gives an output its memory, densely.
void allocate_dense(mlx::core::array& out);

// Gives an output [batch, heads, rows, dim] its memory, so that its rows lie as [batch, rows, heads, dim]: a row's
// heads come side by side from a product and go side by side to a store or the next product, which moves no data.
void allocate_by_rows(mlx::core::array& out);

}  // namespace helix
