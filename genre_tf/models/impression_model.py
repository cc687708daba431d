"""What two towers and ranker share: a news encoder, histories and candidates, and batches of a click log."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from genre_tf.data.batches import WHOLE, BatchLayout, for_replicas, impression_batches
from genre_tf.data.click_log import ClickLog
from genre_tf.errors import InputError
from genre_tf.models.article_features import batch_features
from genre_tf.models.news_encoder import NewsEncoder, bytes_or_str
from genre_tf.models.text_model import TextModel

PADDING_LABEL = -1.0
"""Label of the padding behind an impression's candidates, in every loss and metric."""


class ImpressionModel(TextModel):
    """A model of readers with a history who choose among candidates.

    Raw data is a dict with `history`, a list of titles for each reader (oldest first; empty for a new one),
    and `candidates`, a list of titles for each reader; `y` holds a list of 0 and 1 for each reader.

    Args:
        news: the news encoder.
        max_history: H; only the newest clicks are read.
        share_news: train `news` itself; False: a copy, which shares its frozen layers only.
        reduced_dimension: width of the copy's vectors; 0: not reduced.
        name: of the model.
        dtype: of the model's own layers; None: Keras' default.
    """

    def __init__(
        self,
        news: NewsEncoder,
        max_history: int,
        share_news: bool,
        *,
        reduced_dimension: int = 0,
        name: str,
        dtype: str | None = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.news = news if share_news else news.own_copy(reduced_dimension)
        self.max_history = max_history
        self._arguments: dict[str, Any] = {}  # of the subclass

    def get_config(self) -> dict[str, Any]:
        """The arguments of this model, the news encoder as its own."""
        news = self.news.get_config()
        return {"name": self.name, "news": news, "max_history": self.max_history, **self._arguments}

    def frozen_layers(self) -> list[Any]:
        """The layers that no training changes."""
        return [self.news.frozen]

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """A model with these arguments; its weights are new, even those of the BERT."""
        return cls(**{**config, "news": NewsEncoder.from_config(config["news"]), "share_news": True})

    def article_vectors_of(self, batch: dict[str, Any], training: bool | None) -> tf.Tensor:
        """Vectors of the articles of a batch, float32 [U, D]."""
        return self.news(batch_features(batch), training=training)

    def batches(
        self, log: ClickLog, batch_size: int = 32, *, shuffle: bool = False, seed: int | None = None
    ) -> Any:
        """Batches `(x, y, weights)` of a log for `fit`, `evaluate` and `predict`; see `ClickLog.batches`."""
        return self._batches_of(log, batch_size, shuffle, seed)

    def batches_of_texts(self, x: Any, y: Any, batch_size: int, shuffle: bool) -> Any:
        """Batches of raw strings; counters are unknown."""
        # Predictions of several replicas could differ in width: one device computes them.
        return self._batches_of(text_log(x, y), batch_size, shuffle, None, False, one_device=y is None)

    def _batches_of(
        self,
        log: ClickLog,
        batch_size: int,
        shuffle: bool,
        seed: int | None,
        counters: bool = True,
        one_device: bool = False,
    ) -> Any:
        several = self.distribute_strategy.num_replicas_in_sync > 1 and not one_device
        features = self.news.features(log.table, needed=log.examples.named(len(log.table)))

        def for_keras(batch: dict[str, tf.Tensor]) -> tuple[Any, ...]:
            """(x, y) or, for a log with signals, (x, y, weights); a label is -1 in the padding."""
            left = ("labels", "label_weights", *(() if counters else ("counters",)))
            x = {name: values for name, values in batch.items() if name not in left}
            y = tf.where(batch["mask"], batch["labels"], PADDING_LABEL)
            return (x, y, batch["label_weights"]) if "label_weights" in batch else (x, y)

        def make(layout: BatchLayout) -> tf.data.Dataset:
            batches = impression_batches(
                log.examples,
                batch_size=batch_size,
                max_history=self.max_history,
                seed=seed,
                shuffle=shuffle,
                repeat=several,
                layout=layout,
                columns=log.columns,
            )
            return features.pipeline(batches).map(for_keras)

        if one_device:
            return make(WHOLE)
        found = self.marked(for_replicas(self.distribute_strategy, make))
        if several:  # TensorFlow cannot distribute batches of unequal shapes that end
            found.steps = math.ceil(len(log) / batch_size)
        found.log = log
        return found

    def data_identity(self) -> tuple[Any, ...]:
        """What batches depend on: the news encoder's data and the length of histories."""
        return (type(self).__name__, self.max_history, *self.news.data_identity())


def text_log(x: Any, y: Any = None) -> ClickLog:
    """A log of raw strings; an `InputError` if they do not have the form that `ImpressionModel` describes."""
    if not isinstance(x, dict) or set(x) != {"history", "candidates"}:
        raise InputError(
            'raw data is a dict {"history": [[title, ...], ...], "candidates": [[title, ...], ...]}, with a '
            f"list for each reader; got {sorted(x) if isinstance(x, dict) else type(x).__name__}"
        )
    histories, candidates = (checked_titles(x[name], name) for name in ("history", "candidates"))
    labels = None if y is None else [np.asarray(row, np.float32) for row in y]
    if len(histories) != len(candidates) or (labels is not None and len(labels) != len(candidates)):
        raise InputError(
            f"history has {len(histories)} readers, candidates {len(candidates)}"
            + ("" if labels is None else f", labels {len(labels)}")
            + ": give a list for each reader in each"
        )
    for number, row in enumerate(labels or ()):
        if len(row) != len(candidates[number]):
            raise InputError(
                f"reader {number} has {len(candidates[number])} candidates, but {len(row)} labels"
            )
    return ClickLog.of_texts(histories, candidates, labels)


def checked_titles(rows: Any, name: str) -> list[list[str]]:
    """Titles of each reader, as strings; an `InputError` if they have another form."""
    found = []
    for row in rows:
        if isinstance(row, (str, bytes)) or not isinstance(row, (Sequence, np.ndarray)):
            raise InputError(f"{name} must hold a list of titles for each reader; got {row!r}")
        texts = [bytes_or_str(text) for text in row]
        found.append([text.decode("utf-8", "replace") if isinstance(text, bytes) else text for text in texts])
    return found
