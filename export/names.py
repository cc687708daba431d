"""Names of servables and signatures, and of folders that can hold them; importable without TensorFlow."""

import re
from pathlib import Path

from genre_tf.errors import InputError

RECOMMENDER = "genre_recommender"
GENERATOR = "genre_generator"
COUNTED = ("recommend", "recommend_live", "recommend_text", "serving_default")
"""Signatures of the recommender whose answers depend on the counters in its index."""

# TensorFlow looks for a SavedModel's variables by a file pattern, their path, in which these do not stand for
# themselves. A lone bracket, * and ? do.
_PATTERN = re.compile(r"\\|\[[^/]+\]")


def read_as_pattern(path: str) -> str:
    """The part of a path because of which TensorFlow cannot load a SavedModel from it; empty if it can."""
    found = _PATTERN.search(path)
    return found[0] if found else ""


def check_models_path(models: Path) -> None:
    """Refuse, before any work, a folder from which TensorFlow cannot load a SavedModel.

    Raises:
        InputError: its path has a backslash or a pair of brackets.
    """
    path = str(models.resolve())
    if part := read_as_pattern(path):
        raise InputError(
            f"TensorFlow cannot load models from {path}, because it reads {part!r} as a file pattern: "
            "give a folder for the models whose path has no brackets and no backslash"
        )


def changed_answers(news: Path | None) -> tuple[str, ...]:
    """Signatures of the recommender whose answers a refresh may change; () means all (with new articles)."""
    return COUNTED if news is None else ()
