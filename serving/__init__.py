"""Clients of a running server (`Client`, `AsyncClient`), and `serve`, which runs one here."""

from typing import TYPE_CHECKING

from genre_tf.lazy import offered

if TYPE_CHECKING:
    from genre_tf.serving.client.client import AsyncClient, Client
    from genre_tf.serving.embedded.server import serve

__all__ = ["AsyncClient", "Client", "serve"]
__getattr__ = offered(
    __name__,
    {
        "AsyncClient": "genre_tf.serving.client.client",
        "Client": "genre_tf.serving.client.client",
        "serve": "genre_tf.serving.embedded.server",
    },
)
