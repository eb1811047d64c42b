"""Tables, receipts and pictures."""
