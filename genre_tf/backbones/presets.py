"""Backbones and vocabularies from Keras presets, through KerasHub."""

from collections.abc import Callable
from typing import TypeVar

import keras_hub

from genre_tf.errors import InputError

Read = TypeVar("Read")


def read_bert_preset(
    name: str, dropout: float | None
) -> tuple[keras_hub.models.BertBackbone, list[str], bool]:
    """The BERT of a preset, its vocabulary in the order of ids, and whether it lower-cases.

    Raises:
        InputError: the preset cannot be fetched or is not a BERT.
    """
    options = {} if dropout is None else {"dropout": dropout}
    backbone = _fetched(name, lambda: keras_hub.models.BertBackbone.from_preset(name, **options))
    tokenizer = _fetched(name, lambda: keras_hub.models.BertTokenizer.from_preset(name))
    return backbone, list(tokenizer.get_vocabulary()), bool(tokenizer.lowercase)


def read_gpt2_preset(
    name: str, dropout: float | None
) -> tuple[keras_hub.models.GPT2Backbone, dict[str, int], list[str]]:
    """The GPT-2 of a preset, its vocabulary with ids, and its merges, best first.

    Raises:
        InputError: the preset cannot be fetched or is not a GPT-2.
    """
    options = {} if dropout is None else {"dropout": dropout}
    backbone = _fetched(name, lambda: keras_hub.models.GPT2Backbone.from_preset(name, **options))
    tokenizer = _fetched(name, lambda: keras_hub.models.GPT2Tokenizer.from_preset(name))
    merges = [rule for rule in tokenizer.merges if not rule.startswith("#version")]
    return backbone, dict(tokenizer.vocabulary), merges


def _fetched(name: str, read: Callable[[], Read]) -> Read:
    try:
        return read()
    # KerasHub passes on errors of the hub that it used, and these change with its version.
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = lines[0][:200] if lines else type(error).__name__
        raise InputError(
            f"Keras preset {name} could not be read ({reason}). "
            "Check the name and the network, or give a local folder."
        ) from error
