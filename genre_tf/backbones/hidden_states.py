"""Token states of the frozen layers: computed once per article, kept on disk, gathered per batch.

A frozen layer gives the same states at every step, so a step that reads them from here costs nothing below
the trained layers. Only real tokens are stored (titles differ in length), as float16.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.text.wordpiece import WordPiece

# Texts of about one length are encoded together, this many tokens at a time: large enough for two cores.
_BATCH_TOKENS = 4096


@dataclass(frozen=True)
class HiddenStates:
    """Ragged token states of N texts.

    Attributes:
        values: float16 [tokens, hidden], or int32 [tokens] token ids where no layer is frozen.
        offsets: int64 [N + 1]; text n owns values[offsets[n]:offsets[n + 1]].
    """

    values: npt.NDArray[Any]
    offsets: npt.NDArray[np.int64]

    @property
    def dtype(self) -> npt.DTypeLike:
        """Of what `gather` gives."""
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
) -> HiddenStates:
    """Compute the states of texts once, or read them where they were kept.

    Args:
        texts: N texts; an empty one has no tokens.
        tokenizer: strings to token ids.
        lower: the frozen layers; None keeps token ids instead of states.
        max_tokens: longer texts are cut.
        cache: a folder to keep results in; None computes in memory.
        identity: names the weights of `lower`; part of the key.
        on_progress: called with (texts done, all texts).

    Returns:
        The states; memory-mapped where they came from the cache.
    """
    if cache is None:
        return _compute(texts, tokenizer, lower, max_tokens, on_progress)
    folder = cache / _key(texts, max_tokens, identity)
    if not (folder / "offsets.npy").is_file():
        states = _compute(texts, tokenizer, lower, max_tokens, on_progress)
        _write(states, folder)
    return HiddenStates(
        np.load(folder / "values.npy", mmap_mode="r", allow_pickle=False),
        np.load(folder / "offsets.npy", allow_pickle=False),
    )


def _compute(
    texts: Sequence[str],
    tokenizer: WordPiece,
    lower: keras.Model | None,
    max_tokens: int,
    on_progress: Callable[[int, int], None] | None,
) -> HiddenStates:
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], reduce_retracing=True)
    def encode(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        ids = tokenizer(batch, max_tokens)  # [texts, tokens]
        mask = ids != tokenizer.pad_id
        states = ids if lower is None else lower(ids)
        return tf.boolean_mask(states, mask), tf.reduce_sum(tf.cast(mask, tf.int64), 1)

    order = [n for n in np.argsort([len(text) for text in texts], kind="stable") if texts[n]]
    lengths = np.zeros(len(texts), np.int64)
    pieces: dict[int, npt.NDArray[Any]] = {}
    done = 0
    while done < len(order):
        # Characters over four is a fair guess of tokens for the sort order; exact counts are not needed.
        guess = min(max_tokens, 2 + len(texts[order[done]]) // 4)
        rows = order[done : done + max(16, _BATCH_TOKENS // guess)]
        flat, counts = (part.numpy() for part in encode(tf.constant([texts[n] for n in rows])))
        lengths[rows] = counts
        # Halved here and not in the graph: oneDNN has no float16 on most processors, and says so each time.
        flat = flat if lower is None else flat.astype(np.float16)
        pieces.update(zip(rows, np.split(flat, np.cumsum(counts)[:-1]), strict=True))
        done += len(rows)
        if on_progress:
            on_progress(done, len(order))
    empty = np.zeros((0,), np.int32) if lower is None else np.zeros((0, _width(pieces)), np.float16)
    values = np.concatenate([empty, *(pieces[n] for n in sorted(pieces))])
    return HiddenStates(values, np.concatenate([[0], np.cumsum(lengths)]))


def _width(pieces: dict[int, npt.NDArray[Any]]) -> int:
    return next(iter(pieces.values())).shape[1] if pieces else 0


def _key(texts: Sequence[str], max_tokens: int, identity: str) -> str:
    digest = hashlib.sha256(json.dumps([identity, max_tokens, len(texts)]).encode())
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()[:24]


def _write(states: HiddenStates, folder: Path) -> None:
    """Write the folder whole or not at all."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    np.save(part / "values.npy", states.values, allow_pickle=False)
    np.save(part / "offsets.npy", states.offsets, allow_pickle=False)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
