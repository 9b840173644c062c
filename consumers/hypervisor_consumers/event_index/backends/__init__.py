"""The databases that the event index can be kept in, each with what it does in its own way."""
