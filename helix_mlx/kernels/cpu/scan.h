// The recurrence of linear attention layers, as MLX primitives bound into the library's Python module.
#pragma once

#include <nanobind/nanobind.h>

namespace helix {

void bind_scan(nanobind::module_& module);

}  // namespace helix
