"""Rows as the served models take them: one string a row, ids joined by spaces, titles by newlines.

TensorFlow Serving pads variable-length inputs with the first element of the request's own tensor, so a
history as a matrix would grow copies of its first click in a shared batch. A joined row needs no padding.
"""

from collections.abc import Sequence

from genre_tf.errors import InputError

KINDS = ("title", "summary", "body")


def join_ids(ids: Sequence[str]) -> str:
    """Ids joined by spaces, as in MIND.

    Raises:
        InputError: an id is empty or has a space in it, and would be read as none or as two.
    """
    _refuse_bare_string(ids)
    for news_id in ids:
        if len(news_id.split()) != 1 or news_id != news_id.strip():
            raise InputError(f"an article id is one word: received {news_id!r} among {len(ids)} ids")
    return " ".join(ids)


def join_titles(titles: Sequence[str]) -> str:
    """Titles joined by newlines; whitespace inside a title, newlines too, becomes one space.

    Raises:
        InputError: a title is blank, and would be left out of the answer.
    """
    _refuse_bare_string(titles)
    cleaned = [clean_text(title) for title in titles]
    if "" in cleaned:
        raise InputError(f"title {cleaned.index('') + 1} of {len(titles)} is blank: leave it out")
    return "\n".join(cleaned)


def join_numbers(numbers: Sequence[float]) -> str:
    """Numbers joined by spaces, in as few digits as bring them back.

    Raises:
        InputError: one is negative or not finite.
    """
    for number in numbers:
        if not 0 <= number < float("inf"):
            raise InputError(f"clicks, views and hours are numbers from 0 on: received {number}")
    return " ".join(f"{number:.0f}" if number == int(number) else repr(float(number)) for number in numbers)


def clean_text(text: str) -> str:
    """One line of text: every run of whitespace becomes a space."""
    return " ".join(text.split())


def check_kinds(kinds: Sequence[str]) -> None:
    """See that each kind of text is one that the generator writes.

    Raises:
        InputError: one is not.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"kind {kind!r} is not known: choose one of {', '.join(KINDS)}")


def _refuse_bare_string(values: Sequence[str]) -> None:
    if isinstance(values, str):
        raise InputError(f"a row is a list of strings: received the string {values[:40]!r}")
