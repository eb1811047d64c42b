"""Floor 6: the command line, one file per command. `helix-mlx --help` does not import MLX."""

from helix_mlx.cli.app import main

__all__ = ["main"]
