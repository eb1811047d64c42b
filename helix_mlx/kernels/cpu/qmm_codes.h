// How the kinds of codes become float32 for qmm_kernel.cpp, and the order of x that suits them.
//
// A kind of codes takes `kSize` inputs at a time in `kChunks` vectors. Either it gives the weights themselves, or
// (kFactored) it gives codes alone, and a group's scale and bias are taken out of its sum. With even and odd chunks of x,
//
//   sum x (scale code + bias)  =  scale (7.5 (sum_odd x - sum_even x) + sum_even x code - sum_odd x (15 - code))
//                                 + (bias + 7.5 scale) sum x
//
// where the first difference and the turned codes of the odd chunks keep both parts, and what they grow from, as small
// as the result is, also for x far from zero.
#pragma once

#include "lanes.h"

namespace helix {
namespace {

// What makes a weight of a code.
struct Line {
  V scale, bias;
};

constexpr float kMiddle = 7.5f;       // of the codes from 0 to 15
constexpr float kShrink = 1.0f / 16;  // of factored sums

#if defined(__AVX512F__)

// Codes of 4 bits, `kBlock` (32 or 64) at a time. The block's words fill the lanes, repeated where there are more
// lanes than words; copy c of a word is shifted so that each step i of the loop finds code `i + c * kChunks` of it in
// the low bits. `arrange` puts x in that order.
template <int kBlock>
struct Nibbles {
  static constexpr bool kFactored = false;
  static constexpr int kSize = kBlock;
  static constexpr int kBytes = kBlock / 2;
  static constexpr int kWords = kBlock / 8;
  static constexpr int kChunks = kBlock / kLanes;

  static int source(int chunk, int lane) { return 8 * (lane % kWords) + chunk + kChunks * (lane / kWords); }

  using Group = V;  // the sixteen values that a code can stand for
  using Block = I;

  static HELIX_INLINE Group group(float scale, float bias) {
    const V codes = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_fmadd_ps(codes, _mm512_set1_ps(scale), _mm512_set1_ps(bias));
  }
  static HELIX_INLINE Block block(const uint8_t* from) {
    if constexpr (kBlock == 64) {
      const I shifts = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 16, 16, 16, 16, 16, 16, 16, 16);
      const I words = _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
      return _mm512_srlv_epi32(words, shifts);
    } else {
      const I shifts = _mm512_setr_epi32(0, 0, 0, 0, 8, 8, 8, 8, 16, 16, 16, 16, 24, 24, 24, 24);
      const I words = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
      return _mm512_srlv_epi32(words, shifts);
    }
  }
  static HELIX_INLINE V values(Block words, Group table, int chunk) {
    return _mm512_permutexvar_ps(_mm512_srli_epi32(words, 4 * chunk), table);  // takes the four low bits alone
  }
};

#else

#if defined(__FMA__) || defined(__aarch64__)
#define HELIX_FACTORED 1

constexpr int kFactoredFrom = 512;  // inputs: over fewer, factored sums are less exact than those of weights

// The same codes, in lanes of one word each; of 32 codes, the upper lanes hold the upper halves of the words again. A code is not shifted down but cut out where it stands, which makes it a power of 16 too large;
// x is made smaller by the same power instead, and by kShrink more so that no product with a code can overflow.
template <int kBlock>
struct FactoredNibbles {
  static constexpr bool kFactored = true;
  static constexpr int kSize = kBlock;
  static constexpr int kBytes = kBlock / 2;
  static constexpr int kChunks = kBlock / kLanes;

  static int source(int chunk, int lane) {
    return kBlock == 64 ? 8 * lane + chunk : 8 * (lane % 4) + chunk + kChunks * (lane / 4);
  }
  // What x is multiplied by.
  static float factor(int chunk) { return (chunk % 2 ? -kShrink : kShrink) / static_cast<float>(1 << 4 * (chunk % 4)); }

  static HELIX_INLINE I block(const uint8_t* from) {
    I words;
    if constexpr (kBlock == 64) {
      std::memcpy(&words, from, 32);
    } else {
#if defined(__AVX2__)
      const __m256i twice = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
      words = (I)_mm256_srlv_epi32(twice, _mm256_setr_epi32(0, 0, 0, 0, 16, 16, 16, 16));
#else
      uint32_t w[8];
      std::memcpy(w, from, 16);
      for (int i = 0; i < 4; i++) w[4 + i] = w[i] >> 16;
      std::memcpy(&words, w, 32);
#endif
    }
    return words ^ static_cast<int32_t>(0xf0f0f0f0);
  }
  // The codes of a chunk; chunks are asked for in their order.
  static HELIX_INLINE V values(I& words, int chunk) {
    if (chunk == 4) words = words >> 16;
    return __builtin_convertvector(words & (15 << 4 * (chunk % 4)), V);
  }
};

#endif

// Codes of 4 bits as weights, for few inputs, and where a product is rounded before it is added: there factoring costs
// more exactness than it should.
template <int kBlock>
struct Nibbles {
  static constexpr bool kFactored = false;
  static constexpr int kSize = kBlock;
  static constexpr int kBytes = kBlock / 2;
  static constexpr int kChunks = kBlock / kLanes;

  using Group = Line;
  using Block = I;

  static int source(int chunk, int lane) {
    return kBlock == 64 ? 8 * lane + chunk : 8 * (lane % 4) + chunk + kChunks * (lane / 4);
  }
  static HELIX_INLINE Group group(float scale, float bias) { return {same(scale), same(bias)}; }
  static HELIX_INLINE Block block(const uint8_t* from) {
    uint32_t words[8];
    std::memcpy(words, from, kBytes);
    for (int i = kBlock / 8; i < 8; i++) words[i] = words[i - 4] >> 16;
    Block found;
    std::memcpy(&found, words, sizeof found);
    return found;
  }
  static HELIX_INLINE V values(Block words, Group g, int chunk) {
    return fma(__builtin_convertvector((words >> (4 * chunk)) & 15, V), g.scale, g.bias);
  }
};

#endif

// Codes of 8 bits, 32 at a time, with x in its own order.
struct Bytes {
  static constexpr bool kFactored = false;
  static constexpr int kSize = 32;
  static constexpr int kBytes = 32;
  static constexpr int kChunks = kSize / kLanes;

  using Group = Line;
  using Block = const uint8_t*;

  static int source(int chunk, int lane) { return kLanes * chunk + lane; }
  static HELIX_INLINE Group group(float scale, float bias) { return {same(scale), same(bias)}; }
  static HELIX_INLINE Block block(const uint8_t* from) { return from; }
  static HELIX_INLINE V values(Block from, Group g, int chunk) {
#if defined(__AVX512F__)
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + kLanes * chunk));
    return fma(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)), g.scale, g.bias);
#else
    typedef uint8_t B __attribute__((vector_size(8)));
    B bytes;
    std::memcpy(&bytes, from + kLanes * chunk, sizeof bytes);
    return fma(__builtin_convertvector(__builtin_convertvector(bytes, I), V), g.scale, g.bias);
#endif
  }
};

}  // namespace
}  // namespace helix
