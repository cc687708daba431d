"""Requests that verify every export of the recommender: usual ones and unusual ones."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from genre_tf.contract import COUNTED, COUNTERS, EXAMPLES_INPUT, RECOMMENDER, SIGNATURES
from genre_tf.export.exchanges import Exchange, as_bytes
from genre_tf.funnel.index import Catalogue

_LONG_HISTORY = 10_000
_USUAL_HISTORY, _USUAL_CANDIDATES = 20, 30
_ODD_BYTES = b"\xff\xfe \xc3( caf\xe9"


def recommender_requests(catalogue: Catalogue, seed: int = 0) -> list[Exchange]:
    """Requests without answers for every signature: a usual row alone, and all kinds of rows in one batch.

    Args:
        catalogue: articles to ask about.
        seed: seed of the random choice of articles.
    """
    rows = _Rows(catalogue, seed)
    requests = []
    for name, signature in SIGNATURES[RECOMMENDER].items():
        requests.append(Exchange(name, "alone", rows.usual(signature.input_names)))
        requests.append(Exchange(name, "all kinds of rows", rows.odd(signature.input_names)))
    return requests


def counted_requests(catalogue: Catalogue, seed: int = 0) -> list[Exchange]:
    """The requests whose answers depend on counters; none of them has titles to encode."""
    known = [one for one in recommender_requests(catalogue, seed) if one.signature in COUNTED]
    text, case = "recommend_text", "a reader without titles"
    return [
        *(one for one in known if one.signature != text),
        Exchange(text, case, {"history_text": as_bytes([""])}),
    ]


def warmup_requests(catalogue: Catalogue, seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """One usual row for every signature."""
    rows = _Rows(catalogue, seed)
    return {name: rows.usual(one.input_names) for name, one in SIGNATURES[RECOMMENDER].items()}


def example(**features: Sequence[str | bytes]) -> bytes:
    """A serialized `tf.Example` of bytes features."""
    built = tf.train.Example()
    for name, values in features.items():
        built.features.feature[name].bytes_list.value.extend(as_bytes(values))
    return bytes(built.SerializeToString(deterministic=True))


class _Rows:
    """Chooses articles and joins them into the strings of requests."""

    def __init__(self, catalogue: Catalogue, seed: int) -> None:
        self.catalogue = catalogue
        self.random = np.random.default_rng(seed)
        self.usual_rows: dict[str, str | bytes] = {
            "history": self._ids(_USUAL_HISTORY),
            "candidates": self._ids(_USUAL_CANDIDATES),
            "history_text": self._titles(_USUAL_HISTORY),
            "candidates_text": self._titles(_USUAL_CANDIDATES),
            "news_id": self._ids(_USUAL_CANDIDATES),
            **{name: self._numbers(_USUAL_CANDIDATES) for name in COUNTERS},
            "text": self._titles(1),
        }
        self.usual_rows[EXAMPLES_INPUT] = example(
            history=[self.usual_rows["history"]], candidate=[self._ids(1)]
        )

    def usual(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        return {name: as_bytes([self.usual_rows[name]]) for name in names}

    def odd(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        kinds = {
            "history": self._odd_histories(),
            "candidates": self._odd_candidates(),
            "history_text": self._odd_history_texts(),
            "candidates_text": self._odd_candidate_texts(),
            "news_id": self._odd_candidates(),
            **{name: self._odd_numbers() for name in COUNTERS},
            "views": self._odd_numbers()[::-1],
            "text": self._odd_texts(),
            EXAMPLES_INPUT: self._odd_examples(),
        }
        return {name: as_bytes(kinds[name]) for name in names}

    def _odd_histories(self) -> list[str | bytes]:
        return [
            self.usual_rows["history"],
            "",
            self._ids(1),
            "no_such_article " + self._ids(3) + " nor_this",
            self._ids(_LONG_HISTORY),
            _ODD_BYTES + b"  " + self._ids(2).encode() + b"\t\n",
        ]

    def _odd_candidates(self) -> list[str | bytes]:
        twice = self._ids(2)
        return [
            self.usual_rows["candidates"],
            self._ids(1),
            "",
            f"{twice} no_such_article {twice}",
            self._ids(100),
            _ODD_BYTES + b" " + self._ids(1).encode(),
        ]

    def _odd_history_texts(self) -> list[str | bytes]:
        return [
            self.usual_rows["history_text"],
            "",
            "An article that no index knows",
            "\n\n  \n" + self._titles(2) + "\r\n\n",
            self._titles(200),
            _ODD_BYTES + b"\n" + self._titles(1).encode() + "\n新闻 😀".encode(),
        ]

    def _odd_candidate_texts(self) -> list[str | bytes]:
        title = self._titles(1)
        return [
            self.usual_rows["candidates_text"],
            title,
            "",
            f"{title}\n\n{title}\n",
            "新闻 😀\n" + "very " * 500 + "long",
            _ODD_BYTES,
        ]

    def _odd_texts(self) -> list[str | bytes]:
        return [self._titles(1), "", " ", "word " * 2000, "新闻 😀", _ODD_BYTES]

    def _odd_numbers(self) -> list[str | bytes]:
        return [
            "1 x -3 nan 1e3 inf",
            "",
            "5 6 7",
            self._numbers(_USUAL_CANDIDATES),
            "1e99 .5 +2.",
            _ODD_BYTES,
        ]

    def _odd_examples(self) -> list[str | bytes]:
        return [
            self.usual_rows[EXAMPLES_INPUT],
            b"",
            example(history=self._ids(3).split()),
            example(history=self._ids(3).split(), candidate=[self._ids(2)], another=["feature"]),
            example(candidate=["no_such_article", self._ids(1)]),
            example(history=[_ODD_BYTES, self._ids(2)], candidate=["", self._ids(1), _ODD_BYTES]),
        ]

    def _ids(self, count: int) -> str:
        return " ".join(self.catalogue.news_ids[row] for row in self._chosen(count))

    def _titles(self, count: int) -> str:
        return "\n".join(" ".join(self.catalogue.titles[row].split()) for row in self._chosen(count))

    def _chosen(self, count: int) -> list[int]:
        size = len(self.catalogue.news_ids)
        if size == 1:
            return []
        return self.random.integers(1, size, count).tolist()

    def _numbers(self, count: int) -> str:
        return " ".join(str(number) for number in self.random.integers(0, 500, count))
