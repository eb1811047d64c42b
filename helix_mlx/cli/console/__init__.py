"""What is written to the terminal, and how Ctrl-C reaches a command."""
