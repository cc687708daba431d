"""Fitting the stages into a run folder."""
