"""The choice of draft lengths, in modelled time."""
