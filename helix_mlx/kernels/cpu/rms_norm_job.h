// The root mean square norm of a whole array on the CPU. MLX plays no part in it.
#pragma once

#include <cstdint>

#include "qmm.h"

namespace helix {

// y = x / sqrt(mean(x * x) + eps) * weight, for each row of x.
struct NormJob {
  const void* x;
  const void* weight;
  void* y;
  int64_t count, size, stride;
  const int64_t* starts;  // where row i of x starts, in elements; null if it is row i of a dense array
  float eps;
  Scalar type;
};

// Computes the job, in parallel where it is large. Each row's result depends on that row alone.
void rms_norm(const NormJob& job);

}  // namespace helix
