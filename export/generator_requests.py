"""Requests that verify every export of the generator: usual ones and unusual ones."""

from typing import Any

import numpy as np

from genre_tf.contract import DEFAULT_SIGNATURE, GENERATOR, SIGNATURES
from genre_tf.export.exchanges import Exchange, as_bytes
from genre_tf.funnel.index import Catalogue

_USUAL_HISTORY = 10
_ODD_BYTES = b"\xff\xfe\n" + "新闻 😀".encode()


def generator_requests(catalogue: Catalogue, seed: int = 0) -> list[Exchange]:
    """Requests without answers: one usual row alone, and all kinds of rows in one batch.

    Args:
        catalogue: articles to ask about.
        seed: first seed of the texts.
    """
    usual = warmup_requests(catalogue)
    odd = {name: _columns(name, rows, seed) for name, rows in _odd_rows(catalogue).items()}
    odd[DEFAULT_SIGNATURE] = odd["generate"]
    return [
        Exchange(name, case, rows)
        for name in usual
        for case, rows in (("alone", usual[name]), ("all kinds of rows", odd[name]))
    ]


def warmup_requests(catalogue: Catalogue) -> dict[str, Any]:
    """One usual row for each signature: a title from a source, and a question, both with a history."""
    titles = _titles(catalogue)
    history = "\n".join(titles[:_USUAL_HISTORY])
    rows = {
        "generate": _columns("generate", [(history, " ".join(titles[-3:]), "title")], 1),
        "answer": _columns("answer", [(f"What is new about {titles[-1]}?", history)], 1),
    }
    return {**rows, DEFAULT_SIGNATURE: rows["generate"]}


def _odd_rows(catalogue: Catalogue) -> dict[str, list[tuple[str | bytes, ...]]]:
    titles = _titles(catalogue)[: 3 * _USUAL_HISTORY]
    return {
        "generate": [
            ("\n".join(titles[:_USUAL_HISTORY]), " ".join(titles[-3:]), "title"),
            ("", "", "title"),
            ("\n".join(titles), "", "summary"),
            ("\n".join(titles[:2]), "word " * 3000, "body"),
            (_ODD_BYTES, b"caf\xe9 \xc3(", b"\xff"),
            ("", 'On 5 May 2031 the mayor said: "We will rebuild."', "no such kind"),
        ],
        "answer": [
            (titles[0], "\n".join(titles)),
            ("", "\n".join(titles[:2])),
            (" \n ", ""),
            ("What " * 3000, ""),
            (_ODD_BYTES, _ODD_BYTES),
        ],
    }


def _columns(signature: str, rows: list[Any], seed: int) -> dict[str, Any]:
    """Rows as the inputs of a signature; seeds are added, counting up from `seed`."""
    seeds = np.arange(seed, seed + len(rows), dtype=np.int64)
    strings = [as_bytes(column) for column in zip(*rows, strict=True)]
    return dict(zip(SIGNATURES[GENERATOR][signature].input_names, [*strings, seeds], strict=True))


def _titles(catalogue: Catalogue) -> list[str]:
    return [title for title in catalogue.titles if title]
