"""Names of servables and signatures, for whoever needs no more of them than that."""

from pathlib import Path

RECOMMENDER = "genre_recommender"
GENERATOR = "genre_generator"
COUNTED = ("recommend", "recommend_live", "recommend_text", "serving_default")
"""Signatures of the recommender that answer by the counters of its index; all others know none of them."""


def changed_answers(news: Path | None) -> tuple[str, ...]:
    """Signatures of the recommender whose answers a refresh may change; (), with new articles, means all."""
    return COUNTED if news is None else ()
