"""Batches of packed rows for language modelling: predict the next token, or masked words."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.backbones.language_models import END_OF_TEXT
from genre_tf.data.batches import WHOLE, BatchLayout
from genre_tf.data.packing import Masking, lay_out, mask_words, pack
from genre_tf.errors import InputError
from genre_tf.text.byte_pair import BytePair
from genre_tf.text.wordpiece import WordPiece

_ENCODED_AT_ONCE = 4096

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class TokenTexts:
    """Tokenized texts; texts longer than a row are cut into pieces."""

    inputs: list[npt.NDArray[np.int32]]  # input tokens of each piece, int32 [tokens]
    labels: list[npt.NDArray[np.int32]] | None  # the token after each; None for masked models
    masking: Masking | None  # how words are masked; None for causal models
    numbers: list[int]  # for each piece, the number of the text that it was cut from
    # For each token the numbers of its n-gram contexts, one list per length (`SmoothedNgrams.contexts`).
    # Empty: only the text's own tokens are learned.
    contexts: tuple[list[npt.NDArray[np.int32]], ...] = ()

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each text, int64 [texts]."""
        return np.asarray([len(text) for text in self.inputs], np.int64)


def causal_texts(texts: Sequence[str], tokenizer: BytePair, width: int) -> TokenTexts:
    """Texts for a causal model: the end-of-text token stands before each text and is predicted after it.

    Between two texts in a row, the same token ends one and begins the other. If a text is longer than a row,
    each piece begins with the last token of the previous piece, so that all tokens are predicted.
    """
    end = np.asarray([tokenizer.token_id(END_OF_TEXT)], np.int32)
    inputs, labels, numbers = [], [], []
    for number, ids in enumerate(_encoded(texts, tokenizer.encode)):
        whole = np.concatenate([end, ids, end])
        for start in range(0, len(whole) - 1, width):
            piece = whole[start : start + width + 1]
            inputs.append(piece[:-1])
            labels.append(piece[1:])
            numbers.append(number)
    return TokenTexts(inputs, labels, None, numbers)


def masked_texts(texts: Sequence[str], tokenizer: WordPiece, width: int, share: float) -> TokenTexts:
    """Texts for a masked model: pieces of at most `width` tokens between [CLS] and [SEP], a share masked."""
    vocabulary = tokenizer.vocabulary
    if "[MASK]" not in vocabulary:
        raise InputError(
            f"the vocabulary ({len(vocabulary)} tokens) has no [MASK] for masked language modelling; "
            "name a BERT folder with a complete vocab.txt"
        )
    mask = vocabulary.index("[MASK]")
    special = np.zeros(len(vocabulary), bool)
    special[[tokenizer.pad_id, tokenizer.unknown_id, tokenizer.start_id, tokenizer.end_id, mask]] = True
    begins = np.asarray([not token.startswith("##") for token in vocabulary])
    start, end = (np.asarray([one], np.int32) for one in (tokenizer.start_id, tokenizer.end_id))
    inputs, numbers = [], []
    for number, ids in enumerate(_encoded(texts, tokenizer.pieces)):
        for first in range(0, len(ids), width - 2):
            inputs.append(np.concatenate([start, ids[first : first + width - 2], end]))
            numbers.append(number)
    masking = Masking(share=share, mask_id=mask, begins_word=begins, special=special)
    return TokenTexts(inputs, None, masking, numbers)


def _encoded(texts: Sequence[str], encode: Any) -> Iterator[npt.NDArray[np.int32]]:
    for first in range(0, len(texts), _ENCODED_AT_ONCE):
        ids = encode(tf.constant(list(texts[first : first + _ENCODED_AT_ONCE])))
        yield from np.split(ids.flat_values.numpy(), ids.row_splits.numpy()[1:-1])


class PackedBatches:
    """Batches of one shape from tokenized texts; packing and masks change in each epoch.

    `smoothing` (batch number -> share of the n-grams in its targets) is for texts with contexts. Raises an
    `InputError` if the texts do not fill one batch of `rows` rows.
    """

    def __init__(self, texts: TokenTexts, width: int, rows: int, seed: int) -> None:
        self.texts, self.width, self.rows, self.seed = texts, width, rows, seed
        self.smoothing: Callable[[int], float] = lambda number: 0.0
        if self.in_epoch < 1:
            raise InputError(
                f"{len(texts.inputs)} texts of {int(texts.lengths.sum())} tokens do not fill one batch "
                f"of {rows} rows of {width} tokens; give a smaller --batch-size"
            )

    @cached_property
    def in_epoch(self) -> int:
        """Full batches in the first epoch; other epochs may have one more or less."""
        return len(self._packed(0)) // self.rows

    @property
    def tokens(self) -> float:
        """Mean tokens in a batch, without padding."""
        return float(self.texts.lengths.sum()) * self.rows / len(self._packed(0))

    def batches(self, layout: BatchLayout = WHOLE, start: int = 0) -> tf.data.Dataset:
        """Endless batches, without the first `start`, whose epochs must still be packed.

        Only the parts of each batch that the layout asks for are returned, one after another; what a row
        contains does not depend on it. An incomplete batch at the end of an epoch is skipped.

        Returns:
            Dataset of token_ids, text and position, int32 [rows, width] each; labels int32 and label_weight
            float32 [rows, width], for a masked model [rows, masked tokens], with places int32 of that shape.
            For texts with contexts also contexts int32 [rows, width, lengths] and smoothing float32 [rows,
            width], the share of the n-grams in the target.
        """
        if self.rows % layout.parts:
            raise InputError(
                f"a batch of {self.rows} rows cannot be divided into {layout.parts} equal parts; give a "
                f"--batch-size that is a multiple of {layout.parts}"
            )

        def each_part() -> Iterator[Arrays]:
            for at, (epoch, number, batch) in enumerate(self._from(start), start):
                for part in layout.wanted:
                    seeds = [[self.seed, epoch, number + row] for row in range(part, self.rows, layout.parts)]
                    found = packed_arrays(self.texts, batch[part :: layout.parts], self.width, seeds)
                    if self.texts.contexts:
                        found["smoothing"] = np.full_like(found["label_weight"], self.smoothing(at))
                    yield found

        wide = self.texts.masking.places(self.width) if self.texts.masking else self.width
        rows = self.rows // layout.parts
        like = {
            name: tf.TensorSpec([rows, self.width], tf.int32) for name in ("token_ids", "text", "position")
        }
        like["labels"] = tf.TensorSpec([rows, wide], tf.int32)
        like["label_weight"] = tf.TensorSpec([rows, wide], tf.float32)
        if self.texts.masking:
            like["places"] = tf.TensorSpec([rows, wide], tf.int32)
        if self.texts.contexts:
            like["contexts"] = tf.TensorSpec([rows, self.width, len(self.texts.contexts)], tf.int32)
            like["smoothing"] = tf.TensorSpec([rows, self.width], tf.float32)
        data = tf.data.Dataset.from_generator(each_part, output_signature=like)
        # Set explicitly; otherwise a strategy asks all workers at each step whether data is left.
        data = data.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
        return data.prefetch(8)

    def text_numbers(self, start: int, count: int) -> list[int]:
        """Which texts occur, wholly or in part, in `count` batches starting at `start`."""
        batches = islice(self._from(start), count)
        return sorted({self.texts.numbers[piece] for _, _, rows in batches for row in rows for piece in row})

    def _from(self, start: int) -> Iterator[tuple[int, int, list[list[int]]]]:
        """For each batch from `start` on: epoch, number of its first row, and the texts of its rows."""
        epoch = 0
        while True:
            packed = self._packed(epoch)
            whole = len(packed) // self.rows
            for batch in range(min(start, whole), whole):
                first = batch * self.rows
                yield epoch, first, packed[first : first + self.rows]
            start = max(0, start - whole)
            epoch += 1

    def _packed(self, epoch: int) -> list[list[int]]:
        random = np.random.default_rng([self.seed, epoch])
        rows = pack(self.texts.lengths, self.width, random.permutation(len(self.texts.inputs)).tolist())
        return [rows[place] for place in random.permutation(len(rows))]


def measured_batches(texts: TokenTexts, width: int, rows: int) -> list[Arrays]:
    """All texts once, in batches of one shape; the last is padded with empty rows. The same at each call."""
    packed = pack(texts.lengths, width, range(len(texts.inputs)))
    packed += [[]] * (-len(packed) % rows)
    return [
        packed_arrays(texts, packed[first : first + rows], width, [[0, first + row] for row in range(rows)])
        for first in range(0, len(packed), rows)
    ]


def packed_arrays(
    texts: TokenTexts, rows: list[list[int]], width: int, seeds: Sequence[Sequence[int]]
) -> Arrays:
    """The batch of some rows; see `PackedBatches.batches`. The seed of each row decides what it masks."""
    columns = [texts.inputs] + ([texts.labels] if texts.labels is not None else [])
    out, text, position = lay_out([*columns, *texts.contexts], rows, width)
    found: Arrays = {"token_ids": out[0], "text": text, "position": position}
    if texts.contexts:
        found["contexts"] = np.stack(out[len(columns) :], axis=-1)
    if texts.masking is None:
        return {**found, "labels": out[1], "label_weight": (text > 0).astype(np.float32)}
    ids, most = out[0], texts.masking.places(width)
    seen, weight = ids.copy(), np.zeros((len(ids), most), np.float32)
    places, labels = (np.zeros((len(ids), most), np.int32) for _ in range(2))
    for row, seed in enumerate(seeds):
        real = int((text[row] > 0).sum())
        seen[row, :real], where = mask_words(ids[row, :real], texts.masking, np.random.default_rng(seed))
        count = len(where)
        places[row, :count], labels[row, :count] = where, ids[row, where]
        weight[row, :count] = 1.0
    return {**found, "token_ids": seen, "labels": labels, "label_weight": weight, "places": places}
