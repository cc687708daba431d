"""BERT's tokenizer inside the graph: strings to token ids; nothing in it learns or grows at run time."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import tensorflow as tf

from genre_tf.errors import InputError
from genre_tf.text.bert_characters import ALONE, SPACE, TABLE_SIZE, WORD, bert_characters
from genre_tf.text.json_files import read_json_object
from genre_tf.text.longest_match import LongestMatch

# Longer text is cut here first, so that no request can occupy the server with one huge string. Far more than
# the 512 tokens of a BERT need.
MAX_TEXT_BYTES = 32_768
# BERT treats longer words as unknown instead of searching for their pieces.
MAX_WORD_CHARACTERS = 100

_TEXTS = tf.TensorSpec([None], tf.string)


class WordPiece(tf.Module):
    """Splits text as BERT does, using core TensorFlow operations only.

    It accepts any bytes: invalid UTF-8 is skipped like control characters, and a special token spelled out in
    a text (`[SEP]`) is read as its punctuation and letters.

    Args:
        vocabulary: the tokens, in the order of their ids; continuations begin with `##`.
        lowercase: lower-case the text first (an "uncased" model).
        strip_accents: drop accents; None follows `lowercase`, as BERT does.

    Raises:
        InputError: the vocabulary lacks [PAD], [UNK], [CLS] or [SEP], or contains a token twice.

    Source: Devlin et al. 2018.
    """

    def __init__(
        self, vocabulary: Sequence[str], lowercase: bool = True, strip_accents: bool | None = None
    ) -> None:
        super().__init__(name="word_piece")
        self._vocabulary = tuple(vocabulary)
        self.lowercase = lowercase
        self.strip_accents = lowercase if strip_accents is None else strip_accents
        ids = {token: number for number, token in enumerate(self._vocabulary)}
        _check_vocabulary(self._vocabulary, ids)
        self.pad_id, self.unknown_id = ids["[PAD]"], ids["[UNK]"]
        self.start_id, self.end_id = ids["[CLS]"], ids["[SEP]"]
        self._pieces = LongestMatch(self._vocabulary, self.unknown_id)
        self._tables = bert_characters(self.lowercase, self.strip_accents)

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Read `vocab.txt` or `tokenizer.json`, and the casing, from a Hugging Face folder.

        Raises:
            InputError: neither file exists, or its content is not a WordPiece vocabulary.
        """
        described = read_json_object(folder / "tokenizer.json")
        settings = read_json_object(folder / "tokenizer_config.json")
        normalizer = described.get("normalizer") or {}
        lowercase = settings.get("do_lower_case", normalizer.get("lowercase", True))
        strip_accents = settings.get("strip_accents", normalizer.get("strip_accents"))
        if (folder / "vocab.txt").is_file():
            return cls(_read_vocabulary(folder / "vocab.txt"), bool(lowercase), strip_accents)
        model = described.get("model", {})
        if not described:
            raise InputError(f"{folder} has no tokenizer: neither vocab.txt nor tokenizer.json exists.")
        if model.get("type") != "WordPiece":
            raise InputError(
                f"{folder / 'tokenizer.json'} describes a {model.get('type')} tokenizer; "
                "a BERT needs WordPiece. Name a BERT folder."
            )
        ids = model.get("vocab", {})
        vocabulary = sorted(ids, key=ids.__getitem__)
        return cls(vocabulary, bool(lowercase), strip_accents)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The tokens, in the order of their ids."""
        return self._vocabulary

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens."""
        return len(self._vocabulary)

    def save(self, folder: Path) -> None:
        """Write `vocab.txt` and `tokenizer_config.json` as Hugging Face's BERT tokenizers read them."""
        (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in self._vocabulary), "utf-8")
        settings = {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": self.lowercase,
            "strip_accents": self.strip_accents,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")

    def __call__(self, text: tf.Tensor, max_tokens: int) -> tf.Tensor:
        """Token ids of each text, between [CLS] and [SEP].

        Args:
            text: string [N], any bytes; cut after 32,768 bytes.
            max_tokens: length of the longest row, including [CLS] and [SEP]; the rest of a text is dropped.

        Returns:
            int32 [N, T], padded on the right with `pad_id`; T is the longest row of the batch.
        """
        if max_tokens < 2:
            raise InputError(f"max_tokens must leave room for [CLS] and [SEP]; got {max_tokens}.")
        ids = self.pieces(text)[:, : max_tokens - 2]
        rows = ids.nrows()
        start = tf.fill([rows, 1], self.start_id)
        end = tf.fill([rows, 1], self.end_id)
        return tf.concat([start, ids, end], axis=1).to_tensor(self.pad_id)

    def pieces(self, text: tf.Tensor) -> tf.RaggedTensor:
        """Token ids of each text, without [CLS] and [SEP].

        Args:
            text: string [N], any bytes; cut after 32,768 bytes.

        Returns:
            ragged int32 [N, None].
        """
        return self._pieces_of(tf.convert_to_tensor(text, tf.string))

    # One traced function for all callers, so that a SavedModel contains its constants (mainly the vocabulary)
    # once, however many signatures tokenize.
    @tf.function(input_signature=[_TEXTS], autograph=False)
    def _pieces_of(self, text: tf.Tensor) -> tf.RaggedTensor:
        words = self._words(tf.strings.substr(text, 0, MAX_TEXT_BYTES))
        return words.with_flat_values(self._pieces(words.flat_values)).merge_dims(1, 2)

    def _words(self, text: tf.Tensor) -> tf.RaggedTensor:
        """Normalized words of each text: ragged string [N, None]."""
        codes = tf.strings.unicode_decode(text, "UTF-8", errors="replace")
        flat, owner = self._normalized(codes.flat_values, tf.cast(codes.value_rowids(), tf.int32))
        in_table = tf.minimum(flat, TABLE_SIZE - 1)
        kind = tf.gather(self._tables.kind, in_table)
        first = _begins_word(kind, owner)
        word = tf.cumsum(tf.cast(first, tf.int32)) - 1
        written = kind != SPACE
        words = tf.RaggedTensor.from_value_rowids(  # type: ignore[attr-defined]
            tf.boolean_mask(flat, written),
            tf.boolean_mask(word, written),
            nrows=tf.math.count_nonzero(first, dtype=tf.int32),
            validate=False,
        )
        strings = tf.strings.unicode_encode(words, "UTF-8")
        strings = tf.where(words.row_lengths() > MAX_WORD_CHARACTERS, "[UNK]", strings)
        return tf.RaggedTensor.from_value_rowids(  # type: ignore[attr-defined]
            strings, tf.cast(tf.boolean_mask(owner, first), tf.int64), nrows=tf.size(text, tf.int64)
        )

    def _normalized(self, codes: tf.Tensor, owner: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Code points after cleaning, accents and case, and the text that each belongs to: two int32 [M]."""
        tables = self._tables
        inside = codes < TABLE_SIZE
        slot = tf.gather(tables.slot, tf.minimum(codes, TABLE_SIZE - 1))
        slot = tf.where(inside, tf.cast(slot, tf.int32), 0)
        expanded = tf.gather(tables.expansions, slot)  # [characters, 4]
        kept = tf.where(inside | tf.logical_not(_dropped_above(codes, self.strip_accents)), codes, -1)
        first = tf.where(slot == 0, kept, expanded[:, 0])
        every = tf.concat([first[:, None], expanded[:, 1:]], axis=1)
        present = every >= 0
        return tf.boolean_mask(every, present), tf.gather(owner, tf.where(present)[:, 0])


def _begins_word(kind: tf.Tensor, owner: tf.Tensor) -> tf.Tensor:
    """Whether a word begins at each code point: bool [M]."""
    before = tf.concat([[np.int8(SPACE)], kind], axis=0)[:-1]
    owner_before = tf.concat([[-1], owner], axis=0)[:-1]
    return (kind != SPACE) & ((kind == ALONE) | (before != WORD) | (owner != owner_before))


def _dropped_above(codes: tf.Tensor, strip_accents: bool) -> tf.Tensor:
    """Characters above the tables that BERT drops: private use, tags and (as marks) variation selectors."""
    dropped = (codes >= 0xF0000) | (codes == 0xE0001) | ((codes >= 0xE0020) & (codes <= 0xE007F))
    selectors = (codes >= 0xE0100) & (codes <= 0xE01EF)
    return dropped | selectors if strip_accents else dropped


def _check_vocabulary(vocabulary: Sequence[str], ids: dict[str, int]) -> None:
    missing = [token for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if token not in ids]
    if missing:
        raise InputError(
            f"The WordPiece vocabulary ({len(vocabulary)} tokens) lacks {', '.join(missing)}. "
            "Name a BERT folder whose vocab.txt is complete."
        )
    if len(ids) != len(vocabulary):
        twice = next(token for number, token in enumerate(vocabulary) if ids[token] != number)
        raise InputError(f"The WordPiece vocabulary contains the token {twice!r} more than once.")


def _read_vocabulary(path: Path) -> list[str]:
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}).") from error
    # Not splitlines(): a token may be a character that Python treats as the end of a line.
    return [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")]
