#include "isa.h"

#include <atomic>
#include <cstring>

namespace helix {
namespace {

constexpr Isa kAll[] = {Isa::portable, Isa::avx2, Isa::avx512, Isa::neon};

bool runs(Isa which) {
  switch (which) {
    case Isa::portable:
      return true;
#if defined(__x86_64__)
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    case Isa::avx512:
      return runs(Isa::avx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#elif defined(__aarch64__)
    case Isa::neon:
      return true;
#endif
    default:
      return false;
  }
}

Isa best() {
  Isa found = Isa::portable;
  for (Isa which : kAll)
    if (runs(which)) found = which;
  return found;
}

std::atomic<Isa>& chosen() {
  static std::atomic<Isa> isa{best()};
  return isa;
}

}  // namespace

Isa isa() { return chosen().load(std::memory_order_relaxed); }

const char* isa_name(Isa which) {
  constexpr const char* names[] = {"portable", "avx2", "avx512", "neon"};
  return names[static_cast<int>(which)];
}

bool set_isa(const char* name) {
  if (!std::strcmp(name, "auto")) {
    chosen() = best();
    return true;
  }
  for (Isa which : kAll) {
    if (!std::strcmp(name, isa_name(which)) && runs(which)) {
      chosen() = which;
      return true;
    }
  }
  return false;
}

}  // namespace helix
