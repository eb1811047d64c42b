// The recurrence of a linear attention layer on the CPU. MLX plays no part in it.
#pragma once

#include <cstdint>

namespace helix {

// For each step t and each row of a head's state, s [keys]:
//   s = s * g + k * u,  y = s . q,  where u = (v - (s * g) . k) * beta, or v where there is no beta.
// All arrays are dense float32: q and k [batch, steps, key_heads, keys]; v and y [batch, steps, heads, rows]; g
// [batch, steps, heads], or [batch, steps, heads, keys]; beta [batch, steps, heads]; states [batch, heads, rows, keys].
struct ScanJob {
  const float *q, *k, *v, *g, *beta;  // q is null where y is; beta may be
  const float* state;
  const int32_t* kept;  // by sequence, the steps that are taken; null is all
  float *y, *out;       // either may be null
  int64_t batch, steps, key_heads, heads, rows, keys;
  bool gate_a_key;      // g has a factor a key
};

constexpr int64_t kMostKeys = 4096;

// Computes the job, in parallel where it is large. Each row's bits depend on its own operands and steps alone.
void scan(const ScanJob& job);

}  // namespace helix
