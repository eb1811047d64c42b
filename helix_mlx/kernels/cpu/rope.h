// Rotary position embedding, as an MLX primitive bound into the library's Python module.
#pragma once

#include <nanobind/nanobind.h>

namespace helix {

void bind_rope(nanobind::module_& module);

}  // namespace helix
