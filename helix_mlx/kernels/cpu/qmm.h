// y[m, n] = sum over k of x[m, k] * (scale * code[n, k] + bias), for MLX's affine quantisation.
//
// A row of y is the same, bit by bit, whatever other rows are asked for with it.
#pragma once

#include <cstdint>

namespace helix {

// How a row of x or y is stored. All arithmetic is in float32.
enum class Scalar { float32, float16, bfloat16 };

// Quantised matrices [experts, outputs, inputs]: codes of `bits` (4 or 8), lowest first in each uint32, and a scale
// and a bias for every `group` (32, 64 or 128) of them. All rows lie densely.
struct Weights {
  const uint32_t* codes;
  const float* scales;
  const float* biases;
  int64_t outputs;
  int64_t inputs;
  int group;
  int bits;
};

// Rows of x, wherever they lie, and of y, which are dense [count, outputs].
struct Rows {
  const void* x;
  void* y;
  Scalar type;
  int64_t count;
  const int64_t* starts;    // where row i of x starts, in elements; null if it is row i of a dense array
  int64_t stride;           // elements between neighbours in a row of x
  const uint32_t* experts;  // the matrix that row i is multiplied by; null if there is only one
};

void quantized_matmul(const Weights& weights, const Rows& rows);

}  // namespace helix
