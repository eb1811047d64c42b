"""The suite of `helix-mlx bench`: speed, memory and exactness, compared with mlx-lm."""
