"""Logs of other layouts, turned into data sets in MIND's format."""
