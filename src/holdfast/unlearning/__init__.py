"""Unlearning of classifiers: requests, which examples are hardest to forget, and attacks."""
