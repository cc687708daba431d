"""The writer as it is served, for readers of a log: titles in, ranked and scored texts out, in batches."""

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.generation.ranking import RankingWeights, Written, rank
from genre_tf.generation.safety import SafetyClassifier
from genre_tf.generation.writer import WritingGraph, nothing_unsafe
from genre_tf.generation.writer_options import WriterOptions
from genre_tf.models.ranker import Ranker
from genre_tf.models.two_tower import TwoTower
from genre_tf.models.writer import Writer

BATCH_ROWS = 128  # readers times samples decoded at a time: a few hundred MB for a small model
_IN_ORDER = RankingWeights(interest=0.0, grounding=0.0, log_probability=0.0)
Titles = Sequence[str]


class ServedWriter:
    """Writes titles for readers and scores texts for them, from raw strings as the servable does.

    A reader is described by titles only: as in the servable, categories and abstracts of clicks are unknown.
    Titles are encoded once, when the object is created.

    Args:
        parts: the writer.
        two_tower: gives the readers' vectors.
        ranker: the click model.
        readers: titles of every reader that will be used, oldest first.
        options: how to write; by default as the servable does.
        classifier: classifier of unsafe texts.
    """

    def __init__(
        self,
        parts: Writer,
        two_tower: TwoTower,
        ranker: Ranker,
        readers: Sequence[Titles],
        options: WriterOptions = WriterOptions(),  # noqa: B008  (frozen)
        classifier: SafetyClassifier | None = None,
    ) -> None:
        self.samples = options.samples
        self._batch_readers = max(1, BATCH_ROWS // options.rows)
        titles = list(dict.fromkeys(["", *chain.from_iterable(readers)]))  # "" pads shorter histories
        self._rows = {title: row for row, title in enumerate(titles)}
        self._for_tower, self._for_ranker = (model.news.encode(titles) for model in (two_tower, ranker))
        in_order = dataclasses.replace(options, weights=_IN_ORDER)
        self._writer = WritingGraph(parts, in_order)
        texts, clicked = tf.TensorSpec([None], tf.string), tf.TensorSpec([None, None], tf.bool)
        of_tower, of_ranker = (
            tf.TensorSpec([None, None, model.news.dimension]) for model in (two_tower, ranker)
        )

        def vectors(texts: Any) -> Any:
            """string [batch, k] -> float32 [batch, k, D]."""
            shape = tf.concat([tf.shape(texts), [ranker.news.dimension]], 0)
            return tf.reshape(ranker.news(tf.reshape(texts, [-1])), shape)

        def interest(texts: Any, clicks: Any, mask: Any) -> Any:
            shown = tf.ones(tf.shape(texts), tf.bool)
            return tf.sigmoid(ranker.click_logits(clicks, mask, vectors(texts), shown, None))

        def write(history: Any, source: Any, seed: Any, for_tower: Any, for_ranker: Any, mask: Any) -> Any:
            drawn = self._writer(
                history,
                source,
                tf.fill(tf.shape(source), "title"),
                seed,
                two_tower.user_vector(for_tower, mask),
                lambda written: interest(written, for_ranker, mask),
                (lambda written: classifier.is_unsafe(vectors(written))) if classifier else nothing_unsafe,
            )
            return drawn, rank(drawn, options.weights, self._writer.read_titles(history))

        seeds = tf.TensorSpec([None], tf.int64)
        self._write = tf.function(
            write, input_signature=[texts, texts, seeds, of_tower, of_ranker, clicked], autograph=False
        )
        of_readers = tf.TensorSpec([None, None], tf.string)
        self._interest = tf.function(
            interest, input_signature=[of_readers, of_ranker, clicked], autograph=False
        )

    def refresh(self) -> None:
        """Update to the current weights of the generator."""
        self._writer.refresh()

    def __call__(
        self, readers: Sequence[Titles], sources: Titles, seeds: Sequence[int]
    ) -> tuple[Written, Written]:
        """Write a title for each reader from each source.

        Args:
            readers: the titles of n readers.
            sources: n texts to write from.
            seeds: n seeds.

        Returns:
            NumPy columns [n, samples]: in drawing order (texts that may not be shown, and repeated ones, come
            last), and in served order.
        """
        found = []
        for rows in self._batches(len(readers)):
            tower, ranked, mask = self._clicks([readers[row] for row in rows])
            history = tf.constant(["\n".join(readers[row]) for row in rows])
            source = tf.constant([sources[row] for row in rows])
            seed = tf.constant([seeds[row] for row in rows], tf.int64)
            found.append(self._write(history, source, seed, tower, ranked, mask))
        return _joined([drawn for drawn, _ in found]), _joined([served for _, served in found])

    def interest(self, readers: Sequence[Titles], texts: Sequence[Titles]) -> npt.NDArray[np.float32]:
        """Click probabilities of k texts for each of n readers: float32 [n, k]."""
        found = []
        for rows in self._batches(len(readers)):
            _, ranked, mask = self._clicks([readers[row] for row in rows])
            found.append(
                self._interest(tf.constant([list(texts[row]) for row in rows]), ranked, mask).numpy()
            )
        return np.concatenate(found)

    def _batches(self, count: int) -> Iterator[range]:
        for start in range(0, count, self._batch_readers):
            yield range(start, min(start + self._batch_readers, count))

    def _clicks(self, readers: Sequence[Titles]) -> tuple[Any, Any, Any]:
        lengths = np.array([len(titles) for titles in readers])
        mask = np.arange(max(1, lengths.max())) < lengths[:, None]  # [batch, longest]
        rows = np.zeros(mask.shape, np.int64)
        rows[mask] = [self._rows[title] for titles in readers for title in titles]
        return tf.constant(self._for_tower[rows]), tf.constant(self._for_ranker[rows]), tf.constant(mask)


def _joined(parts: Sequence[Written]) -> Written:
    columns = zip(*parts, strict=True)
    return Written(*(np.concatenate([np.asarray(part) for part in column]) for column in columns))
