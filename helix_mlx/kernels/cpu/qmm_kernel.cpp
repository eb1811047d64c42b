// One form of the product: see isa.h for how it is compiled, and qmm.h for what it computes.
#include "qmm_kernel.h"

#include "lanes.h"
#include "scalars.h"

namespace helix {
namespace {

// Codes of 4 bits, `kBlock` (32 or 64) at a time. The block's words fill the lanes, repeated where there are more
// lanes than words; copy c of a word is shifted so that each step i of the loop finds code `i + c * kChunks` of it in
// the low bits. `arrange` puts x in that order.
template <int kBlock>
struct Nibbles {
  static constexpr int kSize = kBlock;
  static constexpr int kBytes = kBlock / 2;
  static constexpr int kWords = kBlock / 8;
  static constexpr int kChunks = kBlock / kLanes;

  static int source(int chunk, int lane) { return 8 * (lane % kWords) + chunk + kChunks * (lane / kWords); }

#if defined(__AVX512F__)
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
#else
  struct Group {
    V scale, bias;
  };
  using Block = I;

  static HELIX_INLINE Group group(float scale, float bias) { return {same(scale), same(bias)}; }
  static HELIX_INLINE Block block(const uint8_t* from) {
    I words;
    if constexpr (kBlock == 64) {
      std::memcpy(&words, from, 32);
    } else {
      uint32_t w[8];
      std::memcpy(w, from, 16);
      for (int i = 0; i < 4; i++) w[4 + i] = w[i] >> 16;
      std::memcpy(&words, w, 32);
    }
    return words;
  }
  static HELIX_INLINE V values(Block words, Group g, int chunk) {
    return fma(__builtin_convertvector((words >> (4 * chunk)) & 15, V), g.scale, g.bias);
  }
#endif
};

// Codes of 8 bits, 32 at a time, with x in its own order.
struct Bytes {
  static constexpr int kSize = 32;
  static constexpr int kBytes = 32;
  static constexpr int kChunks = kSize / kLanes;

  struct Group {
    V scale, bias;
  };
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

// The rows of one matrix, from the first that is asked for.
struct Slice {
  const uint8_t* codes;
  const float* scales;
  const float* biases;
  int64_t row_bytes;
  int64_t row_groups;
  int64_t inputs;
  int group_shift;  // a group is 1 << group_shift codes
};

// M rows of x by R rows of weights, for the inputs [first, last). Each sum is kept in the lanes of one vector and added
// to in the order of k, so that neither M nor R nor the way k is cut makes a difference to it.
template <class Codes, int M, int R>
HELIX_INLINE void tile(const Slice& slice, const float* x, int64_t n, int64_t first, int64_t last, V (&sums)[M][R]) {
  const uint8_t* codes = slice.codes + n * slice.row_bytes + first / Codes::kSize * Codes::kBytes;
  const float* scales = slice.scales + n * slice.row_groups;
  const float* biases = slice.biases + n * slice.row_groups;
  for (int64_t k = first; k < last; k += Codes::kSize, codes += Codes::kBytes, x += M * Codes::kSize) {
    typename Codes::Group groups[R];
    typename Codes::Block blocks[R];
    unroll<R>([&](auto r) HELIX_LAMBDA {
      const int64_t g = r.value * slice.row_groups + (k >> slice.group_shift);
      groups[r.value] = Codes::group(scales[g], biases[g]);
      blocks[r.value] = Codes::block(codes + r.value * slice.row_bytes);
      __builtin_prefetch(codes + (r.value + R) * slice.row_bytes);  // the rows that the next tile reads
    });
    unroll<Codes::kChunks>([&](auto c) HELIX_LAMBDA {
      V values[R];
      unroll<R>([&](auto r) HELIX_LAMBDA { values[r.value] = Codes::values(blocks[r.value], groups[r.value], c.value); });
      unroll<M>([&](auto m) HELIX_LAMBDA {
        const V part = load(x + (c.value * M + m.value) * kLanes);
        unroll<R>([&](auto r) HELIX_LAMBDA {
          sums[m.value][r.value] = fma(part, values[r.value], sums[m.value][r.value]);
        });
      });
    });
  }
}

// The inputs that M rows of x may span to stay in the nearest cache while several tiles read them.
template <class Codes, int M>
constexpr int64_t kSpan = 24 * 1024 / static_cast<int64_t>(M * sizeof(float) * 64) * 64;

// The tile at n for one span of k: what is not the last span leaves its sums in `kept`.
template <class Codes, int M, int R>
void span_of_tile(const Slice& slice, const float* x, float* const* y, int64_t n, int64_t first, V* kept) {
  const int64_t end = first + kSpan<Codes, M>, last = end < slice.inputs ? end : slice.inputs;
  V sums[M][R];
  unroll<M>([&](auto m) HELIX_LAMBDA {
    unroll<R>([&](auto r) HELIX_LAMBDA { sums[m.value][r.value] = first ? kept[m.value * R + r.value] : zero(); });
  });
  tile<Codes, M, R>(slice, x + first * M, n, first, last, sums);
  unroll<M>([&](auto m) HELIX_LAMBDA {
    unroll<R>([&](auto r) HELIX_LAMBDA {
      if (last < slice.inputs)
        kept[m.value * R + r.value] = sums[m.value][r.value];
      else
        y[m.value][n + r.value] = sum(sums[m.value][r.value]);
    });
  });
}

// As many weight rows at a time as the registers hold sums for.
template <class Codes, int M>
void multiply_rows(const Slice& slice, const float* x, float* const* y, int64_t count) {
#if defined(__AVX512F__)
  constexpr int R = M == 1 ? 8 : M == 2 ? 6 : 4;
#else
  constexpr int R = M <= 2 ? 4 : 2;
#endif
  static_assert(kTileStep % R == 0, "a step is whole tiles");
  V kept[kTileStep * M];
  for (int64_t start = 0; start < count; start += kTileStep) {
    const int64_t end = start + kTileStep < count ? start + kTileStep : count;
    for (int64_t k = 0; k < slice.inputs; k += kSpan<Codes, M>) {
      int64_t n = start;
      for (; n + R <= end; n += R) span_of_tile<Codes, M, R>(slice, x, y, n, k, kept + (n - start) * M);
      for (; n < end; n++) span_of_tile<Codes, M, 1>(slice, x, y, n, k, kept + (n - start) * M);
    }
  }
}

template <class Codes>
void multiply_codes(const Slice& slice, const float* x, int rows, float* const* y, int64_t count) {
  switch (rows) {
    case 1: return multiply_rows<Codes, 1>(slice, x, y, count);
    case 2: return multiply_rows<Codes, 2>(slice, x, y, count);
    case 3: return multiply_rows<Codes, 3>(slice, x, y, count);
    case 4: return multiply_rows<Codes, 4>(slice, x, y, count);
    case 5: return multiply_rows<Codes, 5>(slice, x, y, count);
    default: return multiply_rows<Codes, 6>(slice, x, y, count);
  }
}

void multiply(const Weights& w, const float* x, int rows, float* const* y, int64_t first, int64_t last) {
  const int64_t row_bytes = w.inputs * w.bits / 8, row_groups = w.inputs / w.group;
  const Slice slice{
      reinterpret_cast<const uint8_t*>(w.codes) + first * row_bytes,
      w.scales + first * row_groups,
      w.biases + first * row_groups,
      row_bytes,
      row_groups,
      w.inputs,
      __builtin_ctz(static_cast<unsigned>(w.group))};
  if (w.bits == 8)
    multiply_codes<Bytes>(slice, x, rows, y, last - first);
  else if (w.group == 32)
    multiply_codes<Nibbles<32>>(slice, x, rows, y, last - first);
  else
    multiply_codes<Nibbles<64>>(slice, x, rows, y, last - first);
}

template <class Codes, class Type>
void arrange_codes(int64_t inputs, const void* x, int64_t stride, float* to, int rows) {
  const auto* from = static_cast<const typename Type::Stored*>(x);
  for (int64_t k = 0; k < inputs; k += Codes::kSize, from += Codes::kSize * stride)
    for (int chunk = 0; chunk < Codes::kChunks; chunk++, to += rows * kLanes)
#pragma GCC unroll 16
      for (int lane = 0; lane < kLanes; lane++) to[lane] = Type::read(from[Codes::source(chunk, lane) * stride]);
}

template <class Type>
void arrange_type(const Weights& w, const void* x, int64_t stride, float* to, int rows) {
  if (w.bits == 8)
    arrange_codes<Bytes, Type>(w.inputs, x, stride, to, rows);
  else if (w.group == 32)
    arrange_codes<Nibbles<32>, Type>(w.inputs, x, stride, to, rows);
  else
    arrange_codes<Nibbles<64>, Type>(w.inputs, x, stride, to, rows);
}

void arrange(const Weights& w, const void* x, Scalar type, int64_t stride, float* to, int rows) {
  switch (type) {
    case Scalar::float32: return arrange_type<Float>(w, x, stride, to, rows);
    case Scalar::float16: return arrange_type<Half>(w, x, stride, to, rows);
    case Scalar::bfloat16: return arrange_type<BFloat>(w, x, stride, to, rows);
  }
}

template <class Type>
void store_type(const float* from, int64_t count, void* y) {
  auto* to = static_cast<typename Type::Stored*>(y);
  for (int64_t i = 0; i < count; i++) to[i] = Type::write(from[i]);
}

void store(const float* from, int64_t count, Scalar type, void* to) {
  switch (type) {
    case Scalar::float32: return store_type<Float>(from, count, to);
    case Scalar::float16: return store_type<Half>(from, count, to);
    case Scalar::bfloat16: return store_type<BFloat>(from, count, to);
  }
}

}  // namespace

extern const QmmForm HELIX_FORM(qmm_form){kLanes, arrange, multiply, store};

}  // namespace helix
