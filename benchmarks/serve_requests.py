"""Requests of `genre bench serve`: the same readers for every servable, serialized in advance."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from genre_tf.benchmarks.serve_models import NAIVE
from genre_tf.contract import GENERATOR, RECOMMENDER
from genre_tf.funnel.index import Catalogue
from genre_tf.serving.client import calls

_READERS = 200  # all different, so that caching of answers would not help


@dataclass(frozen=True)
class Readers:
    """Readers drawn from a pool.

    Attributes:
        histories: ids of the clicked articles, one list per reader.
        titles: titles of the same articles.
        candidates: ids of the articles to score, one list per reader.
        candidate_titles: titles of the candidates.
    """

    histories: list[list[str]]
    titles: list[list[str]]
    candidates: list[list[str]]
    candidate_titles: list[list[str]]

    @classmethod
    def of(cls, catalogue: Catalogue, clicks: int, candidates: int) -> "Readers":
        """Draw readers, each with `clicks` clicks and `candidates` candidates, all different articles."""
        random = np.random.default_rng(0)
        rows = [
            1 + random.choice(len(catalogue.titles) - 1, clicks + candidates, replace=False)
            for _ in range(_READERS)
        ]

        def column(values: list[str], part: slice) -> list[list[str]]:
            return [[values[row] for row in reader[part]] for reader in rows]

        clicked, shown = slice(clicks), slice(clicks, None)
        return cls(
            column(catalogue.news_ids, clicked),
            column(catalogue.titles, clicked),
            column(catalogue.news_ids, shown),
            column(catalogue.titles, shown),
        )

    def recommend(self) -> list[bytes]:
        """Requests to `recommend` of the recommender."""
        return _serialized(RECOMMENDER, [calls.recommend([history]) for history in self.histories])

    def score(self) -> list[bytes]:
        """Requests to `score` of the recommender."""
        pairs = zip(self.histories, self.candidates, strict=True)
        return _serialized(RECOMMENDER, [calls.score([history], [shown]) for history, shown in pairs])

    def generate(self) -> list[bytes]:
        """Requests to `generate` of the generator: titles from interest alone."""
        asked = [calls.generate([titles], [""], ["title"], [seed]) for seed, titles in enumerate(self.titles)]
        return _serialized(GENERATOR, asked)

    def naive_recommend(self) -> list[bytes]:
        """Requests of the same readers to the naive `recommend_text`."""
        return _serialized(NAIVE, [calls.recommend_text([titles]) for titles in self.titles])

    def naive_score(self) -> list[bytes]:
        """Requests of the same readers and candidates to the naive `score_text`."""
        pairs = zip(self.titles, self.candidate_titles, strict=True)
        return _serialized(NAIVE, [calls.score_text([titles], [shown]) for titles, shown in pairs])


def _serialized(model: str, asked: list[calls.Call[Any]]) -> list[bytes]:
    return [call.request(model).SerializeToString() for call in asked]
