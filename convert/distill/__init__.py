"""Teaching the draft of a pair what its own target says."""
