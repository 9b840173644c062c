"""The databases that can hold the event index, and the store that is the same on both."""
