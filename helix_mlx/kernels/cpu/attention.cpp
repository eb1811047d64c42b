#include "attention.h"

namespace helix {

void bind_attention(nanobind::module_&) {}

}  // namespace helix
