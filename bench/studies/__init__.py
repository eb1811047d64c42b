"""Measurements of a single aspect each."""
