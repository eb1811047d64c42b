#include "operands.h"

#include <stdexcept>

#include "mlx/backend/common/utils.h"
#include "mlx/ops.h"

namespace mx = mlx::core;

namespace helix {

void check(bool right, const char* message) {
  if (!right) throw std::invalid_argument(message);
}

Scalar scalar_of(const mx::array& a) {
  if (a.dtype() == mx::float16) return Scalar::float16;
  if (a.dtype() == mx::bfloat16) return Scalar::bfloat16;
  if (a.dtype() == mx::float32) return Scalar::float32;
  throw std::invalid_argument("the type is neither float32, float16 nor bfloat16");
}

std::vector<int64_t> row_starts(const mx::array& a) {
  if (a.flags().row_contiguous) return {};
  mx::Shape shape(a.shape().begin(), a.shape().end() - 1);
  mx::Strides strides(a.strides().begin(), a.strides().end() - 1);
  std::vector<int64_t> starts(a.size() / a.shape(-1));
  for (size_t i = 0; i < starts.size(); i++) starts[i] = mx::elem_to_loc(static_cast<int64_t>(i), shape, strides);
  return starts;
}

mx::array dense(const mx::array& a, mx::Stream stream) {
  const bool known = a.is_available() && a.flags().row_contiguous;
  return known ? a : mx::contiguous(a, false, stream);
}

}  // namespace helix
