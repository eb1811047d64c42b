// What the forms of scan_kernel.cpp offer to scan_job.cpp.
#pragma once

#include "isa.h"
#include "scan_job.h"

namespace helix {

struct ScanForm {
  // Rows [first, last) of all states, counted through sequences and heads.
  void (*rows)(const ScanJob&, int64_t first, int64_t last);
};

extern const ScanForm scan_form_portable;
#if defined(__x86_64__)
extern const ScanForm scan_form_avx2;
extern const ScanForm scan_form_avx512;
#elif defined(__aarch64__)
extern const ScanForm scan_form_neon;
#endif

}  // namespace helix
