"""Reader vectors for the texts that the generator learns, computed by the run's trained towers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.data.text_examples import TextExample
from genre_tf.models.checkpoint import load_two_tower
from genre_tf.training.stage_data import StageData

_READERS_AT_ONCE = 256
Floats = npt.NDArray[np.float32]


class ReaderVectors:
    """One vector per text; the many texts without a reader share one row of zeros.

    It can be indexed like the array [n, D] that it stands for.

    Args:
        vectors: float32 [1 + readers, D]; the first row is zeros, for no reader.
        rows: int32 [n], the row of each text.
    """

    def __init__(self, vectors: Floats, rows: npt.NDArray[np.int32]) -> None:
        self.vectors = vectors
        self.rows = rows

    @property
    def shape(self) -> tuple[int, int]:
        """Number of texts, and dimension of a vector."""
        return len(self.rows), self.vectors.shape[1]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, texts: Any) -> Floats:
        """Vectors of some texts: int [m] -> float32 [m, D]."""
        found: Floats = self.vectors[self.rows[texts]]
        return found


ToVectors = Callable[[Sequence[TextExample]], Any]
"""Texts -> their `ReaderVectors`, typed as the array that they stand for."""


def reader_vectors(run: Path, data: StageData) -> tuple[ToVectors, int]:
    """A function that returns reader vectors of examples, and their dimension.

    Raises:
        InputError: the run has no trained towers.
    """
    towers = load_two_tower(run)
    articles = towers.news.embed(data.features)  # [articles, dimension]
    encode = tf.function(
        lambda history, mask: towers.user_vector(history, mask),
        input_signature=[
            tf.TensorSpec([None, None, articles.shape[1]], articles.dtype),
            tf.TensorSpec([None, None], tf.bool),
        ],
        autograph=False,
    )

    def of_histories(histories: Sequence[npt.NDArray[np.int32]]) -> Any:
        history = np.zeros((len(histories), max(map(len, histories))), np.int32)
        for place, clicks in enumerate(histories):
            history[place, : len(clicks)] = clicks
        return encode(tf.constant(articles[history]), tf.constant(history > 0)).numpy()

    def to_vectors(examples: Sequence[TextExample]) -> ReaderVectors:
        # Sorted by length, so that little of a batch is padding.
        texts = sorted(
            (text for text, example in enumerate(examples) if len(example.history)),
            key=lambda text: len(examples[text].history),
        )
        vectors = np.zeros((1 + len(texts), articles.shape[1]), np.float32)
        rows = np.zeros(len(examples), np.int32)
        rows[texts] = np.arange(1, 1 + len(texts))
        for start in range(0, len(texts), _READERS_AT_ONCE):
            batch = texts[start : start + _READERS_AT_ONCE]
            vectors[1 + start : 1 + start + len(batch)] = of_histories([examples[at].history for at in batch])
        return ReaderVectors(vectors, rows)

    return to_vectors, articles.shape[1]
