// What the forms of qmm_kernel.cpp offer to qmm.cpp.
#pragma once

#include "isa.h"
#include "qmm.h"

namespace helix {

constexpr int kMostRows = 6;    // rows of x that one pass over the weights serves, at most
constexpr int kTileStep = 24;   // a multiple of every number of weight rows that a tile takes
constexpr int kMostStep = 120;  // outputs in a chunk, at most

struct QmmForm {
  int rows;  // of x in a block: as many as the registers hold sums for
  // Floats that an arranged row of x takes.
  int64_t (*room)(const Weights&);
  // Copies row m of a block of x as float32 into the order that `multiply` reads. `arranged` is the block's first float.
  void (*arrange)(const Weights&, const void* x, Scalar type, int64_t stride, float* arranged, int m, int rows);
  // Outputs [first, last) of a block of arranged rows, at most `rows` of them, into y[m][0...].
  void (*multiply)(const Weights&, const float* arranged, int rows, float* const* y, int64_t first, int64_t last);
  // Copies float32 into a row of y.
  void (*store)(const float* from, int64_t count, Scalar type, void* to);
};

extern const QmmForm qmm_form_portable;
#if defined(__x86_64__)
extern const QmmForm qmm_form_avx2;
extern const QmmForm qmm_form_avx512;
#elif defined(__aarch64__)
extern const QmmForm qmm_form_neon;
#endif

}  // namespace helix
