"""Logs: reading, counters, batches."""

from genre_tf.lazy import offered

__all__ = ["Articles", "ClickLog", "read_mind"]
__getattr__ = offered(__name__, dict.fromkeys(__all__, "genre_tf.data.click_log"))
