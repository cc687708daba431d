"""Strings to token ids and back, inside the graph."""
