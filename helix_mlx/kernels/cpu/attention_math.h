// More of what can be done with the vectors of lanes.h: what a softmax and a transposition need.
// Only attention_kernel.cpp includes this.
#pragma once

#include "lanes.h"

namespace helix {
namespace {

typedef int32_t Bits __attribute__((vector_size(sizeof(V))));  // by lane; also the result of a comparison

constexpr float kNothing = -__builtin_inff();  // the score of a position that is not seen

HELIX_INLINE void store(float* to, V v) { std::memcpy(to, &v, sizeof v); }
HELIX_INLINE V choose(Bits which, V yes, V no) { return (V)((which & (Bits)yes) | (~which & (Bits)no)); }
HELIX_INLINE V larger(V a, V b) {
#if defined(__AVX512F__)
  return _mm512_max_ps(a, b);
#else
  return choose((Bits)(a > b), a, b);
#endif
}
HELIX_INLINE float largest(V v) {
  float most = v[0];
  for (int l = 1; l < kLanes; l++) most = v[l] > most ? v[l] : most;
  return most;
}
HELIX_INLINE Bits iota() {
  Bits lanes;
  for (int l = 0; l < kLanes; l++) lanes[l] = l;
  return lanes;
}
// Keeps the score of every position from `first` to before `last`; `at` is the position of the first lane.
HELIX_INLINE V seen(V scores, int at, int first, int last) {
  const Bits position = iota() + at;
  return choose((Bits)(position >= first) & (Bits)(position < last), scores, same(kNothing));
}

// exp(x) for x <= 0, within two units in the last place; exactly 1 for 0, and 0 below -87 and for minus infinity.
HELIX_INLINE V exp_negative(V x) {
  const V shift = same(12582912.0f);  // 1.5 * 2^23: adding it leaves the nearest integer in the lowest bits
  const V shifted = fma(x, same(1.44269504f), shift);
  const V n = shifted - shift;
  V r = fma(n, same(-0.693359375f), x);
  r = fma(n, same(2.12194440e-4f), r);
  V p = same(1.9875691500e-4f);
  p = fma(p, r, same(1.3981999507e-3f));
  p = fma(p, r, same(8.3334519073e-3f));
  p = fma(p, r, same(4.1665795894e-2f));
  p = fma(p, r, same(1.6666665459e-1f));
  p = fma(p, r, same(5.0000001201e-1f));
  p = fma(p, r * r, r) + same(1.0f);
  const V scaled = (V)((Bits)p + ((Bits)shifted << 23));
  return choose((Bits)(x < same(-87.0f)), zero(), scaled);
}

// Lanes of `a` and `b` such that, done for all pairs of rows kStep apart, it swaps their blocks of kStep lanes.
template <int kStep>
HELIX_INLINE void swap_blocks(V& a, V& b) {
  Bits low, high;
  for (int l = 0; l < kLanes; l++) {
    low[l] = l & kStep ? kLanes + l - kStep : l;
    high[l] = l & kStep ? kLanes + l : l + kStep;
  }
#if defined(__AVX512F__)
  const V upper = _mm512_permutex2var_ps(a, (I)low, b), lower = _mm512_permutex2var_ps(a, (I)high, b);
#elif defined(__clang__)
  V upper, lower;
  for (int l = 0; l < kLanes; l++) {
    upper[l] = l & kStep ? b[l - kStep] : a[l];
    lower[l] = l & kStep ? b[l] : a[l + kStep];
  }
#else
  const V upper = __builtin_shuffle(a, b, low), lower = __builtin_shuffle(a, b, high);
#endif
  a = upper;
  b = lower;
}

template <int kStep>
HELIX_INLINE void swap_all(V* rows) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i++)
    if (!(i & kStep)) swap_blocks<kStep>(rows[i], rows[i + kStep]);
}

// Writes kLanes floats of each of kLanes rows as columns: float d of row i goes to to[d * stride + i].
HELIX_INLINE void transpose(const float* const* rows, int64_t offset, float* to, int64_t stride) {
  V v[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i++) v[i] = load(rows[i] + offset);
  if constexpr (kLanes == 16) swap_all<8>(v);
  swap_all<4>(v);
  swap_all<2>(v);
  swap_all<1>(v);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i++) store(to + i * stride, v[i]);
}

}  // namespace
}  // namespace helix
