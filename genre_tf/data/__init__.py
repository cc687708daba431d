"""Logs to training examples."""
