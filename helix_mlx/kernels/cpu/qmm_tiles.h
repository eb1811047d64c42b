// The inner loops of qmm_kernel.cpp: M rows of x by R rows of weights.
//
// Each result is kept in the lanes of one vector and added to in the order of k, so that neither M nor R nor the way k
// is cut makes a difference to it.
#pragma once

#include "qmm_codes.h"

namespace helix {
namespace {

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

// How many rows of weights further on the memory is asked for what a tile of R rows will read.
template <int M, int R>
constexpr int kAhead = M == 1 ? R : 2 * R;

// Vectors of arranged x that go with a block of codes: for factored sums there is one that they begin with.
template <class Codes>
constexpr int kVectors = Codes::kChunks + (Codes::kFactored ? 1 : 0);

constexpr int64_t whole_lanes(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

// Floats for the sums of a row's groups, where those are needed: see `begin`.
template <class Codes>
int64_t sums_of_groups(int64_t groups) {
  return Codes::kFactored ? whole_lanes(groups) : 0;
}

// Floats, and zeros for those that are past the end.
HELIX_INLINE V load_some(const float* from, int64_t count) {
  if (count >= kLanes) return load(from);
  V found{};
  std::memcpy(&found, from, count * sizeof(float));
  return found;
}

// What factored sums begin with: the groups' parts without codes. A lane takes every eighth group.
template <int M, int R>
HELIX_INLINE void begin(const Slice& slice, const float* group_sums, int64_t n, V* sums) {
  const int64_t groups = slice.row_groups, padded = whole_lanes(groups);
  for (int r = 0; r < R; r++) {
    const float* scales = slice.scales + (n + r) * groups;
    const float* biases = slice.biases + (n + r) * groups;
    V found[M] = {};
    for (int64_t g = 0; g < groups; g += kLanes) {
      const V scale = load_some(scales + g, groups - g), bias = load_some(biases + g, groups - g);
      const V middle = fma(scale, same(kMiddle), bias) * same(kShrink);
      unroll<M>([&](auto m) HELIX_LAMBDA {
        found[m.value] = fma(middle, load(group_sums + m.value * padded + g), found[m.value]);
      });
    }
    unroll<M>([&](auto m) HELIX_LAMBDA { sums[m.value * R + r] = found[m.value]; });
  }
}

// Adds the inputs [first, last) to the sums. A group's codes are summed up first and its scale comes after that.
template <class Codes, int M, int R>
HELIX_INLINE void add_factored(const Slice& slice, const float* x, int64_t n, int64_t first, int64_t last, V* sums) {
  constexpr bool kInRegisters = M * R <= 4;
  const uint8_t* codes = slice.codes + n * slice.row_bytes + first / Codes::kSize * Codes::kBytes;
  const float* scales = slice.scales + n * slice.row_groups;
  float* const kept = reinterpret_cast<float*>(sums);
  V near[M * R];
  if constexpr (kInRegisters) unroll<M * R>([&](auto i) HELIX_LAMBDA { near[i.value] = sums[i.value]; });
  for (int64_t k = first; k < last; k += Codes::kSize, codes += Codes::kBytes, x += M * kVectors<Codes> * kLanes) {
    V parts[M][R];
    I words[R];
    unroll<R>([&](auto r) HELIX_LAMBDA {
      words[r.value] = Codes::block(codes + r.value * slice.row_bytes);
      __builtin_prefetch(codes + (r.value + kAhead<M, R>) * slice.row_bytes);
    });
    unroll<M>([&](auto m) HELIX_LAMBDA {
      V begun = load(x + (Codes::kChunks * M + m.value) * kLanes);
      if constexpr (R > 1) hold(begun);
      unroll<R>([&](auto r) HELIX_LAMBDA { parts[m.value][r.value] = begun; });
    });
    unroll<Codes::kChunks>([&](auto c) HELIX_LAMBDA {
      const float* const from = x + c.value * M * kLanes;
      if constexpr (M < R) {
        V part[M];
        unroll<M>([&](auto m) HELIX_LAMBDA { hold(part[m.value] = load(from + m.value * kLanes)); });
        unroll<R>([&](auto r) HELIX_LAMBDA {
          const V values = Codes::values(words[r.value], c.value);
          unroll<M>([&](auto m) HELIX_LAMBDA {
            parts[m.value][r.value] = fma(part[m.value], values, parts[m.value][r.value]);
          });
        });
      } else {
        V values[R];
        unroll<R>([&](auto r) HELIX_LAMBDA { values[r.value] = Codes::values(words[r.value], c.value); });
        unroll<M>([&](auto m) HELIX_LAMBDA {
          V part = load(from + m.value * kLanes);
          if constexpr (R > 1) hold(part);
          unroll<R>([&](auto r) HELIX_LAMBDA {
            parts[m.value][r.value] = fma(part, values[r.value], parts[m.value][r.value]);
          });
        });
      }
    });
    unroll<R>([&](auto r) HELIX_LAMBDA {
      const V scale = same(scales[r.value * slice.row_groups + (k >> slice.group_shift)]);
      unroll<M>([&](auto m) HELIX_LAMBDA {
        constexpr int i = m.value * R + r.value;
        if constexpr (kInRegisters)
          near[i] = fma(parts[m.value][r.value], scale, near[i]);
        else
          put(kept + i * kLanes, fma(parts[m.value][r.value], scale, load(kept + i * kLanes)));
      });
    });
    asm volatile("" ::: "memory");  // the sums stay where they are: there is no register for them
  }
  if constexpr (kInRegisters) unroll<M * R>([&](auto i) HELIX_LAMBDA { sums[i.value] = near[i.value]; });
}

// Adds the inputs [first, last) to the sums, a weight at a time.
template <class Codes, int M, int R>
HELIX_INLINE void add_weights(const Slice& slice, const float* x, int64_t n, int64_t first, int64_t last, V* kept) {
  const uint8_t* codes = slice.codes + n * slice.row_bytes + first / Codes::kSize * Codes::kBytes;
  const float* scales = slice.scales + n * slice.row_groups;
  const float* biases = slice.biases + n * slice.row_groups;
  V sums[M][R];
  unroll<M>([&](auto m) HELIX_LAMBDA {
    unroll<R>([&](auto r) HELIX_LAMBDA { sums[m.value][r.value] = kept[m.value * R + r.value]; });
  });
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
  unroll<M>([&](auto m) HELIX_LAMBDA {
    unroll<R>([&](auto r) HELIX_LAMBDA { kept[m.value * R + r.value] = sums[m.value][r.value]; });
  });
}

}  // namespace
}  // namespace helix
