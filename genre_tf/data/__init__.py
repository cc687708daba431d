"""Logs: reading, counters, batches."""

from genre_tf.lazy import offered

_MODULES = {
    "Articles": "genre_tf.data.click_log",
    "ClickLog": "genre_tf.data.click_log",
    "NewsroomSettings": "genre_tf.synth.settings",
    "read_mind": "genre_tf.data.click_log",
    "write_newsroom": "genre_tf.synth.newsroom",
}
__all__ = list(_MODULES)
__getattr__ = offered(__name__, _MODULES)
