"""Converts logs in other layouts to data sets in MIND's format."""
