"""Floor 2: what recurrent layers keep of all positions so far, and how a cycle takes some of its rows back."""
