"""The parts of a transformer, of any architecture and whatever holds its weights."""
