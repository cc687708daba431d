"""The rows that the served models take: one string per row, ids joined by spaces, titles by newlines.

TensorFlow Serving pads variable-length inputs with the first element of the request's own tensor, so in a
shared batch a history given as a matrix would get copies of its first click. A joined row needs no padding.
"""

from collections.abc import Sequence

from genre_tf.contract import KINDS
from genre_tf.errors import InputError


def join_ids(ids: Sequence[str]) -> str:
    """Ids joined by spaces, as in MIND.

    Raises:
        InputError: an id is empty or contains whitespace, so it would be read as no id or as two.
    """
    _refuse_bare_string(ids)
    for news_id in ids:
        if len(news_id.split()) != 1 or news_id != news_id.strip():
            raise InputError(f"an article id must be one word; got {news_id!r} among {len(ids)} ids")
    return " ".join(ids)


def join_titles(titles: Sequence[str]) -> str:
    """Titles joined by newlines; any run of whitespace inside a title, including newlines, becomes one space.

    Raises:
        InputError: a title is blank, so it would be missing from the answer.
    """
    _refuse_bare_string(titles)
    cleaned = [clean_text(title) for title in titles]
    if "" in cleaned:
        raise InputError(f"title {cleaned.index('') + 1} of {len(titles)} is blank: leave it out")
    return "\n".join(cleaned)


def join_numbers(numbers: Sequence[float]) -> str:
    """Numbers joined by spaces, with as few digits as restore them exactly.

    Raises:
        InputError: a number is negative or not finite.
    """
    for number in numbers:
        if not 0 <= number < float("inf"):
            raise InputError(f"clicks, views and hours must be finite numbers of at least 0; got {number}")
    return " ".join(f"{number:.0f}" if number == int(number) else repr(float(number)) for number in numbers)


def clean_text(text: str) -> str:
    """One line of text: every run of whitespace becomes a space."""
    return " ".join(text.split())


def check_kinds(kinds: Sequence[str]) -> None:
    """Check that the generator can write each kind of text.

    Raises:
        InputError: a kind is unknown.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")


def _refuse_bare_string(values: Sequence[str]) -> None:
    if isinstance(values, str):
        raise InputError(f"a row must be a list of strings; got the string {values[:40]!r}")
