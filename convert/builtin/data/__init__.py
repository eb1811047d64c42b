"""What the built-in pair is trained on."""
