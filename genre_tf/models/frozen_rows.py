"""States of a writer's frozen layers, computed once for each row that its training reads.

Below the trained layers a row's states depend on its tokens alone. Rows are read again in later epochs, with
or without their reader; each such form of a row is one text here.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.models.article_features import HiddenStates, Progress, StateEncoder, hidden_states

MOST_BYTES = 4 * 2**30
"""Larger states are not kept: their layers run in every step."""
_PADDING = -1


@dataclass(frozen=True)
class FrozenRows:
    """States of forms of rows: `forms`, int64 [n], ascending, in the order of the `states`."""

    forms: npt.NDArray[np.int64]
    states: HiddenStates

    @property
    def hidden(self) -> int:
        """Width of a state."""
        return int(self.states.values.shape[1])

    def gather(self, forms: npt.NDArray[np.int64], time: int) -> npt.NDArray[np.float32]:
        """States of some forms, int64 [n], padded with zeros: float32 [n, time, hidden]."""
        places = np.searchsorted(self.forms, forms)
        if not np.array_equal(np.take(self.forms, places, mode="clip"), forms):
            raise ValueError("states of rows are asked for that were not computed")
        found, _ = self.states.gather(places)
        return np.pad(found, [(0, 0), (0, time - found.shape[1]), (0, 0)]).astype(np.float32)


class _Numbers:
    """A tokenizer of texts that are token ids already, separated by spaces."""

    start_id, pad_id = 0, _PADDING

    def __call__(self, texts: tf.Tensor, max_tokens: int) -> tf.Tensor:
        """Strings [n] -> int32 [n, time], padded on the right."""
        return tf.strings.to_number(tf.strings.split(texts), tf.int32).to_tensor(_PADDING)


def frozen_rows(
    writer: Any,
    forms: npt.NDArray[np.int64],
    token_ids: list[npt.NDArray[np.int32]],
    cache: Path | None = None,
    on_progress: Progress | None = None,
) -> FrozenRows:
    """Compute what `Writer.frozen_states` makes of rows, or map it from a cache folder into memory.

    Args:
        writer: the writer, with frozen layers below its trained ones.
        forms: int64 [n], ascending; names of the rows for `FrozenRows.gather`.
        token_ids: the tokens of each, without padding.
        cache: folder of the cache; None: in memory.
        on_progress: called with the number of rows that are done, and of all.
    """
    encode = StateEncoder(
        _Numbers(), lambda ids: writer.frozen_states(tf.maximum(ids, 0)), writer.prompts.tokens
    )
    texts = [" ".join(map(str, ids.tolist())) for ids in token_ids]
    identity = "" if cache is None else _identity(writer.language_model)
    return FrozenRows(forms, hidden_states(texts, encode, cache, identity, on_progress))


def _identity(layers: Any) -> str:
    """Identifies the frozen weights, and the precision that they are used in."""
    digest = hashlib.sha256(layers.compute_dtype.encode())
    above = {id(weight) for block in layers.blocks[layers.first :] for weight in block.layer.weights}
    for weight in layers.backbone.weights:
        if id(weight) not in above:
            digest.update(np.asarray(weight).tobytes())
    return digest.hexdigest()
