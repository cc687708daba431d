"""Names of servables and signatures, importable without TensorFlow."""

from pathlib import Path

RECOMMENDER = "genre_recommender"
GENERATOR = "genre_generator"
COUNTED = ("recommend", "recommend_live", "recommend_text", "serving_default")
"""Signatures of the recommender whose answers depend on the counters in its index."""


def changed_answers(news: Path | None) -> tuple[str, ...]:
    """Signatures of the recommender whose answers a refresh may change; () means all (with new articles)."""
    return COUNTED if news is None else ()
