"""Floor 1: logits to probabilities, and probabilities plus keyed random numbers to tokens."""
