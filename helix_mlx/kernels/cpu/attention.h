// Paged attention for the CPU, bound into the library's Python module.
#pragma once

#include <nanobind/nanobind.h>

namespace helix {

void bind_attention(nanobind::module_& module);

}  // namespace helix
