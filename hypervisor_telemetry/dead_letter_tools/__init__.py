"""Dead letters: found, shown, replayed."""
