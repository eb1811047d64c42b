"""Decides who runs and how many tokens are drafted. Plain Python but for what a sequence holds."""
