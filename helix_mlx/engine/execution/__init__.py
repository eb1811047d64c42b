"""Carries out what was decided: the thread, prompts, cycles."""
