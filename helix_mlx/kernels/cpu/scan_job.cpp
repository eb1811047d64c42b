#include "scan_job.h"

#include "pool.h"
#include "scan_kernel.h"

namespace helix {
namespace {

const ScanForm& form() {
  switch (isa()) {
#if defined(__x86_64__)
    case Isa::avx2: return scan_form_avx2;
    case Isa::avx512: return scan_form_avx512;
#elif defined(__aarch64__)
    case Isa::neon: return scan_form_neon;
#endif
    default: return scan_form_portable;
  }
}

}  // namespace

void scan(const ScanJob& job) {
  const ScanForm& form = helix::form();
  parallel_runs(job.batch * job.heads * job.rows, job.keys * job.steps, [&](int64_t first, int64_t last) {
    form.rows(job, first, last);
  });
}

}  // namespace helix
