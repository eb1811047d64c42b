"""Multi-token-prediction heads: a target's own layer that foresees the token after the next."""
