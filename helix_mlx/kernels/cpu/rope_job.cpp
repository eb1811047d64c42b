#include "rope_job.h"

#include <cmath>
#include <vector>

#include "pool.h"
#include "scalars.h"

namespace helix {
namespace {


// One row of one head. `cosines` is [turned / 2], and the sines come after it.
template <class Type>
void turn_row(const RopeJob& t, const typename Type::Stored* x, typename Type::Stored* y, const float* cosines) {
  const int64_t half = t.turned / 2, apart = t.traditional ? 1 : half, step = t.traditional ? 2 : 1;
  const int64_t stride = t.strides[3];
  const float* sines = cosines + half;
  const auto turn = [&](int64_t stride) __attribute__((always_inline)) {
    for (int64_t i = 0; i < half; i++) {
      const int64_t one = i * step, two = one + apart;
      const float a = Type::read(x[one * stride]), b = Type::read(x[two * stride]);
      y[one] = Type::write(a * cosines[i] - b * sines[i]);
      y[two] = Type::write(a * sines[i] + b * cosines[i]);
    }
  };
  stride == 1 ? turn(1) : turn(stride);
  for (int64_t i = t.turned; i < t.dim; i++) y[i] = x[i * stride];
}

// One row of one sequence, in all heads.
template <class Type>
void turn_heads(const RopeJob& t, int64_t b, int64_t row, float* cosines) {
  using Stored = typename Type::Stored;
  const float position = static_cast<float>(t.offsets[t.offset_each ? b : 0] + row) * t.scale;
  for (int64_t i = 0; i < t.turned / 2; i++) {
    const float angle = position * t.frequencies[i];
    cosines[i] = std::cos(angle);
    cosines[i + t.turned / 2] = std::sin(angle);
  }
  for (int64_t head = 0; head < t.heads; head++) {
    const int64_t from = b * t.strides[0] + head * t.strides[1] + row * t.strides[2];
    Stored* to = static_cast<Stored*>(t.y) + ((b * t.rows + row) * t.heads + head) * t.dim;
    turn_row<Type>(t, static_cast<const Stored*>(t.x) + from, to, cosines);
  }
}

template <class Type>
void turn_all(const RopeJob& t) {
  parallel_runs(t.batch * t.rows, t.heads * t.dim, [&](int64_t first, int64_t last) {
    std::vector<float> cosines(t.turned);
    for (int64_t i = first; i < last; i++) turn_heads<Type>(t, i / t.rows, i % t.rows, cosines.data());
  });
}

}  // namespace

void rope(const RopeJob& t) {
  switch (t.type) {
    case Scalar::float32: return turn_all<Float>(t);
    case Scalar::float16: return turn_all<Half>(t);
    case Scalar::bfloat16: return turn_all<BFloat>(t);
  }
}

}  // namespace helix
