"""News tower, user tower, two-tower retrieval, ranker, generator."""
