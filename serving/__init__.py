"""Clients of a running server (`Client`, `AsyncClient`), and `serve`, which runs one here.

Loaded when first used: a client needs no TensorFlow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genre_tf.serving.client.client import AsyncClient, Client
    from genre_tf.serving.embedded.server import serve

__all__ = ["AsyncClient", "Client", "serve"]

_MODULES = {"AsyncClient": "client.client", "Client": "client.client", "serve": "embedded.server"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
