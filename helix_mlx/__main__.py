"""`python -m helix_mlx`: the same as `helix-mlx`."""

from helix_mlx.cli import main

if __name__ == "__main__":
    main()
