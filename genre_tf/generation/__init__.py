"""Decoding, grounding, safety and ranking of written text."""
