// Attention over pages and a tail, read where they lie.
#pragma once

#include <cstdint>

#include "qmm.h"

namespace helix {

// A tensor of four axes; strides in elements.
struct Strided {
  const void* data;
  int64_t strides[4];
};

// What one operation reads and writes. Position p of sequence b lies in page table[b, p / page_size] while
// p < committed[b], and in tail slot p - committed[b] after that. Row i of a sequence sits at position lengths[b] + i.
struct AttentionJob {
  Strided queries;                  // [batch, kv_heads * group, rows, key_dim]
  Strided key_pages, value_pages;   // [pages, page_size, kv_heads, dim], in whatever order they lie
  Strided key_tail, value_tail;     // [batch, slots, kv_heads, dim]
  const int32_t* table;             // [batch, table_width]
  const int32_t* committed;         // [batch]
  const int32_t* lengths;           // [batch]
  const float* sinks;               // [kv_heads * group] or null
  void* out;                        // [batch, rows, kv_heads * group, value_dim]
  Scalar type;                      // of every tensor
  int64_t batch, kv_heads, group, rows, key_dim, value_dim;
  int64_t page_size, table_width, slots;
  int64_t window;                   // positions that a row sees at most, its own included
  float scale;
};

void attend(const AttentionJob& job);

}  // namespace helix
