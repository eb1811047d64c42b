"""Benchmarks of Helix, compared with mlx-lm on the same weights in the same run."""
