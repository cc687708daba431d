"""Options of the verbs that ask a running server, and the client; no TensorFlow, so they start at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from genre_tf.serving import Client

Address = Annotated[
    str | None,
    typer.Option(
        help="Address of the server: HOST:PORT, for REST also a URL; default: 127.0.0.1:8500, with --rest "
        "127.0.0.1:8501.",
    ),
]
Rest = Annotated[bool, typer.Option("--rest", help="Ask over REST, not gRPC.")]
TimeoutS = Annotated[float, typer.Option(min=0.001, help="Seconds to wait for the answer.")]
Seed = Annotated[int, typer.Option(min=-(2**63), max=2**63 - 1, help="The same seed writes the same text.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


@contextmanager
def open_client(
    address: str | None,
    rest: bool,
    timeout_s: float,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
) -> "Iterator[Client]":
    """A client of a server; over gRPC, of one that answers.

    Raises:
        InputError: the address, the deadline or a TLS file is invalid.
        FailureError: no server answers.
    """
    from genre_tf.serving import Client
    from genre_tf.serving.client.addresses import client_context, client_credentials, is_url
    from genre_tf.serving.client.channels import check_server

    credentials: Any
    if rest or is_url(address or ""):
        address = address or "127.0.0.1:8501"
        url = address if "://" in address else f"{'http' if tls_ca is None else 'https'}://{address}"
        with Client(url, timeout_s, credentials=client_context(tls_ca, tls_cert, tls_key)) as client:
            yield client
        return
    address, credentials = address or "127.0.0.1:8500", client_credentials(tls_ca, tls_cert, tls_key)
    with Client(address, timeout_s, credentials=credentials) as client:
        check_server(address, timeout_s, credentials)
        yield client
