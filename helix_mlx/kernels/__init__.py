"""Floor 1: operations on arrays, each in plain MLX (its definition) beside its fast forms."""
