"""How the verbs that ask a running server reach it; no TensorFlow, so that they start at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genre_tf.serving.client import GenreClient


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
