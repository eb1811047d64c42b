// What the forms of attention_kernel.cpp offer to attention_job.cpp.
//
// Positions are taken in spans of kSpan, counted from position 0 of a sequence. Within a span each row has a softmax
// of its own, and the spans are merged in their order. So what a row yields depends on its query and on the keys and
// values it sees alone: on no other row, and not on where they lie.
#pragma once

#include "isa.h"

namespace helix {

constexpr int kSpan = 256;     // positions in a span
constexpr int kMostQueries = 64;  // rows that one pass over a span serves
constexpr int kKeyTile = 64;   // positions whose keys are transposed at a time
constexpr int kWidth = 16;     // the floats of every row are filled up with zeros to a multiple of this

// The result of rows over some positions, before the division: their highest score, the sum of exp(score - most), and
// the values weighted by it, [rows, value_width].
struct Partial {
  float* most;
  float* total;
  float* values;
};

// One span for some rows that share a head of keys. Positions are counted from its beginning.
struct SpanPass {
  const float* const* keys;    // by position, key_width floats; those of every touched vector of positions are set
  const float* const* values;  // by position, value_width floats
  const float* queries;        // [rows, key_width], scaled
  const int* first;            // by row: the first position it sees,
  const int* last;             // and the one after the last; none is seen where first >= last
  int rows, key_width, value_width;
  float* transposed;           // room for [key_width, kKeyTile]
  float* scores;               // room for [rows, kSpan]
};

struct AttentionForm {
  // The partial result of one span.
  void (*span)(const SpanPass&, const Partial& out);
  // Takes the partial result of the next span into that of the spans before it. `most` and `total` have room for a
  // multiple of kWidth rows.
  void (*merge)(int rows, int value_width, const Partial& next, const Partial& into);
};

extern const AttentionForm attention_form_portable;
#if defined(__x86_64__)
extern const AttentionForm attention_form_avx2;
extern const AttentionForm attention_form_avx512;
#elif defined(__aarch64__)
extern const AttentionForm attention_form_neon;
#endif

}  // namespace helix
