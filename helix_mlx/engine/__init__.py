"""Floor 5: sequences, the one cycle, and the facade that callers use."""
