"""Ring events to counts, rings and elevations. Pure."""
