"""A seeded newsroom in MIND's format whose true click probabilities are known."""
