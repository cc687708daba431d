"""SavedModels: signatures, portability gate, warmup, publishing, verification."""

from genre_tf.lazy import offered

__all__ = ["write_models"]
__getattr__ = offered(__name__, {"write_models": "genre_tf.export.exporting"})
