// Which form of the kernels runs. Each file *_kernel.cpp is compiled once for each form, with HELIX_ISA its name.
//
// Such a file must keep everything but its entry points in an anonymous namespace and use no inline function of a
// library: the linker keeps one copy of those, and it might be one that this processor cannot run.
#pragma once

#define HELIX_JOIN_(a, b) a##_##b
#define HELIX_JOIN(a, b) HELIX_JOIN_(a, b)
// The name of an entry point in this form: HELIX_FORM(rows) is rows_avx512 and so on.
#define HELIX_FORM(name) HELIX_JOIN(name, HELIX_ISA)

namespace helix {

enum class Isa { portable, avx2, avx512, neon };

// The best form that this processor can run, or the one that was set.
Isa isa();

// "portable", "avx2", "avx512" or "neon".
const char* isa_name(Isa which);

// Sets the form by its name, for tests; "auto" is the best one. False where this processor cannot run it.
bool set_isa(const char* name);

}  // namespace helix
