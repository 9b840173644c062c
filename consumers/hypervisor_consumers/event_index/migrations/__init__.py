"""How the event index's tables came to be what they are: one step after the other, in `versions`."""
