"""Token states of the frozen layers: computed once per article, cached on disk, gathered per batch.

A frozen layer gives the same states at every step, so a step that reads them from here computes nothing below
the trained layers. Only real tokens are stored (titles differ in length), as float16.
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
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.errors import FailureError
from genre_tf.files import hold
from genre_tf.text.wordpiece import WordPiece

# Texts of similar length are encoded together, this many tokens at a time: enough for two cores, and few
# enough that the widest layer's values (four times the states) fit into a processor's cache.
_BATCH_TOKENS = 2048
_TOKENIZED_TEXTS = 1024
_VALUES, _OFFSETS, _LOCK = "values.npy", "offsets.npy", ".lock"

# types-tensorflow does not declare its class methods.
RaggedTensor: Any = tf.RaggedTensor


@dataclass(frozen=True)
class HiddenStates:
    """Ragged token states of N texts.

    Attributes:
        values: float16 [tokens, hidden], or int32 [tokens] token ids if no layer is frozen.
        offsets: int64 [N + 1]; text n owns values[offsets[n]:offsets[n + 1]].
    """

    values: npt.NDArray[Any]
    offsets: npt.NDArray[np.int64]

    @property
    def dtype(self) -> npt.DTypeLike:
        """The dtype of the results of `gather`."""
        return np.int32 if self.values.dtype == np.int32 else np.float32

    def gather(self, rows: npt.NDArray[np.integer]) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """States of some texts, padded with zeros to the longest of them.

        Args:
            rows: int [U].

        Returns:
            [U, T, hidden] float32 (or [U, T] int32 token ids), and bool [U, T], True for real tokens.
        """
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        columns = np.arange(max(1, int(lengths.max(initial=0))))
        mask = columns < lengths[:, None]  # [texts, tokens]
        padded = np.zeros((*mask.shape, *self.values.shape[1:]), self.dtype)
        padded[mask] = self.values[(starts[:, None] + columns)[mask]]
        return padded, mask


def hidden_states(
    texts: Sequence[str],
    tokenizer: WordPiece,
    lower: keras.Model | None,
    max_tokens: int,
    cache: Path | None = None,
    identity: str = "",
    on_progress: Callable[[int, int], None] | None = None,
    encoder: "StateEncoder | None" = None,
) -> HiddenStates:
    """Compute the states of texts once, or read them from the cache.

    Args:
        texts: N texts; an empty one has no tokens.
        tokenizer: converts strings to token ids.
        lower: the frozen layers; None keeps token ids instead of states.
        max_tokens: longer texts are cut.
        cache: a folder to keep results in; None: keep them in memory only.
        identity: identifies the weights of `lower`; part of the cache key.
        on_progress: called with (texts done, all texts).
        encoder: made from the same tokenizer, layers and length, to be traced only once; None: a new one.

    Returns:
        The states; memory-mapped if they come from the cache.

    Raises:
        FailureError: the cache cannot be written, or its disk is too full.
    """
    encode = encoder or StateEncoder(tokenizer, lower, max_tokens)
    if cache is None:
        return encode(texts, on_progress)
    folder = cache / _key(texts, max_tokens, identity)
    if not (folder / _OFFSETS).is_file():
        with _only_writer(cache):
            if not (folder / _OFFSETS).is_file():  # unless another process has just written them
                _write(encode, texts, on_progress, folder)
    return HiddenStates(
        np.load(folder / _VALUES, mmap_mode="r", allow_pickle=False),
        np.load(folder / _OFFSETS, allow_pickle=False),
    )


class StateEncoder:
    """Encodes texts to token states; its graphs are traced once, for any number of texts.

    Args:
        tokenizer: converts strings to token ids.
        lower: the frozen layers; None keeps token ids instead of states.
        max_tokens: longer texts are cut.
    """

    def __init__(self, tokenizer: WordPiece, lower: keras.Model | None, max_tokens: int) -> None:
        self.lower = lower
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
        on_progress: Callable[[int, int], None] | None = None,
        new_array: Callable[[tuple[int, ...]], npt.NDArray[np.float16]] | None = None,
    ) -> HiddenStates:
        """States of texts, in order; see `hidden_states`.

        Args:
            texts: N texts.
            on_progress: called with (texts done, all texts).
            new_array: creates the array for the states: shape -> float16 array, not yet filled; None: in
                memory. Not called for token ids.
        """
        ids, lengths = self._token_ids(texts)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        if self.lower is None:
            return HiddenStates(ids, offsets)
        # Sorted by length, texts share a batch with similar ones, and attention needs little padding.
        order = np.argsort(lengths, kind="stable")
        order = order[np.searchsorted(lengths[order], 1) :]
        batches = _by_tokens(order, lengths)
        shape = (len(ids), self._width())
        values = np.empty(shape, np.float16) if new_array is None else new_array(shape)

        def encode(rows: npt.NDArray[np.int64]) -> int:
            places = _places(offsets[rows], lengths[rows])
            states = self._encode(tf.constant(ids[places]), tf.constant(lengths[rows])).numpy()
            # Cast here, not in the graph, where oneDNN warns each time that it has no float16.
            values[places] = states
            return len(rows)

        done = 0
        # Two batches at once: the products of one are too small to keep several cores busy.
        with ThreadPoolExecutor(2) as pool:
            for count in pool.map(encode, batches):
                done += count
                if on_progress:
                    on_progress(done, len(order))
        return HiddenStates(values, offsets)

    def _width(self) -> int:
        return int(self._encode(self._one_token, tf.constant([1], tf.int64)).shape[1])

    def _token_ids(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Token ids of all texts one after another, int32 [tokens], and the number in each, int64 [N]."""
        lengths = np.zeros(len(texts), np.int64)
        flat = [np.zeros(0, np.int32)]
        filled = np.asarray([row for row, text in enumerate(texts) if text], np.int64)
        for start in range(0, len(filled), _TOKENIZED_TEXTS):
            rows = filled[start : start + _TOKENIZED_TEXTS]
            ids, counts = self._tokenize(tf.constant([texts[row] for row in rows]))
            lengths[rows] = counts.numpy()
            flat.append(ids.numpy())
        return np.concatenate(flat), lengths


def _by_tokens(order: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Split rows, in order, into batches of at most `_BATCH_TOKENS` tokens; a longer text is one batch."""
    ends = np.cumsum(lengths[order])
    batches, done = [], 0
    while done < len(order):
        full = ends[done] - lengths[order[done]] + _BATCH_TOKENS
        batches.append(order[done : max(done + 1, int(np.searchsorted(ends, full, "right")))])
        done += len(batches[-1])
    return batches


def _places(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Positions that belong to some texts: `starts[n]`, `starts[n] + 1`, ... for one text after another."""
    before = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)


def _key(texts: Sequence[str], max_tokens: int, identity: str) -> str:
    digest = hashlib.sha256(json.dumps([identity, max_tokens, len(texts)]).encode())
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()[:24]


@contextmanager
def _only_writer(cache: Path) -> Iterator[None]:
    """Wait until no other process writes to a cache; a second process then finds the results of the first."""
    with _disk_errors_told(cache):
        lock = None
        while lock is None:  # a rejected training removes its new folder, and the lock with it
            cache.mkdir(parents=True, exist_ok=True)
            lock = hold(cache / _LOCK, create=True)
    try:
        yield
    finally:
        os.close(lock)


def _write(
    encode: StateEncoder,
    texts: Sequence[str],
    on_progress: Callable[[int, int], None] | None,
    folder: Path,
) -> None:
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
