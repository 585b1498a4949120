"""Other people's training loops, in which the same methods work."""
