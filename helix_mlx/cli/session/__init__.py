"""A chat at the terminal: its state, its commands, its keyboard."""
