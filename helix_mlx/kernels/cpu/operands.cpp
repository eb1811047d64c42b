#include "operands.h"

#include <stdexcept>

#include "mlx/backend/common/utils.h"
#include "mlx/ops.h"

namespace mx = mlx::core;

namespace helix {

void check(bool right, const char* message) {
  if (!right) throw std::invalid_argument(message);
}

void check_matrix(const mx::array& codes, const mx::array& scales, const mx::array& biases, int group, int bits) {
  check((bits == 4 || bits == 8) && (group == 32 || group == 64 || group == 128),
        "the codes have to be of 4 or 8 bits, in groups of 32, 64 or 128");
  check(codes.dtype() == mx::uint32 && scales.dtype() == mx::float32 && biases.dtype() == mx::float32,
        "the codes have to be uint32, scales and biases float32");
  check(codes.ndim() >= 2 && scales.shape() == biases.shape() && scales.ndim() == codes.ndim(),
        "codes, scales and biases do not belong together");
  check(int64_t{codes.shape(-1)} * 32 == int64_t{scales.shape(-1)} * group * bits && scales.shape(-2) == codes.shape(-2),
        "codes, scales and biases differ in their sizes");
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
