"""Making models for Helix: quantising checkpoints, and the recipe of the built-in pair."""
