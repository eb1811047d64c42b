"""Floor 6: the command line, one file a command. `helix-mlx --help` imports no MLX."""

from helix_mlx.cli.app import main

__all__ = ["main"]
