"""SavedModels: signatures, portability gate, warmup, publishing, verification."""

from typing import Any


def __getattr__(name: str) -> Any:
    """`write_models`, imported when it is first used: it needs TensorFlow, and other modules here do not."""
    if name == "write_models":
        from genre_tf.export.exporting import write_models

        return write_models
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
