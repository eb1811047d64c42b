// Rows of a quantised matrix as float32 on the CPU: an embedding's. MLX plays no part in it.
#pragma once

#include <cstdint>

#include "qmm.h"

namespace helix {

// y[i, k] = scale * code[ids[i], k] + bias, dense [count, inputs]. The product is rounded before the sum, as MLX does.
// An id below 0 counts from the end; one that is out of range takes the first or the last row.
void embed(const Weights& matrix, const int32_t* ids, int64_t count, float* y);

}  // namespace helix
