"""Batches for the writer: rows of similar length together, to keep padding small."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.data.articles import ArticleTable
from genre_tf.data.batches import WHOLE, BatchLayout
from genre_tf.data.learning_texts import TextExample, history_text
from genre_tf.generation.prompts import Prompts
from genre_tf.models.frozen_rows import FrozenRows

_POOL = 4096  # rows sorted together: enough to find similar lengths, few enough to stay shuffled
_COLUMNS = ("history", "source", "kind", "target")
_ENCODED_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class TextBatching:
    """How batches are made."""

    tokens: int = 2048  # in a batch, including padding; the number of rows follows from their length
    multiple: int = 8  # rows are padded to a multiple of this many tokens
    # Rows in a batch, each padded to the longest possible prompt, for devices that need fixed shapes; an
    # incomplete last batch is skipped. 0: as many as the tokens allow.
    rows: int = 0
    context_weight: float = 0.2  # of the words of history and source: they are news too, and news is scarce
    drop_reader: float = 0.1  # share of the rows with a reader that lose the reader
    shares: Mapping[str, float] = field(default_factory=dict)  # of tasks in an epoch; empty: each row once


class TextRows:
    """Training texts, ready to be cut into batches.

    The prompts lay them out, and the table gives the titles of histories.
    """

    def __init__(self, examples: Sequence[TextExample], table: ArticleTable, prompts: Prompts) -> None:
        texts = {
            "source": [example.source for example in examples],
            "kind": [example.kind for example in examples],
            "target": [example.target for example in examples],
        }
        self.texts = {name: np.asarray(column, object) for name, column in texts.items()}
        self.tasks = np.asarray([example.task for example in examples], object)
        self.prompts = prompts
        self._table = table
        self._histories = [example.history for example in examples]  # their titles would fill the memory
        self.tokens = {
            name: np.minimum(
                _token_counts(self.texts[name], prompts), getattr(prompts.sizes, f"{name}_tokens")
            )
            for name in ("source", "target")
        }
        self.tokens["history"] = self._history_tokens()

    def __len__(self) -> int:
        return len(self.tasks)

    def mean_batches(self, batching: TextBatching) -> int:
        """Approximate number of batches in an epoch."""
        random = np.random.default_rng(0)
        order = self._order(batching, random)
        return len(_cut(order, self._row_tokens(self._kept(batching, random)), batching))

    def batches(
        self,
        batching: TextBatching,
        *,
        seed: int | None = None,
        epochs: int | None = 1,
        layout: BatchLayout = WHOLE,
        start: int = 0,
        frozen: FrozenRows | None = None,
    ) -> tf.data.Dataset:
        """Batches of token ids: what `Prompts.to_learn` returns.

        Args:
            batching: how to make batches.
            seed: seed for shuffling and for dropping readers, again in each epoch; None: neither.
            epochs: number of epochs; None: endless.
            layout: the parts of each batch to return, one after another.
            start: number of batches to skip, at almost no cost.
            frozen: states of the frozen layers, of all forms that the batches have; they get a column
                frozen_states float32 [batch, time, hidden].
        """
        # With fixed shapes all parts have the same number of rows.
        rows = batching.rows // layout.parts if batching.rows else None
        texts = dict.fromkeys(_COLUMNS, tf.TensorSpec([rows], tf.string))
        data = tf.data.Dataset.from_generator(
            lambda: self._parts(batching, seed, epochs, layout),
            output_signature=(texts, tf.TensorSpec([rows], tf.int64)),
        )
        longest = self.prompts.tokens

        def lay_out(texts: dict[str, Any], form: Any) -> dict[str, Any]:
            learned = self.prompts.to_learn(
                *(texts[name] for name in _COLUMNS),
                context_weight=batching.context_weight,
                multiple=longest if rows else batching.multiple,
            )
            if rows:
                for name in ("token_ids", "labels", "label_weight"):
                    learned[name] = tf.ensure_shape(learned[name], [rows, longest])
            if frozen is not None:
                time = tf.shape(learned["token_ids"])[1]
                states = tf.numpy_function(frozen.gather, [form, time], tf.float32, stateful=False)
                shape = [*learned["token_ids"].shape, frozen.hidden]
                learned["frozen_states"] = tf.ensure_shape(states, shape)
            return learned

        plain = tf.autograph.experimental.do_not_convert(lay_out)
        data = data.skip(start * len(layout.wanted)).map(plain, num_parallel_calls=1, deterministic=True)
        if epochs is None:  # otherwise a strategy asks all workers at each step whether data is left
            data = data.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
        return data.prefetch(8)

    def row_numbers(self, batching: TextBatching, seed: int, start: int, count: int) -> list[int]:
        """Which rows are in `count` shuffled batches from number `start` on."""
        randoms = (np.random.default_rng([seed, epoch]) for epoch in itertools.count())
        batches = itertools.chain.from_iterable(self._epoch(batching, random)[1] for random in randoms)
        return [int(row) for batch in itertools.islice(batches, start, start + count) for row in batch]

    def forms(self, batching: TextBatching, seed: int, batches: int) -> npt.NDArray[np.int64]:
        """Which rows are in the first batches, with or without their readers: int64, ascending."""
        found: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        for epoch in itertools.count():
            kept, of_epoch = self._epoch(batching, np.random.default_rng([seed, epoch]))
            rows = np.concatenate(of_epoch[:batches])
            found = np.union1d(found, _forms(kept, rows))
            batches -= len(of_epoch)
            if batches <= 0:
                break
        return found

    def token_ids(self, forms: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int32]]:
        """The tokens of such rows that later ones are predicted from: int32 [time] each."""
        rows = []
        for start in range(0, len(forms), _ENCODED_AT_ONCE):
            row, keeps = np.divmod(forms[start : start + _ENCODED_AT_ONCE], 2)
            texts = self._texts(row, keeps > 0)
            learned = self.prompts.to_learn(
                *(tf.constant(texts[name].tolist()) for name in _COLUMNS), context_weight=0.0
            )
            ids, counts = (learned[name].numpy() for name in ("token_ids", "label_weight"))
            lengths = counts.shape[1] - np.argmax(counts[:, ::-1] > 0, axis=1)  # the target comes last
            rows += [one[:length] for one, length in zip(ids, lengths, strict=True)]
        return rows

    def _parts(
        self, batching: TextBatching, seed: int | None, epochs: int | None, layout: BatchLayout
    ) -> Iterator[tuple[dict[str, Any], npt.NDArray[np.int64]]]:
        """Texts and forms of the rows of each part of each batch."""
        for epoch in itertools.count() if epochs is None else range(epochs):
            random = None if seed is None else np.random.default_rng([seed, epoch])
            kept, batches = self._epoch(batching, random)
            for batch in batches:
                # Sorted by length, so that every part gets long and short rows.
                for part in layout.wanted:
                    rows = batch[part :: layout.parts]
                    yield self._texts(rows, kept[rows]), _forms(kept, rows)

    def _epoch(
        self, batching: TextBatching, random: np.random.Generator | None
    ) -> tuple[npt.NDArray[np.bool_], list[npt.NDArray[np.int64]]]:
        """Whether each row keeps its reader, and the row numbers of each batch."""
        kept = self._kept(batching, random)
        return kept, _cut(self._order(batching, random), self._row_tokens(kept), batching, random)

    def _order(self, batching: TextBatching, random: np.random.Generator | None) -> npt.NDArray[np.int64]:
        """Row numbers of an epoch: all rows, or for each task the number that its share allows; unordered."""
        if random is None:
            return np.arange(len(self))
        rows_of = {task: np.flatnonzero(self.tasks == task) for task in batching.shares}
        shares = {task: share for task, share in batching.shares.items() if len(rows_of[task])}
        if not sum(shares.values()):
            return random.permutation(len(self))
        drawn = [
            # Shuffled first, so that different rows are left out in each epoch.
            np.resize(random.permutation(rows_of[task]), round(len(self) * share / sum(shares.values())))
            for task, share in shares.items()
        ]
        return random.permutation(np.concatenate(drawn))

    def _kept(self, batching: TextBatching, random: np.random.Generator | None) -> npt.NDArray[np.bool_]:
        """Whether each row keeps its reader in this epoch, bool [n]; False if it has none."""
        kept: npt.NDArray[np.bool_] = self.tokens["history"] > 0
        return kept if random is None else kept & (random.random(len(self)) >= batching.drop_reader)

    def texts_of(self, rows: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.object_]]:
        """The columns of some rows as they are, with their readers: four arrays [n]."""
        return self._texts(rows, np.ones(len(rows), np.bool_))

    def _texts(
        self, rows: npt.NDArray[np.int64], keeps_history: npt.NDArray[np.bool_]
    ) -> dict[str, npt.NDArray[np.object_]]:
        """The columns of rows, with or without their histories: four arrays [n]."""
        texts = {name: column[rows] for name, column in self.texts.items()}
        histories = [
            self._history(row) if keep else "" for row, keep in zip(rows, keeps_history, strict=True)
        ]
        texts["history"] = np.asarray(histories, object)
        return texts

    def _history(self, row: int) -> str:
        """All titles of a row's history; the prompt chooses among them."""
        return history_text(self._table, self._histories[row])

    def _history_tokens(self) -> npt.NDArray[np.int64]:
        """About as many tokens as the titles of each row take in the prompt: int64 [n]."""
        sizes = self.prompts.sizes
        read = np.unique(np.concatenate([*self._histories, np.zeros(0, np.int32)]))
        titles = np.asarray([self._table.titles[row] for row in read.tolist()], object)
        of_article = np.zeros(len(self._table), np.int64)
        if len(read):
            of_article[read] = np.minimum(_token_counts(titles, self.prompts), sizes.title_tokens) + 1
            of_article[read[titles == ""]] = 0
        newest = [of_article[history[-sizes.history_titles :]].sum() for history in self._histories]
        return np.minimum(np.asarray(newest, np.int64), sizes.history_tokens)

    def _row_tokens(self, kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        fixed = self.prompts.fixed_tokens + 1  # its end
        return self.tokens["history"] * kept + self.tokens["source"] + self.tokens["target"] + fixed


def _cut(
    order: npt.NDArray[np.int64],
    tokens: npt.NDArray[np.int64],
    batching: TextBatching,
    random: np.random.Generator | None = None,
) -> list[npt.NDArray[np.int64]]:
    """Row numbers of each batch of an epoch, rows of similar length together."""
    if batching.rows:  # all are padded to the same length
        return list(order[: len(order) - len(order) % batching.rows].reshape(-1, batching.rows))
    batches = []
    for start in range(0, len(order), _POOL):
        pool = order[start : start + _POOL]
        pool = pool[np.argsort(-tokens[pool], kind="stable")]
        while len(pool):
            rows = max(1, batching.tokens // int(tokens[pool[0]]))  # the first is the longest
            batches.append(pool[:rows])
            pool = pool[rows:]
    return [batches[index] for index in random.permutation(len(batches))] if random else batches


def _forms(kept: npt.NDArray[np.bool_], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """A number for each row together with whether it keeps its reader: int64 of the same shape."""
    return 2 * rows + kept[rows]


def _token_counts(texts: npt.NDArray[np.object_], prompts: Prompts) -> npt.NDArray[np.int64]:
    """Number of tokens of each text: int64 [n]. Equal texts are tokenized once."""
    # Not `np.unique`: its string array gives every row the width of the longest text.
    places: dict[str, int] = {}
    rows = np.fromiter((places.setdefault(text, len(places)) for text in texts), np.int64, len(texts))
    unique = list(places)
    counts = [
        prompts.tokenizer.encode(tf.constant(unique[start : start + _ENCODED_AT_ONCE])).row_lengths()
        for start in range(0, len(unique), _ENCODED_AT_ONCE)
    ]
    return np.concatenate([count.numpy() for count in counts])[rows]
