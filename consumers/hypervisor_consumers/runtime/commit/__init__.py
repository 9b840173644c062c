"""One transaction after another: changes, outputs, dead letters and offsets, all or nothing."""
