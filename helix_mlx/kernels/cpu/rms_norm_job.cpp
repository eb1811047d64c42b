#include "rms_norm_job.h"

#include <cmath>

#include "pool.h"
#include "scalars.h"

namespace helix {
namespace {

constexpr int kSums = 16;  // that a row's squares are shared between, so that they need not wait for each other

template <class Type>
float mean_square(const typename Type::Stored* x, int64_t stride, int64_t size) {
  float sums[kSums] = {};
  int64_t i = 0;
  if (stride == 1)
    for (; i + kSums <= size; i += kSums)
      for (int j = 0; j < kSums; j++) {
        const float value = Type::read(x[i + j]);
        sums[j] += value * value;
      }
  for (; i < size; i++) {
    const float value = Type::read(x[i * stride]);
    sums[i % kSums] += value * value;
  }
  for (int half = kSums / 2; half > 0; half /= 2)
    for (int j = 0; j < half; j++) sums[j] += sums[j + half];
  return sums[0] / static_cast<float>(size);
}

template <class Type>
void normalise(const NormJob& n, int64_t row) {
  using Stored = typename Type::Stored;
  const Stored* x = static_cast<const Stored*>(n.x) + (n.starts ? n.starts[row] : row * n.size);
  const auto* weight = static_cast<const Stored*>(n.weight);
  Stored* y = static_cast<Stored*>(n.y) + row * n.size;
  const float factor = 1 / std::sqrt(mean_square<Type>(x, n.stride, n.size) + n.eps);
  if (n.stride == 1) {
    for (int64_t i = 0; i < n.size; i++)
      y[i] = Type::write(Type::read(Type::write(Type::read(x[i]) * factor)) * Type::read(weight[i]));
  } else {
    for (int64_t i = 0; i < n.size; i++)
      y[i] = Type::write(Type::read(Type::write(Type::read(x[i * n.stride]) * factor)) * Type::read(weight[i]));
  }
}

template <class Type>
void normalise_all(const NormJob& n) {
  parallel_runs(n.count, n.size, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) normalise<Type>(n, row);
  });
}

}  // namespace

void rms_norm(const NormJob& n) {
  switch (n.type) {
    case Scalar::float32: return normalise_all<Float>(n);
    case Scalar::float16: return normalise_all<Half>(n);
    case Scalar::bfloat16: return normalise_all<BFloat>(n);
  }
}

}  // namespace helix
