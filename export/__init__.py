"""SavedModels: signatures, portability gate, warmup, publishing, verification."""
