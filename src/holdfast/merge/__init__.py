"""Arithmetic on weights: paths between checkpoints."""
