"""The news tower's inputs for each article, as arrays: token states, category, subcategory.

A frozen layer gives the same states at every step, so they are computed once per article, kept on disk and
gathered per batch; a step that reads them computes nothing below the trained layers. Only real tokens are
stored (titles differ in length), as float16.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.backbones.bert import Bert
from genre_tf.environment import multiplies_bfloat16
from genre_tf.errors import FailureError
from genre_tf.files import hold

# Texts of similar length are encoded together, this many tokens at a time: enough for two cores, and few
# enough that the widest layer's values (four times the states) fit into a processor's cache.
_BATCH_TOKENS = 2048
_BATCH_TEXTS = 128  # with 32 tokens each, what two cores can process at once
_TOKENIZED_TEXTS = 1024
_WIDE = 256  # layers narrower than this gain nothing from bfloat16
_VALUES, _OFFSETS, _LOCK = "values.npy", "offsets.npy", ".lock"

_NAMES = ("states", "mask", "category", "subcategory")

Features = dict[str, Any]
Progress = Callable[[int, int], None]
"""Called with the number that is done, and of all."""

# types-tensorflow does not declare its class methods.
RaggedTensor: Any = tf.RaggedTensor


@dataclass(frozen=True)
class HiddenStates:
    """Ragged token states of N texts: text n owns values[offsets[n]:offsets[n + 1]].

    The values are float16 [tokens, hidden], or int32 [tokens] token ids if no layer is frozen.
    """

    values: npt.NDArray[Any]
    offsets: npt.NDArray[np.int64]

    def gather(self, rows: npt.NDArray[np.integer]) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """States of some texts, int [U], padded with zeros to the longest of them.

        They are float16 [U, T, hidden] (or token ids, int32 [U, T]), and bool [U, T], True for real tokens.
        """
        states, mask = self.unpadded(rows)
        padded = np.zeros((*mask.shape, *states.shape[1:]), states.dtype)
        padded[mask] = states
        return padded, mask

    def unpadded(self, rows: npt.NDArray[np.integer]) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """States of the real tokens of some texts, one text after the other, and the mask of `gather`."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        columns = np.arange(max(1, int(lengths.max(initial=0))))
        mask = columns < lengths[:, None]  # [texts, tokens]
        return self.values[(starts[:, None] + columns)[mask]], mask


class Tokenizer(Protocol):
    """What the encoder needs of a tokenizer: called with strings [n], it gives int32 [n, time], padded."""

    start_id: int
    pad_id: int

    def __call__(self, texts: Any, max_tokens: int) -> Any:
        """Strings [n] -> int32 [n, time], at most so many columns."""


class StateEncoder:
    """Encodes texts to token states; its graphs are traced once, for any number of texts.

    Without `lower`, the frozen layers, it keeps token ids instead of states. They map token ids, int32 [n,
    time], to states, float [n, time, hidden].
    """

    def __init__(
        self, tokenizer: Tokenizer, lower: Callable[[tf.Tensor], tf.Tensor] | None, max_tokens: int
    ) -> None:
        self.lower, self.max_tokens = lower, max_tokens
        layers: Any = lower  # if None, `encode` is never called

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
        def tokenize(texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            ids = tokenizer(texts, max_tokens)  # [texts, tokens]
            mask = ids != tokenizer.pad_id
            return tf.boolean_mask(ids, mask), tf.reduce_sum(tf.cast(mask, tf.int64), 1)

        @tf.function(
            input_signature=[tf.TensorSpec([None], tf.int32), tf.TensorSpec([None], tf.int64)],
            autograph=False,
        )
        def encode(flat: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
            ids = RaggedTensor.from_row_lengths(flat, lengths, validate=False).to_tensor(tokenizer.pad_id)
            return tf.boolean_mask(layers(ids), tf.sequence_mask(lengths))  # [tokens, hidden]

        self._tokenize, self._encode = tokenize, encode
        self._one_token = tf.constant([tokenizer.start_id])

    def __call__(
        self,
        texts: Sequence[str],
        on_progress: Progress | None = None,
        new_array: Callable[[tuple[int, ...]], npt.NDArray[np.float16]] | None = None,
    ) -> HiddenStates:
        """States of texts, in order; an empty text has no tokens.

        `new_array` creates the array for the states, a float16 array of a shape, not yet filled; None: in
        memory. It is not called for token ids.
        """
        lengths = np.zeros(len(texts), np.int64)
        flat = [np.zeros(0, np.int32)]
        filled = np.asarray([row for row, text in enumerate(texts) if text], np.int64)
        for start in range(0, len(filled), _TOKENIZED_TEXTS):
            rows = filled[start : start + _TOKENIZED_TEXTS]
            found, counts = self._tokenize(tf.constant([texts[row] for row in rows]))
            lengths[rows] = counts.numpy()
            flat.append(found.numpy())
        ids, offsets = np.concatenate(flat), np.concatenate([[0], np.cumsum(lengths)])
        if self.lower is None:
            return HiddenStates(ids, offsets)
        # Sorted by length, texts share a batch with similar ones, and attention needs little padding.
        order = np.argsort(lengths, kind="stable")
        order = order[np.searchsorted(lengths[order], 1) :]
        ends, batches, begun = np.cumsum(lengths[order]), [], 0
        while begun < len(order):  # at most so many tokens in a batch; a longer text is one batch
            full = ends[begun] - lengths[order[begun]] + _BATCH_TOKENS
            batches.append(order[begun : max(begun + 1, int(np.searchsorted(ends, full, "right")))])
            begun += len(batches[-1])
        width = int(self._encode(self._one_token, tf.constant([1], tf.int64)).shape[1])
        shape = (len(ids), width)
        values = np.empty(shape, np.float16) if new_array is None else new_array(shape)

        def encode(rows: npt.NDArray[np.int64]) -> int:
            before = np.cumsum(lengths[rows]) - lengths[rows]
            places = np.arange(int(lengths[rows].sum())) + np.repeat(offsets[rows] - before, lengths[rows])
            states = self._encode(tf.constant(ids[places]), tf.constant(lengths[rows])).numpy()
            values[places] = as_float16(states)
            return len(rows)

        done = 0
        # Two batches at once: the products of one are too small to keep several cores busy.
        with ThreadPoolExecutor(2) as pool:
            for count in pool.map(encode, batches):
                done += count
                if on_progress:
                    on_progress(done, len(order))
        return HiddenStates(values, offsets)


def as_float16(states: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    """Rounded states, as they are kept; a few of a language model may exceed the largest float16."""
    # Not cast in the graph, where oneDNN warns each time that it has no float16.
    largest = np.finfo(np.float16).max
    return np.clip(states, -largest, largest).astype(np.float16)


def hidden_states(
    texts: Sequence[str],
    encode: StateEncoder,
    cache: Path | None = None,
    identity: str = "",
    on_progress: Progress | None = None,
) -> HiddenStates:
    """Compute the states of N texts once, or map those of a cache folder into memory.

    `identity` identifies the weights of the frozen layers; it is part of the cache key.

    Raises:
        FailureError: the cache cannot be written, or its disk is too full.
    """
    if cache is None:
        return encode(texts, on_progress)
    digest = hashlib.sha256(json.dumps([identity, encode.max_tokens, len(texts)]).encode())
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
    folder = cache / digest.hexdigest()[:24]
    if not (folder / _OFFSETS).is_file():
        with _disk_errors_told(cache):
            lock = None
            while lock is None:  # a rejected training removes its new folder, and the lock with it
                cache.mkdir(parents=True, exist_ok=True)
                lock = hold(cache / _LOCK, create=True)
        try:
            if not (folder / _OFFSETS).is_file():  # unless another process has just written them
                _write(encode, texts, on_progress, folder)
        finally:
            os.close(lock)
    return HiddenStates(
        np.load(folder / _VALUES, mmap_mode="r", allow_pickle=False),
        np.load(folder / _OFFSETS, allow_pickle=False),
    )


def _write(encode: StateEncoder, texts: Sequence[str], on_progress: Progress | None, folder: Path) -> None:
    """Write the folder completely or not at all; states, maybe gigabytes, go straight to their file."""
    part = folder.with_name(folder.name + ".part")
    with _disk_errors_told(folder):
        shutil.rmtree(part, ignore_errors=True)  # left by a process that was killed
        part.mkdir()
    try:
        states = encode(texts, on_progress, lambda shape: _new_file(part / _VALUES, shape))
        with _disk_errors_told(folder):
            if isinstance(states.values, np.memmap):
                states.values.flush()
            else:
                np.save(part / _VALUES, states.values, allow_pickle=False)
            np.save(part / _OFFSETS, states.offsets, allow_pickle=False)
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _new_file(file: Path, shape: tuple[int, ...]) -> npt.NDArray[np.float16]:
    """A file's array with reserved space; on a full disk, writing to mapped memory would kill the process."""
    needed = int(np.prod(shape, dtype=np.int64)) * np.dtype(np.float16).itemsize
    with _disk_errors_told(file.parent):
        free = shutil.disk_usage(file.parent).free
        if free < needed:
            raise OSError(
                errno.ENOSPC, f"{needed / 2**20:,.0f} MiB are needed and {free / 2**20:,.0f} are free"
            )
        values: npt.NDArray[np.float16] = np.lib.format.open_memmap(file, "w+", np.float16, shape)
        with file.open("r+b") as stream:
            try:
                os.posix_fallocate(stream.fileno(), 0, max(1, file.stat().st_size))
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # else it cannot reserve space
                    raise
    return values


@contextmanager
def _disk_errors_told(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FailureError(
            f"frozen states cannot be written to {place} ({error.strerror or error}); free some space or "
            "check the permissions, then repeat the command"
        ) from None


class FrozenText(keras.layers.Layer):
    """Tokenizer and frozen layers: strings to token states. Encoders of one BERT can share it.

    `lower` holds the layers below everything trained; None if no layer is frozen. `rounds` tells whether
    `states` are computed in bfloat16.
    """

    def __init__(self, bert: Bert, lower: keras.Model | None, max_tokens: int) -> None:
        super().__init__(name="frozen", trainable=False)
        self.tokenizer = bert.tokenizer
        self.lower = lower
        self.max_tokens = max_tokens
        # Only states that are kept, as float16, for training: exports read articles in float32 everywhere.
        wide = lower is not None and bert.backbone.hidden_dim >= _WIDE
        self.rounds = wide and multiplies_bfloat16() and not tf.config.list_physical_devices("GPU")
        encode: Any = lower
        if self.rounds:
            encode = encode.rounded
        self.states = StateEncoder(bert.tokenizer, encode, max_tokens)
        self._identity: str | None = None
        # One traced function: a graph that reads text in several places contains the frozen layers once, and
        # they are most of what must be loaded.
        signature = [tf.TensorSpec([None], tf.string)]
        self.features = tf.function(self._features, input_signature=signature, autograph=False)
        self.built = True

    def _features(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        token_ids = self.tokenizer(texts, self.max_tokens)  # [texts, tokens]
        # [CLS] and [SEP] alone are not a text; an empty article must give the zero vector, as in a table.
        written = tf.strings.length(tf.strings.strip(texts)) > 0
        mask = (token_ids != self.tokenizer.pad_id) & written[:, None]
        return {"states": token_ids if self.lower is None else self.lower(token_ids), "mask": mask}

    def call(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        """States [N, T, hidden] (or token ids [N, T]) and mask bool [N, T] of strings [N]."""
        return self.features(texts)  # type: ignore[no-any-return]

    def identity(self) -> str:
        """Identifies tokenizer and frozen weights, for caches."""
        if self._identity is None:
            digest = hashlib.sha256()
            for layer in () if self.lower is None else (self.lower.embeddings, *self.lower.blocks):
                for weight in layer.weights:
                    digest.update(np.asarray(weight).tobytes())
            self._identity = "token ids" if self.lower is None else digest.hexdigest()
            self._identity += " in bfloat16" * self.rounds
        return self._identity


def article_texts(titles: Sequence[str], abstracts: Sequence[str], use_abstract: bool) -> list[str]:
    """The text of each article for BERT: the title, followed by the abstract if there is one."""
    if not use_abstract:
        return list(titles)
    return [f"{title} {abstract}".strip() for title, abstract in zip(titles, abstracts, strict=True)]


@dataclass(frozen=True)
class ArticleFeatures:
    """Features of every row of an article table: token states (or ids), and categories, 0 if unknown."""

    states: HiddenStates
    categories: npt.NDArray[np.int32]
    subcategories: npt.NDArray[np.int32]

    def gather(self, rows: npt.NDArray[np.integer], padded: bool = True) -> Features:
        """Features of rows: states [U, T, hidden], mask bool [U, T], category, subcategory int32 [U].

        With `padded` False states are those of the real tokens only, [tokens, hidden]; ids stay padded.
        """
        padded |= self.states.values.dtype == np.int32
        states, mask = self.states.gather(rows) if padded else self.states.unpadded(rows)
        return {
            "states": states,
            "mask": mask,
            "category": self.categories[rows],
            "subcategory": self.subcategories[rows],
        }

    def pipeline(self, batches: tf.data.Dataset, tokens: int | None = None) -> tf.data.Dataset:
        """Batches of `impression_batches` with the features of their articles, gathered outside the step.

        `tokens` is T, the same for every batch, at least the longest text's; None: states are not padded,
        and token ids to the longest text of each batch.
        """

        # AutoGraph would convert this whole class for one method that does not need it.
        @tf.autograph.experimental.do_not_convert
        def join(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return self.join(batch, tokens)

        return batches.map(join).prefetch(1)

    def join(self, batch: dict[str, tf.Tensor], tokens: int | None = None) -> dict[str, tf.Tensor]:
        """Add the features of a batch's `articles` to it, in a `tf.data` pipeline on the host."""
        kind = tf.as_dtype(self.states.values.dtype)
        padded = tokens is not None or kind == tf.int32

        def look_up(rows: npt.NDArray[np.integer]) -> tuple[Any, ...]:
            found = self.gather(rows, padded)
            for name in () if tokens is None else ("states", "mask"):  # [U, t, ...] -> [U, tokens, ...]
                values = found[name]
                found[name] = np.pad(
                    values, [(0, 0), (0, tokens - values.shape[1]), *[(0, 0)] * (values.ndim - 2)]
                )
            return tuple(found.values())

        outputs = tf.numpy_function(
            look_up, [batch["articles"]], [kind, tf.bool, tf.int32, tf.int32], stateful=False
        )
        articles = batch["articles"].shape[0]
        inner = list(self.states.values.shape[1:])
        shapes = (
            [articles, tokens, *inner] if padded else [None, *inner],
            [articles, tokens],
            [articles],
            [articles],
        )
        for output, shape in zip(outputs, shapes, strict=True):
            output.set_shape(shape)
        return {**batch, **{f"article_{name}": one for name, one in zip(_NAMES, outputs, strict=True)}}


def batch_features(batch: dict[str, tf.Tensor]) -> Features:
    """The article features that `ArticleFeatures.join` put into a batch."""
    return {name: batch[f"article_{name}"] for name in _NAMES}


def by_length(
    function: Callable[..., Sequence[tf.Tensor]], columns: Sequence[Any], texts: int = 1
) -> list[npt.NDArray[np.float32]]:
    """Run a function of columns over N rows, at least one, in batches of rows with texts of similar length.

    A batch is padded to its longest text. The function takes one tensor [n] a column and returns tensors [n,
    ...]; what it returns for all rows comes in their order, arrays [N, ...]. The first `texts` columns count
    for the length.
    """
    lengths = np.sum([[len(text) for text in column] for column in columns[:texts]], axis=0)
    order = np.argsort(lengths, kind="stable")
    parts = []
    for start in range(0, len(order), _BATCH_TEXTS):
        rows = order[start : start + _BATCH_TEXTS]
        batch = [tf.constant([column[row] for row in rows]) for column in columns]
        parts.append([part.numpy() for part in function(*batch)])
    back = np.argsort(order, kind="stable")
    return [np.concatenate(arrays)[back] for arrays in zip(*parts, strict=True)]
