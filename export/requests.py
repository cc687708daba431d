"""Requests that verify every export, usual ones and unusual ones, from the inputs that the contract lists."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from genre_tf.contract import COUNTED, COUNTERS, EXAMPLES_INPUT, RECOMMENDER, SIGNATURES, Signature
from genre_tf.export.exchanges import Exchange, as_bytes
from genre_tf.funnel.index import Catalogue

_LONG_HISTORY = 10_000
_HISTORY, _CANDIDATES = 20, 30  # of a usual reader
_ODD_BYTES = b"\xff\xfe \xc3( caf\xe9"

Inputs = dict[str, np.ndarray]


def recorded_requests(servable: str, catalogue: Catalogue, seed: int = 0) -> list[Exchange]:
    """Requests without answers for every signature: a usual row alone, and all kinds of rows in one batch.

    Args:
        servable: name of the servable.
        catalogue: articles to ask about.
        seed: seed of the random choice of articles.
    """
    rows = _Rows(catalogue, seed)
    return [
        Exchange(name, case, rows.inputs(signature, usual))
        for name, signature in SIGNATURES[servable].items()
        for case, usual in (("alone", True), ("all kinds of rows", False))
    ]


def counted_requests(catalogue: Catalogue) -> list[Exchange]:
    """The requests whose answers depend on counters; none of them has titles to encode."""
    text, case = "recommend_text", "a reader without titles"
    known = [one for one in recorded_requests(RECOMMENDER, catalogue) if one.signature in COUNTED]
    return [
        *(one for one in known if one.signature != text),
        Exchange(text, case, {"history_text": as_bytes([""])}),
    ]


def warmup_requests(servable: str, catalogue: Catalogue) -> dict[str, Inputs]:
    """One usual row for every signature."""
    rows = _Rows(catalogue, 0)
    return {name: rows.inputs(signature, usual=True) for name, signature in SIGNATURES[servable].items()}


def example(**features: Sequence[str | bytes]) -> bytes:
    """A serialized `tf.Example` of bytes features."""
    built = tf.train.Example()
    for name, values in features.items():
        built.features.feature[name].bytes_list.value.extend(as_bytes(values))
    return bytes(built.SerializeToString(deterministic=True))


class _Rows:
    """Rows of requests as columns: for each input the value of a usual row, and then those of odd rows."""

    def __init__(self, catalogue: Catalogue, seed: int) -> None:
        self.catalogue = catalogue
        self.random = np.random.default_rng(seed)
        numbers = [
            self._numbers(_CANDIDATES),
            "1 x -3 nan 1e3 inf",
            "",
            "5 6 7",
            "1e99 .5 +2.",
            _ODD_BYTES,
        ]
        self.columns: dict[str, list[Any]] = {
            **self._ids_in_rows(),
            **self._texts_in_rows(),
            **dict.fromkeys(COUNTERS, numbers),
            "views": [numbers[0], *numbers[:0:-1]],
            "kind": ["title", "title", "summary", "body", b"\xff", "no such kind"],
            "seed": list(range(1, 7)),
        }

    def inputs(self, signature: Signature, usual: bool) -> Inputs:
        """The usual row, or all rows."""
        columns = {one.name: self.columns[one.name][: 1 if usual else None] for one in signature.inputs}
        return {
            one.name: as_bytes(columns[one.name])
            if one.dtype == "string"
            else np.array(columns[one.name], one.dtype)
            for one in signature.inputs
        }

    def _ids_in_rows(self) -> dict[str, list[Any]]:
        history, twice = self._ids(_HISTORY), self._ids(2)
        candidates = [
            self._ids(_CANDIDATES),
            self._ids(1),
            "",
            f"{twice} no_such_article {twice}",
            self._ids(100),
            _ODD_BYTES + b" " + self._ids(1).encode(),
        ]
        histories = [
            history,
            "",
            self._ids(1),
            "no_such_article " + self._ids(3) + " nor_this",
            self._ids(_LONG_HISTORY),
            _ODD_BYTES + b"  " + self._ids(2).encode() + b"\t\n",
        ]
        examples = [
            example(history=[history], candidate=[self._ids(1)]),
            b"",
            example(history=self._ids(3).split()),
            example(history=self._ids(3).split(), candidate=[self._ids(2)], another=["feature"]),
            example(candidate=["no_such_article", self._ids(1)]),
            example(history=[_ODD_BYTES, self._ids(2)], candidate=["", self._ids(1), _ODD_BYTES]),
        ]
        return {
            "history": histories,
            "candidates": candidates,
            "news_id": candidates,
            EXAMPLES_INPUT: examples,
        }

    def _texts_in_rows(self) -> dict[str, list[Any]]:
        title, odd = self._titles(1), _ODD_BYTES + "\n新闻 😀".encode()
        return {
            "history_text": [
                self._titles(_HISTORY),
                "",
                "An article that no index knows",
                "\n\n  \n" + self._titles(2) + "\r\n\n",
                self._titles(200),
                _ODD_BYTES + b"\n" + self._titles(1).encode() + "\n新闻 😀".encode(),
            ],
            "candidates_text": [
                self._titles(_CANDIDATES),
                title,
                "",
                f"{title}\n\n{title}\n",
                "新闻 😀\n" + "very " * 500 + "long",
                _ODD_BYTES,
            ],
            "text": [title, "", " ", "word " * 2000, "新闻 😀", _ODD_BYTES],
            "source": [
                self._titles(3),
                "",
                "",
                "word " * 3000,
                odd,
                'On 5 May 2031 the mayor said: "We will rebuild."',
            ],
            "question": [f"What is new about {title}?", title, "", " \n ", "What " * 3000, odd],
        }

    def _ids(self, count: int) -> str:
        return " ".join(self.catalogue.news_ids[row] for row in self._chosen(count))

    def _titles(self, count: int) -> str:
        return "\n".join(" ".join(self.catalogue.titles[row].split()) for row in self._chosen(count))

    def _chosen(self, count: int) -> list[int]:
        size = len(self.catalogue.news_ids)
        return self.random.integers(1, size, count).tolist() if size > 1 else []

    def _numbers(self, count: int) -> str:
        return " ".join(str(number) for number in self.random.integers(0, 500, count))
