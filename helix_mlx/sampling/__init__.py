"""Floor 1: from logits to probabilities, and from probabilities and keyed random numbers to tokens."""
