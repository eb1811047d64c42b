#include "scan_kernel.h"

#include "lanes.h"

namespace helix {
namespace {

constexpr int kSums = 4;  // vectors that a sum is shared between, so that additions need not wait for each other

// Sums of products in an order that depends on their number alone.
struct Sum {
  V parts[kSums] = {zero(), zero(), zero(), zero()};
  float rest = 0;

  HELIX_INLINE float total() const { return sum((parts[0] + parts[1]) + (parts[2] + parts[3])) + rest; }
};

// Calls vector(i, j) for each whole vector at i, whose part of a sum is j, and scalar(i) for the elements after them.
template <class F, class G>
HELIX_INLINE void each(int64_t keys, const F& vector, const G& scalar) {
  int64_t i = 0;
  for (; i + kSums * kLanes <= keys; i += kSums * kLanes)
    unroll<kSums>([&](auto j) HELIX_LAMBDA { vector(i + j.value * kLanes, j.value); });
  for (; i + kLanes <= keys; i += kLanes) vector(i, 0);
  for (; i < keys; i++) scalar(i);
}

template <bool gate_a_key>
HELIX_INLINE V gate(const float* g, int64_t i) {
  if constexpr (gate_a_key) return load(g + i);
  return same(*g);
}

// s *= g; the result is s . k.
template <bool gate_a_key>
float decay(float* s, const float* g, const float* k, int64_t keys) {
  Sum total;
  each(keys, [&](int64_t i, int j) HELIX_LAMBDA {
    const V decayed = load(s + i) * gate<gate_a_key>(g, i);
    put(s + i, decayed);
    total.parts[j] = fma(decayed, load(k + i), total.parts[j]);
  }, [&](int64_t i) HELIX_LAMBDA {
    s[i] = s[i] * g[gate_a_key ? i : 0];
    total.rest = total.rest + s[i] * k[i];
  });
  return total.total();
}

// s *= g, without a product.
template <bool gate_a_key>
void fade(float* s, const float* g, int64_t keys) {
  each(keys, [&](int64_t i, int) HELIX_LAMBDA { put(s + i, load(s + i) * gate<gate_a_key>(g, i)); },
       [&](int64_t i) HELIX_LAMBDA { s[i] = s[i] * g[gate_a_key ? i : 0]; });
}

// s += k * u; the result is s . q, or 0 without q.
float write(float* s, const float* k, float u, const float* q, int64_t keys) {
  Sum total;
  const V all = same(u);
  each(keys, [&](int64_t i, int j) HELIX_LAMBDA {
    const V written = fma(load(k + i), all, load(s + i));
    put(s + i, written);
    if (q) total.parts[j] = fma(written, load(q + i), total.parts[j]);
  }, [&](int64_t i) HELIX_LAMBDA {
    s[i] = s[i] + k[i] * u;
    if (q) total.rest = total.rest + s[i] * q[i];
  });
  return total.total();
}

template <bool gate_a_key>
void scan_row(const ScanJob& a, int64_t index) {
  const int64_t row = index % a.rows, head = index / a.rows % a.heads, b = index / a.rows / a.heads;
  const int64_t shared = head / (a.heads / a.key_heads);
  float own[kMostKeys];
  float* s = a.out ? a.out + index * a.keys : own;
  if (s != a.state + index * a.keys) std::memcpy(s, a.state + index * a.keys, a.keys * sizeof(float));
  int64_t steps = a.steps;
  if (a.kept && a.kept[b] < steps) steps = a.kept[b];
  for (int64_t t = 0; t < steps; t++) {
    const int64_t at = b * a.steps + t, mine = at * a.heads + head;
    const float* k = a.k + (at * a.key_heads + shared) * a.keys;
    const float* q = a.q ? a.q + (at * a.key_heads + shared) * a.keys : nullptr;
    const float* g = a.g + mine * (gate_a_key ? a.keys : 1);
    float u = a.v[mine * a.rows + row];
    if (a.beta)
      u = (u - decay<gate_a_key>(s, g, k, a.keys)) * a.beta[mine];
    else
      fade<gate_a_key>(s, g, a.keys);
    const float y = write(s, k, u, q, a.keys);
    if (a.y) a.y[mine * a.rows + row] = y;
  }
}

void rows(const ScanJob& a, int64_t first, int64_t last) {
  for (int64_t index = first; index < last; index++) {
    if (a.gate_a_key)
      scan_row<true>(a, index);
    else
      scan_row<false>(a, index);
  }
}

}  // namespace

extern const ScanForm HELIX_FORM(scan_form){rows};

}  // namespace helix
