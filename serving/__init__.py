"""Clients of a running server, `serve`, which runs one here, and the choice among texts by live counters."""

from typing import TYPE_CHECKING

from genre_tf.lazy import offered

if TYPE_CHECKING:
    from genre_tf.serving.client.client import AsyncClient, Client
    from genre_tf.serving.embedded.server import serve
    from genre_tf.serving.live_choice import choose_text

__all__ = ["AsyncClient", "Client", "choose_text", "serve"]
__getattr__ = offered(
    __name__,
    {
        "AsyncClient": "genre_tf.serving.client.client",
        "Client": "genre_tf.serving.client.client",
        "choose_text": "genre_tf.serving.live_choice",
        "serve": "genre_tf.serving.embedded.server",
    },
)
