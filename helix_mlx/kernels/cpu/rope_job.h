// Rotary position embedding of a whole array on the CPU. MLX plays no part in it.
#pragma once

#include <cstdint>

#include "qmm.h"

namespace helix {

// Rotates x [batch, heads, rows, dim] into y, which lies densely as [batch, rows, heads, dim].
struct RopeJob {
  const void* x;
  int64_t strides[4];  // of x, in elements
  void* y;
  int64_t batch, heads, rows, dim;
  const int32_t* offsets;    // the position of the first row, of each sequence or of all
  bool offset_each;
  const float* frequencies;  // [turned / 2], radians a position
  int64_t turned;            // elements of a row that are rotated; the others are copied
  bool traditional;          // pairs are neighbours, not half of `turned` apart
  float scale;               // of positions
  Scalar type;
};

// Computes the job, in parallel where it is large. Each row's result depends on that row and its position alone.
void rope(const RopeJob& job);

}  // namespace helix
