"""Floor 1: array operations, each with a plain MLX definition and fast versions."""
