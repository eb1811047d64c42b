"""Floor 2: write-once pages, growing tails, and the block tables that map sequences to pages."""
