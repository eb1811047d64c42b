#include "embedding_job.h"

#include <algorithm>

#include "pool.h"

namespace helix {
namespace {

template <int bits>
void embed_row(const Weights& w, int64_t row, float* y) {
  constexpr int kCodes = 32 / bits;
  constexpr uint32_t kMask = (1u << bits) - 1;
  const uint32_t* codes = w.codes + row * (w.inputs / kCodes);
  const int64_t groups = w.inputs / w.group;
  const float* scales = w.scales + row * groups;
  const float* biases = w.biases + row * groups;
  for (int64_t group = 0; group < groups; group++)
    for (int word = 0; word < w.group / kCodes; word++, codes++, y += kCodes)
      for (int i = 0; i < kCodes; i++)
        y[i] = scales[group] * static_cast<float>(*codes >> (i * bits) & kMask) + biases[group];
}

}  // namespace

void embed(const Weights& w, const int32_t* ids, int64_t count, float* y) {
  parallel_runs(count, w.inputs, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) {
      const int64_t id = ids[i] < 0 ? ids[i] + w.outputs : ids[i];
      const int64_t row = std::clamp<int64_t>(id, 0, w.outputs - 1);
      if (w.bits == 4)
        embed_row<4>(w, row, y + i * w.inputs);
      else
        embed_row<8>(w, row, y + i * w.inputs);
    }
  });
}

}  // namespace helix
