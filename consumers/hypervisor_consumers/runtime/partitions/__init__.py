"""An assigned partition: its state, its changelog, the event ids it knows, and how it is restored."""
