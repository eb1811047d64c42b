// Rows over their root mean square, as an MLX primitive bound into the library's Python module.
#pragma once

#include <nanobind/nanobind.h>

namespace helix {

void bind_rms_norm(nanobind::module_& module);

}  // namespace helix
