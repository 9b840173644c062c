"""The migrations of the event index's tables, one after the other, in `versions`."""
