"""How the verbs that ask a running server reach it; no TensorFlow, so that they start at once."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from genre_tf.cli.console import progress
from genre_tf.errors import FailureError, InputError

if TYPE_CHECKING:
    from genre_tf.serving.client import GenreClient

_READER_ID = re.compile(r"[Uu]\d+")  # as in MIND
_MOST_NAMED = 5


@contextmanager
def open_client(
    address: str, timeout_s: float, tls_ca: Path | None, tls_cert: Path | None, tls_key: Path | None
) -> "Iterator[GenreClient]":
    """A client of a server that answers.

    Raises:
        InputError: the address, the deadline or a TLS file is invalid.
        FailureError: no server answers.
    """
    from genre_tf.serving.channels import check_server
    from genre_tf.serving.client import GenreClient
    from genre_tf.serving.tls import client_credentials

    credentials = client_credentials(tls_ca, tls_cert, tls_key)
    with GenreClient(address, timeout_s, credentials=credentials) as client:
        check_server(address, timeout_s, credentials)
        yield client


def report_unknown(client: "GenreClient", history: Sequence[str]) -> None:
    """Report, on stderr, the ids of a history that the server ignored as its index does not contain them.

    Raises:
        InputError: the index contains none of them, so the answer would be that for a new reader.
    """
    ids = list(dict.fromkeys(history))
    if not ids:
        return
    try:
        unknown = [entry.news_id for entry in client.score([[]], [ids])[0] if not entry.known]
    except (FailureError, InputError):  # another model, or too many ids: its answer does not say
        return
    named = ", ".join(unknown[:_MOST_NAMED]) + ", ..." * (len(unknown) > _MOST_NAMED)
    if len(unknown) == len(ids):
        readers = all(map(_READER_ID.fullmatch, ids))
        hint = "these look like reader ids: " if readers else ""
        raise InputError(
            f"the index contains none of the ids in --history ({named}): {hint}give the ids of articles that "
            'the reader clicked, or "" for a new reader'
        )
    if unknown:
        progress.print(
            f"ignored {len(unknown)} of {len(ids)} ids in --history, which are not in the index: {named}",
            markup=False,
        )
