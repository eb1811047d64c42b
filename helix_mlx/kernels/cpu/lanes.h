// Vectors of float32 for the forms of a kernel: `V` of kLanes lanes, and what can be done with it.
// Only *_kernel.cpp files include this; isa.h says why everything here is in an anonymous namespace.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define HELIX_INLINE inline __attribute__((always_inline))
#define HELIX_LAMBDA __attribute__((always_inline))

namespace helix {
namespace {

template <int i>
struct Index {
  static constexpr int value = i;
};

// Calls f(Index<0>), ..., f(Index<N - 1>) in line. Arrays indexed by these stay in registers, where a loop's might not.
template <int N, int i = 0, class F>
HELIX_INLINE void unroll(const F& f) {
  if constexpr (i < N) {
    f(Index<i>{});
    unroll<N, i + 1>(f);
  }
}

#if defined(__AVX512F__)

constexpr int kLanes = 16;
using V = __m512;
using I = __m512i;

HELIX_INLINE V zero() { return _mm512_setzero_ps(); }
HELIX_INLINE V same(float value) { return _mm512_set1_ps(value); }
HELIX_INLINE V load(const float* from) { return _mm512_loadu_ps(from); }
HELIX_INLINE V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
HELIX_INLINE float sum(V a) { return _mm512_reduce_add_ps(a); }

#else

// Eight lanes: one register with AVX2, two with NEON and SSE2.
constexpr int kLanes = 8;
typedef float V __attribute__((vector_size(32)));
typedef int32_t I __attribute__((vector_size(32)));

HELIX_INLINE V zero() { return V{}; }
HELIX_INLINE V same(float a) { return V{a, a, a, a, a, a, a, a}; }
HELIX_INLINE V load(const float* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
#if defined(__FMA__)
HELIX_INLINE V fma(V a, V b, V c) { return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
#elif defined(__aarch64__)
HELIX_INLINE V fma(V a, V b, V c) {
  float32x4_t x[2], y[2], z[2];
  std::memcpy(x, &a, sizeof a);
  std::memcpy(y, &b, sizeof b);
  std::memcpy(z, &c, sizeof c);
  z[0] = vfmaq_f32(z[0], x[0], y[0]);
  z[1] = vfmaq_f32(z[1], x[1], y[1]);
  std::memcpy(&c, z, sizeof c);
  return c;
}
#else
HELIX_INLINE V fma(V a, V b, V c) { return a * b + c; }
#endif
#if defined(__AVX__)
HELIX_INLINE float sum(V a) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128((__m256)a), _mm256_extractf128_ps((__m256)a, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
#else
HELIX_INLINE float sum(V a) { return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7])); }
#endif

#endif

HELIX_INLINE void put(float* to, V v) { std::memcpy(to, &v, sizeof v); }

// Keeps the compiler from loading a vector again for each use.
HELIX_INLINE void hold(V& v) {
#if defined(__AVX__)
  asm("" : "+x"(v));
#endif
}

}  // namespace
}  // namespace helix
