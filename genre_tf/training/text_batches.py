"""Batches for the generator: rows of like length together, so that padding is little of the work."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.data.articles import ArticleTable
from genre_tf.data.batch_layout import WHOLE, BatchLayout
from genre_tf.data.text_examples import TextExample, history_text
from genre_tf.models.prompts import Prompts

_POOL = 4096  # rows sorted together: enough to find like lengths, few enough to stay mixed
_COLUMNS = ("history", "source", "kind", "target")
_ENCODED_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class TextBatching:
    """How batches are made.

    Args:
        tokens: of a batch, padding included; the number of rows follows from their length.
        multiple: rows are padded to a multiple of so many tokens.
        rows: of a batch, each padded to the longest that prompts can be, for devices that need fixed shapes;
            a last batch that is not full is left out. 0: as many as the tokens allow.
        context_weight: of the words of history and source in the loss: they are news too, and news is scarce.
        drop_source: share of the rows with reader and source that must do without the source.
        drop_reader: share of the rows with a reader that must do without the reader.
    """

    tokens: int = 2048
    multiple: int = 8
    rows: int = 0
    context_weight: float = 0.2
    drop_source: float = 0.5
    drop_reader: float = 0.1


class TextRows:
    """Texts to learn, ready to be cut into batches.

    Args:
        examples: n texts to learn.
        table: titles of the histories.
        user_vectors: float32 [n, D], the reader's vector of each example; zeros where there is none.
        prompts: lays out the rows.
    """

    def __init__(
        self,
        examples: Sequence[TextExample],
        table: ArticleTable,
        user_vectors: npt.NDArray[np.float32],
        prompts: Prompts,
    ) -> None:
        if len(examples) != len(user_vectors):
            raise ValueError(f"{len(user_vectors)} user vectors for {len(examples)} examples: give one each")
        newest = prompts.sizes.history_titles
        texts = {
            "history": [history_text(table, example.history[-newest:]) for example in examples],
            "source": [example.source for example in examples],
            "kind": [example.kind for example in examples],
            "target": [example.target for example in examples],
        }
        self.texts = {name: np.asarray(texts[name], object) for name in _COLUMNS}
        self.user_vectors = user_vectors
        self.prompts = prompts
        sizes = prompts.sizes
        rooms = {
            "history": sizes.history_tokens,
            "source": sizes.source_tokens,
            "target": sizes.target_tokens,
        }
        self.tokens = {
            name: np.minimum(_token_counts(self.texts[name], prompts), room) for name, room in rooms.items()
        }

    def __len__(self) -> int:
        return len(self.user_vectors)

    def mean_batches(self, batching: TextBatching) -> int:
        """About how many batches an epoch has."""
        random = np.random.default_rng(0)
        return len(_cut(self._row_tokens(self._kept(batching, random)), batching))

    def batches(
        self,
        batching: TextBatching,
        *,
        seed: int | None = None,
        epochs: int | None = 1,
        layout: BatchLayout = WHOLE,
        start: int = 0,
    ) -> tf.data.Dataset:
        """Batches of token ids.

        Args:
            batching: how.
            seed: shuffles, and drops readers and sources, anew each epoch; None: neither.
            epochs: None: without end.
            layout: the wanted parts of each batch, one after another.
            start: leaves out so many batches at the beginning, at hardly any cost.

        Returns:
            Dataset of what `Prompts.to_learn` gives, with user_vector float32 [batch, D].
        """
        # All parts have the same number of rows where it is fixed.
        rows = batching.rows // layout.parts or None
        vectors = tf.TensorSpec([rows, self.user_vectors.shape[1]], tf.float32)
        data = tf.data.Dataset.from_generator(
            lambda: self._epochs(batching, seed, epochs, layout),
            output_signature=(dict.fromkeys(_COLUMNS, tf.TensorSpec([rows], tf.string)), vectors),
        )
        longest = self.prompts.sizes.tokens

        def lay_out(texts: dict[str, Any], user_vector: Any) -> dict[str, Any]:
            learned = self.prompts.to_learn(
                *(texts[name] for name in _COLUMNS),
                context_weight=batching.context_weight,
                multiple=longest if rows else batching.multiple,
            )
            if rows:
                for name in ("token_ids", "labels", "label_weight"):
                    learned[name] = tf.ensure_shape(learned[name], [rows, longest])
                learned["has_reader"] = tf.ensure_shape(learned["has_reader"], [rows])
            return {**learned, "user_vector": user_vector}

        plain = tf.autograph.experimental.do_not_convert(lay_out)
        data = data.skip(start * len(layout.wanted)).map(plain, num_parallel_calls=1, deterministic=True)
        if epochs is None:  # said, since a strategy asks all workers at each step if data is left
            data = data.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
        return data.prefetch(8)

    def _epochs(
        self, batching: TextBatching, seed: int | None, epochs: int | None, layout: BatchLayout
    ) -> Iterator[tuple[dict[str, Any], npt.NDArray[np.float32]]]:
        done = 0
        while epochs is None or done < epochs:
            random = None if seed is None else np.random.default_rng([seed, done])
            kept = self._kept(batching, random)
            for batch in _cut(self._row_tokens(kept), batching, random):
                for part in layout.wanted:
                    rows = batch[
                        part :: layout.parts
                    ]  # sorted by length: every part gets long and short ones
                    texts = {name: column[rows] for name, column in self.texts.items()}
                    for name, keep in kept.items():
                        texts[name] = np.where(keep[rows], texts[name], "")
                    yield texts, self.user_vectors[rows]
            done += 1

    def _kept(
        self, batching: TextBatching, random: np.random.Generator | None
    ) -> dict[str, npt.NDArray[np.bool_]]:
        """Whether each row keeps its history and its source in this epoch: bool [n] each."""
        has_reader = self.tokens["history"] > 0
        if random is None:
            return {"history": has_reader, "source": np.ones(len(self), bool)}
        draw = random.random(len(self))
        drops_source = has_reader & (draw < batching.drop_source)
        drops_reader = draw > 1 - batching.drop_reader
        return {"history": has_reader & ~drops_reader, "source": ~drops_source}

    def _row_tokens(self, kept: dict[str, npt.NDArray[np.bool_]]) -> npt.NDArray[np.int64]:
        tokens = self.tokens["target"] + 4  # control tokens
        for name, keep in kept.items():
            tokens = tokens + self.tokens[name] * keep
        return tokens


def _cut(
    tokens: npt.NDArray[np.int64], batching: TextBatching, random: np.random.Generator | None = None
) -> list[npt.NDArray[np.int64]]:
    """Row numbers of each batch of an epoch, rows of like length together."""
    order = random.permutation(len(tokens)) if random else np.arange(len(tokens))
    if batching.rows:  # all are padded alike
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


def _token_counts(texts: npt.NDArray[np.object_], prompts: Prompts) -> npt.NDArray[np.int64]:
    """How many tokens each text has: int64 [n]. Equal texts are read once."""
    unique, inverse = np.unique(texts.astype(str), return_inverse=True)
    counts = [
        prompts.tokenizer.encode(tf.constant(unique[start : start + _ENCODED_AT_ONCE].tolist())).row_lengths()
        for start in range(0, len(unique), _ENCODED_AT_ONCE)
    ]
    return np.concatenate([count.numpy() for count in counts])[inverse]
