"""Floor 3: models, tokenizers and pairs, loaded through mlx-lm."""
