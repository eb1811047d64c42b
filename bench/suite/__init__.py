"""What `helix-mlx bench` runs: speed, memory and exactness beside mlx-lm."""
