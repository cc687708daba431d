"""Import of the peers, which are an optional extra; a missing one is reported in one line."""

import importlib
from types import ModuleType

from genre_tf.errors import InputError


def peer_module(name: str) -> ModuleType:
    """Import a peer's module.

    Raises:
        InputError: the module cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"this bench compares with {name}, which cannot be imported ({error}): "
            "run pip install 'genre-tf[bench]', or make peers"
        ) from None
