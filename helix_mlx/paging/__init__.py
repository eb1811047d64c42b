"""Floor 2: pages that are written once, the tails that grow, and the tables that tie them to sequences."""
