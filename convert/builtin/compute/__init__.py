"""How it is trained on a CPU in reasonable time."""
