// One form of the product: see isa.h for how it is compiled, and qmm.h for what it computes.
#include "qmm_kernel.h"

#include "qmm_tiles.h"
#include "scalars.h"

namespace helix {
namespace {

#if defined(__AVX512F__)
constexpr int kRows = 6;
#else
constexpr int kRows = 5;  // by two rows of weights, whose factored sums and codes take all sixteen registers
#endif
static_assert(kRows <= kMostRows);

// Calls f with the kind of codes that a matrix has.
template <class F>
void with_codes(const Weights& w, const F& f) {
  if (w.bits == 8) return f(Bytes{});
#if defined(HELIX_FACTORED)
  if (w.inputs >= kFactoredFrom) return w.group == 32 ? f(FactoredNibbles<32>{}) : f(FactoredNibbles<64>{});
#endif
  w.group == 32 ? f(Nibbles<32>{}) : f(Nibbles<64>{});
}

// The inputs that M rows of x may span to stay in the nearest cache while several tiles read them.
template <class Codes, int M>
constexpr int64_t kSpan = 24 * 1024 / static_cast<int64_t>(M * sizeof(float) * 64) * 64;

// As many weight rows at a time as the registers hold sums for.
template <class Codes>
constexpr int rows_at_once(int rows) {
#if defined(__AVX512F__)
  return rows == 1 ? 8 : rows == 2 ? 6 : 4;
#else
  if (Codes::kFactored) return rows <= 2 ? 4 : rows == 3 ? 3 : 2;
  return rows <= 2 ? 4 : 2;
#endif
}

// The tile at n for one span of k. Its sums begin, and stay between the spans, in `kept`.
template <class Codes, int M, int R>
void span_of_tile(const Slice& slice, const float* x, float* const* y, int64_t n, int64_t first, V* kept) {
  const int64_t end = first + kSpan<Codes, M>, last = end < slice.inputs ? end : slice.inputs;
  const float* from = x + first / Codes::kSize * (kVectors<Codes> * kLanes * M);
  if constexpr (Codes::kFactored) {
    if (first == 0) begin<M, R>(slice, x + slice.inputs / Codes::kSize * (kVectors<Codes> * kLanes * M), n, kept);
    add_factored<Codes, M, R>(slice, from, n, first, last, kept);
  } else {
    if (first == 0) unroll<M * R>([&](auto i) HELIX_LAMBDA { kept[i.value] = zero(); });
    add_weights<Codes, M, R>(slice, from, n, first, last, kept);
  }
  if (last < slice.inputs) return;
  unroll<M>([&](auto m) HELIX_LAMBDA {
    unroll<R>([&](auto r) HELIX_LAMBDA {
      y[m.value][n + r.value] = sum(kept[m.value * R + r.value]) * (Codes::kFactored ? 1 / kShrink : 1);
    });
  });
}

template <class Codes, int M>
void multiply_rows(const Slice& slice, const float* x, float* const* y, int64_t count) {
  constexpr int R = rows_at_once<Codes>(M);
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
    default: return multiply_rows<Codes, kRows>(slice, x, y, count);
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
  with_codes(w, [&](auto codes) { multiply_codes<decltype(codes)>(slice, x, rows, y, last - first); });
}

// Row m of a block of x, in vectors that take turns with those of the other rows; after all of them come the sums of
// the rows' groups, where those are needed.
template <class Codes, class Type>
void arrange_codes(const Weights& w, const void* x, int64_t stride, float* block, int m, int rows) {
  const auto* from = static_cast<const typename Type::Stored*>(x);
  const int64_t sums = sums_of_groups<Codes>(w.inputs / w.group);
  float* to = block + m * kLanes;
  float* const group_sums = block + w.inputs / Codes::kSize * (kVectors<Codes> * kLanes * rows) + m * sums;
  for (int64_t i = 0; i < sums; i++) group_sums[i] = 0;
  for (int64_t k = 0; k < w.inputs; k += Codes::kSize, from += Codes::kSize * stride) {
    float lanes[2][kLanes] = {};  // of even chunks and of odd ones
    for (int chunk = 0; chunk < Codes::kChunks; chunk++, to += rows * kLanes)
#pragma GCC unroll 16
      for (int lane = 0; lane < kLanes; lane++) {
        const float value = Type::read(from[Codes::source(chunk, lane) * stride]);
        if constexpr (Codes::kFactored) {
          lanes[chunk % 2][lane] += value;
          to[lane] = value * Codes::factor(chunk);
        } else {
          to[lane] = value;
        }
      }
    if constexpr (Codes::kFactored) {
      for (int lane = 0; lane < kLanes; lane++) to[lane] = (lanes[1][lane] - lanes[0][lane]) * (kMiddle * kShrink);
      group_sums[k / w.group] += sum(load(lanes[0]) + load(lanes[1]));
      to += rows * kLanes;
    }
  }
}

template <class Type>
void arrange_type(const Weights& w, const void* x, int64_t stride, float* block, int m, int rows) {
  with_codes(w, [&](auto codes) { arrange_codes<decltype(codes), Type>(w, x, stride, block, m, rows); });
}

void arrange(const Weights& w, const void* x, Scalar type, int64_t stride, float* block, int m, int rows) {
  switch (type) {
    case Scalar::float32: return arrange_type<Float>(w, x, stride, block, m, rows);
    case Scalar::float16: return arrange_type<Half>(w, x, stride, block, m, rows);
    case Scalar::bfloat16: return arrange_type<BFloat>(w, x, stride, block, m, rows);
  }
}

int64_t room(const Weights& w) {
  int64_t floats = 0;
  with_codes(w, [&](auto codes) {
    using Codes = decltype(codes);
    floats = w.inputs / Codes::kSize * (kVectors<Codes> * kLanes) + sums_of_groups<Codes>(w.inputs / w.group);
  });
  return floats;
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

extern const QmmForm HELIX_FORM(qmm_form){kRows, room, arrange, multiply, store};

}  // namespace helix
