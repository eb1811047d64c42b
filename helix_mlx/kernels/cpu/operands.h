// What the primitives ask of their operands.
#pragma once

#include <cstdint>
#include <vector>

#include "mlx/array.h"
#include "mlx/stream.h"
#include "qmm.h"

namespace helix {

// How an array's elements are stored. Throws std::invalid_argument for other types than the three.
Scalar scalar_of(const mlx::core::array& a);

// Where each row of an array starts, in elements, if that is not the place it has in a dense one.
std::vector<int64_t> row_starts(const mlx::core::array& a);

// The array with its rows densely one after the other.
mlx::core::array dense(const mlx::core::array& a, mlx::core::Stream stream);

// Throws std::invalid_argument unless these are one quantised matrix, or one an expert, of a kind that is known.
void check_matrix(const mlx::core::array& codes, const mlx::core::array& scales, const mlx::core::array& biases,
                  int group, int bits);

// Throws std::invalid_argument with the message unless it is right.
void check(bool right, const char* message);

}  // namespace helix
