// One form of attention: see isa.h for how it is compiled, and attention_kernel.h for what it computes.
#include "attention_kernel.h"

#include "attention_math.h"

namespace helix {
namespace {

// Rows by vectors that a tile keeps sums for, as many as the registers hold.
#if defined(__AVX512F__)
constexpr int kTileRows = 8;
template <int kRows>
constexpr int kTileVectors = kRows == 8 ? 2 : 4;
#else
constexpr int kTileRows = 4;
template <int kRows>
constexpr int kTileVectors = kRows == 4 ? 2 : 4;
#endif

// [kRows, depth] by [depth, kVectors * kLanes] into [kRows, ...]. Every sum is added to in the order of the depth, so
// that neither kRows nor kVectors makes a difference to it. `right` says where step d of the depth begins.
template <int kRows, int kVectors, class Right>
HELIX_INLINE void tile(const float* left, int64_t left_stride, int depth, Right right, float* out, int64_t out_stride) {
  V sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; r++)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; v++) sums[r][v] = zero();
  for (int d = 0; d < depth; d++) {
    const float* from = right(d);
    V part[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; v++) part[v] = load(from + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++) {
      const V factor = same(left[r * left_stride + d]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; v++) sums[r][v] = fma(factor, part[v], sums[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; r++)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; v++) store(out + r * out_stride + v * kLanes, sums[r][v]);
}

// The positions that some of a pass's rows see.
struct Range {
  int first, last;
};

Range range_of(const SpanPass& pass, int row, int rows) {
  Range range{kSpan, 0};
  for (int r = row; r < row + rows; r++) {
    if (pass.first[r] >= pass.last[r]) continue;
    range.first = pass.first[r] < range.first ? pass.first[r] : range.first;
    range.last = pass.last[r] > range.last ? pass.last[r] : range.last;
  }
  return range;
}

// The scores of rows from `row` on against the transposed keys of positions [at, at + count * kLanes).
template <int kRows>
void score_rows(const SpanPass& pass, int row, int at, int count) {
  constexpr int kVectors = kTileVectors<kRows>;
  const float* queries = pass.queries + int64_t{row} * pass.key_width;
  float* scores = pass.scores + row * kSpan + at;
  int v = 0;
  for (; v + kVectors <= count; v += kVectors) {
    const float* keys = pass.transposed + v * kLanes;
    tile<kRows, kVectors>(
        queries, pass.key_width, pass.key_width, [=](int d) { return keys + d * kKeyTile; }, scores + v * kLanes, kSpan);
  }
  for (; v < count; v++) {
    const float* keys = pass.transposed + v * kLanes;
    tile<kRows, 1>(
        queries, pass.key_width, pass.key_width, [=](int d) { return keys + d * kKeyTile; }, scores + v * kLanes, kSpan);
  }
}

// The values of positions in `range`, weighted for rows from `row` on.
template <int kRows>
void weigh_rows(const SpanPass& pass, int row, Range range, float* out) {
  constexpr int kVectors = kTileVectors<kRows>;
  const float* weights = pass.scores + row * kSpan + range.first;
  const float* const* values = pass.values + range.first;
  const int depth = range.last - range.first;
  int d = 0;
  for (; d + kVectors * kLanes <= pass.value_width; d += kVectors * kLanes)
    tile<kRows, kVectors>(weights, kSpan, depth, [=](int j) { return values[j] + d; }, out + d, pass.value_width);
  for (; d < pass.value_width; d += kLanes)
    tile<kRows, 1>(weights, kSpan, depth, [=](int j) { return values[j] + d; }, out + d, pass.value_width);
}

// Turns a row of scores into weights, exp(score - most), zero where nothing is seen, from vector `begin` to `end`.
void soften_row(const SpanPass& pass, int row, int begin, int end, const Partial& out) {
  float* scores = pass.scores + row * kSpan;
  const int first = pass.first[row], last = pass.last[row];
  V most = same(kNothing);
  for (int at = begin; at < end; at += kLanes) {
    V part = load(scores + at);
    if (at < first || at + kLanes > last) store(scores + at, part = seen(part, at, first, last));
    most = larger(part, most);
  }
  out.most[row] = largest(most);
  const V least = same(first < last ? out.most[row] : 0.0f);
  V total = zero();
  for (int at = begin; at < end; at += kLanes) {
    const V weight = exp_negative(load(scores + at) - least);
    store(scores + at, weight);
    total = total + weight;
  }
  out.total[row] = sum(total);
}

template <int kRows>
struct Count {
  static constexpr int rows = kRows;
};

// Calls each(row, Count<...>) for tiles that cover all rows.
template <class Each>
HELIX_INLINE void for_row_tiles(int rows, Each each) {
  int row = 0;
  if constexpr (kTileRows == 8)
    for (; row + 8 <= rows; row += 8) each(row, Count<8>());
  for (; row + 4 <= rows; row += 4) each(row, Count<4>());
  for (; row + 2 <= rows; row += 2) each(row, Count<2>());
  for (; row < rows; row++) each(row, Count<1>());
}

void span(const SpanPass& pass, const Partial& out) {
  const Range all = range_of(pass, 0, pass.rows);
  const int begin = all.first / kLanes * kLanes, end = (all.last + kLanes - 1) / kLanes * kLanes;
  for (int at = begin; at < end; at += kKeyTile) {
    const int count = (end - at < kKeyTile ? end - at : kKeyTile) / kLanes;
    for (int v = 0; v < count; v++)
      for (int d = 0; d < pass.key_width; d += kLanes)
        transpose(pass.keys + at + v * kLanes, d, pass.transposed + d * kKeyTile + v * kLanes, kKeyTile);
    for_row_tiles(pass.rows, [&](int row, auto tile) { score_rows<tile.rows>(pass, row, at, count); });
  }
  for (int row = 0; row < pass.rows; row++) soften_row(pass, row, begin, end, out);
  for_row_tiles(pass.rows, [&](int row, auto tile) {
    weigh_rows<tile.rows>(pass, row, range_of(pass, row, tile.rows), out.values + int64_t{row} * pass.value_width);
  });
}

void merge(int rows, int value_width, const Partial& next, const Partial& into) {
  for (int row = 0; row < rows; row += kLanes) {
    const V before = load(into.most + row), added = load(next.most + row);
    const V most = larger(before, added);
    const V nothing = same(kNothing);
    const V keep = choose((Bits)(before == nothing), zero(), exp_negative(before - most));
    const V take = choose((Bits)(added == nothing), zero(), exp_negative(added - most));
    store(into.most + row, most);
    store(into.total + row, fma(load(into.total + row), keep, load(next.total + row) * take));
    float kept[kLanes], taken[kLanes];
    store(kept, keep);
    store(taken, take);
    for (int l = 0; l < kLanes && row + l < rows; l++) {
      float* to = into.values + int64_t{row + l} * value_width;
      const float* from = next.values + int64_t{row + l} * value_width;
      const V old_share = same(kept[l]), new_share = same(taken[l]);
      for (int d = 0; d < value_width; d += kLanes)
        store(to + d, fma(load(to + d), old_share, load(from + d) * new_share));
    }
  }
}

}  // namespace

extern const AttentionForm HELIX_FORM(attention_form){span, merge};

}  // namespace helix
