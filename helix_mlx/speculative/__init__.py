"""Floor 4: drafters and verification rules."""
