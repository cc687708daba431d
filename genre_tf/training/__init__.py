"""Training: every stage into one run folder."""
