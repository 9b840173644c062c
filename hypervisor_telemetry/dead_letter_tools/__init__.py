"""Tools that find, show and replay dead letters."""
