"""Families of mlx-lm that are written for sequences of one length, and what lets them take several."""
