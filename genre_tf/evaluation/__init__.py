"""Ranking and text metrics, slices, baselines, reports."""
