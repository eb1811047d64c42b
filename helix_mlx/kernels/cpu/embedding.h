// Rows of a quantised matrix, as an MLX primitive bound into the library's Python module.
#pragma once

#include <nanobind/nanobind.h>

namespace helix {

void bind_embedding(nanobind::module_& module);

}  // namespace helix
