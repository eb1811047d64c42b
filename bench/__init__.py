"""Measurements of Helix, each against mlx-lm on the same weights in the same run."""
