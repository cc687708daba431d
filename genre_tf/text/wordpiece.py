"""BERT's tokenizer inside the graph: strings to token ids; nothing in it learns or grows at run time."""

import functools
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import tensorflow as tf

from genre_tf.errors import InputError
from genre_tf.files import read_json_object, read_text_lines

# Longer text is cut here first, so that no request can occupy the server with one huge string. Far more than
# the 512 tokens of a BERT need.
MAX_TEXT_BYTES = 32_768
# BERT treats longer words as unknown instead of searching for their pieces.
MAX_WORD_CHARACTERS = 100

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUATION = "##"
_NONE, _DEAD_END = -1, -2
_LETTERS_SHARE = 0.75  # maximum share of a learned vocabulary; the rest is for words
_TEXTS = tf.TensorSpec([None], tf.string)

# Planes above this hold private use (dropped), and nothing with a case, an accent or a decomposition except
# the tags and variation selectors of plane 14; `bert_characters` treats those by rule.
TABLE_SIZE = 0x30000

WORD, SPACE, ALONE = 0, 1, 2

_MAX_EXPANSION = 4
_CJK_BLOCKS = (
    range(0x3400, 0x4DC0),
    range(0x4E00, 0xA000),
    range(0xF900, 0xFB00),
    range(0x20000, 0x2A6E0),
    range(0x2A700, 0x2B740),
    range(0x2B740, 0x2B820),
    # Unicode begins this block at 2B820; the fast tokenizer of `transformers`, our reference, begins it here.
    range(0x2B920, 0x2CEB0),
    range(0x2F800, 0x2FA20),
)
# Looked up one by one. The omitted ones are ideographs, which do not change.
_LISTED = (*range(0x3400), *range(0xA000, 0x20000), *range(0x2F800, 0x2FA20))
_WHITE_CONTROLS = frozenset(map(ord, "\t\n\r"))
_ASCII_SYMBOLS = frozenset(map(ord, "$+<=>^`|~"))  # punctuation to BERT, but not to Unicode


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
        self.vocabulary = tuple(vocabulary)
        """The tokens, in the order of their ids."""
        self.lowercase = lowercase
        self.strip_accents = lowercase if strip_accents is None else strip_accents
        ids = {token: number for number, token in enumerate(self.vocabulary)}
        missing = [token for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if token not in ids]
        if missing:
            raise InputError(
                f"The WordPiece vocabulary ({len(vocabulary)} tokens) lacks {', '.join(missing)}. "
                "Name a BERT folder whose vocab.txt is complete."
            )
        if len(ids) != len(vocabulary):
            twice = next(token for number, token in enumerate(vocabulary) if ids[token] != number)
            raise InputError(f"The WordPiece vocabulary contains the token {twice!r} more than once.")
        self.pad_id, self.unknown_id = ids["[PAD]"], ids["[UNK]"]
        self.start_id, self.end_id = ids["[CLS]"], ids["[SEP]"]
        self._pieces = LongestMatch(self.vocabulary, self.unknown_id)
        self._tables = bert_characters(self.lowercase, self.strip_accents)

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Read `vocab.txt` or `tokenizer.json`, and the casing, from a Hugging Face folder."""
        described = read_json_object(folder / "tokenizer.json")
        settings = read_json_object(folder / "tokenizer_config.json")
        normalizer = described.get("normalizer") or {}
        lowercase = settings.get("do_lower_case", normalizer.get("lowercase", True))
        strip_accents = settings.get("strip_accents", normalizer.get("strip_accents"))
        if (folder / "vocab.txt").is_file():
            return cls(read_text_lines(folder / "vocab.txt"), bool(lowercase), strip_accents)
        model = described.get("model", {})
        if not described:
            raise InputError(f"{folder} has no tokenizer: neither vocab.txt nor tokenizer.json exists.")
        if model.get("type") != "WordPiece":
            raise InputError(
                f"{folder / 'tokenizer.json'} describes a {model.get('type')} tokenizer; "
                "a BERT needs WordPiece. Name a BERT folder."
            )
        ids = model.get("vocab", {})
        return cls(sorted(ids, key=ids.__getitem__), bool(lowercase), strip_accents)

    def get_config(self) -> dict[str, Any]:
        """Vocabulary and rules in plain data, from which `from_config` makes the same tokenizer."""
        return {
            "vocabulary": list(self.vocabulary),
            "lowercase": self.lowercase,
            "strip_accents": self.strip_accents,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The tokenizer that `get_config` describes."""
        return cls(config["vocabulary"], config["lowercase"], config["strip_accents"])

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens."""
        return len(self.vocabulary)

    def save(self, folder: Path) -> None:
        """Write `vocab.txt` and `tokenizer_config.json` as Hugging Face's BERT tokenizers read them."""
        (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in self.vocabulary), "utf-8")
        settings = {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": self.lowercase,
            "strip_accents": self.strip_accents,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")

    def __call__(self, text: tf.Tensor, max_tokens: int) -> tf.Tensor:
        """Token ids of each text, string [N] (any bytes; cut after 32,768), between [CLS] and [SEP].

        Returns int32 [N, T], padded on the right with `pad_id`; T is the longest row, at most `max_tokens`.
        """
        if max_tokens < 2:
            raise InputError(f"max_tokens must leave room for [CLS] and [SEP]; got {max_tokens}.")
        ids = self.pieces(text)[:, : max_tokens - 2]
        start, end = (tf.fill([ids.nrows(), 1], each) for each in (self.start_id, self.end_id))
        return tf.concat([start, ids, end], axis=1).to_tensor(self.pad_id)

    def pieces(self, text: tf.Tensor) -> tf.RaggedTensor:
        """Token ids of each text, string [N], without [CLS] and [SEP]: ragged int32 [N, None]."""
        return self._pieces_of(tf.convert_to_tensor(text, tf.string))

    # One traced function for all callers, so that a SavedModel contains its constants (mainly the vocabulary)
    # once, however many signatures tokenize.
    @tf.function(input_signature=[_TEXTS], autograph=False)
    def _pieces_of(self, text: tf.Tensor) -> tf.RaggedTensor:
        words = self._words(tf.strings.substr(text, 0, MAX_TEXT_BYTES))
        return words.with_flat_values(self._pieces(words.flat_values)).merge_dims(1, 2)

    def _words(self, text: tf.Tensor) -> tf.RaggedTensor:
        """Normalized words of each text: ragged string [N, None]."""
        decoded = tf.strings.unicode_decode(text, "UTF-8", errors="replace")
        codes, owner = decoded.flat_values, tf.cast(decoded.value_rowids(), tf.int32)
        # Code points after cleaning, accents and case, and the text that each belongs to.
        inside = codes < TABLE_SIZE
        slot = tf.gather(self._tables.slot, tf.minimum(codes, TABLE_SIZE - 1))
        slot = tf.where(inside, tf.cast(slot, tf.int32), 0)
        expanded = tf.gather(self._tables.expansions, slot)  # [characters, 4]
        # Above the tables BERT drops private use, tags and (as marks) variation selectors.
        dropped = (codes >= 0xF0000) | (codes == 0xE0001) | ((codes >= 0xE0020) & (codes <= 0xE007F))
        if self.strip_accents:
            dropped |= (codes >= 0xE0100) & (codes <= 0xE01EF)
        kept = tf.where(inside | tf.logical_not(dropped), codes, -1)
        every = tf.concat([tf.where(slot == 0, kept, expanded[:, 0])[:, None], expanded[:, 1:]], axis=1)
        present = every >= 0
        flat, owner = tf.boolean_mask(every, present), tf.gather(owner, tf.where(present)[:, 0])
        kind = tf.gather(self._tables.kind, tf.minimum(flat, TABLE_SIZE - 1))
        kind_before = tf.concat([[np.int8(SPACE)], kind], axis=0)[:-1]
        owner_before = tf.concat([[-1], owner], axis=0)[:-1]
        # Whether a word begins at each code point.
        first = (kind != SPACE) & ((kind == ALONE) | (kind_before != WORD) | (owner != owner_before))
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


class LongestMatch(tf.Module):
    """Splits words into pieces of a vocabulary: the longest known one, then the longest that continues it.

    Core TensorFlow operations and a read-only table do it. TensorFlow Text has one operation for it, but
    `saved_model_cli run` and servers built without TensorFlow Text reject a graph that contains it.

    Source: Devlin et al. 2018 (greedy, longest match first).
    """

    def __init__(self, vocabulary: Sequence[str], unknown_id: int) -> None:
        super().__init__(name="longest_match")
        self._unknown_id = unknown_id
        self._longest = max(len(token.removeprefix(CONTINUATION)) for token in vocabulary)
        ids = tf.range(len(vocabulary), dtype=tf.int32)
        tokens = tf.lookup.KeyValueTensorInitializer(tf.constant(list(vocabulary)), ids)
        self._ids = tf.lookup.StaticHashTable(tokens, default_value=_NONE)

    def __call__(self, words: tf.Tensor) -> tf.RaggedTensor:
        """Split words, string [M], UTF-8, none empty: ragged int32 [M, None], at least one id per word."""
        whole = self._ids.lookup(words)
        # Most words are tokens themselves; only the others need a search.
        known, searched = tf.where(whole != _NONE)[:, 0], tf.where(whole == _NONE)[:, 0]
        pieces = self._search(tf.gather(words, searched))  # [searched, steps]
        place = tf.where(pieces != _NONE)  # [pieces, 2]
        owner = tf.concat([known, tf.gather(searched, place[:, 0])], axis=0)
        ids = tf.concat([tf.gather(whole, known), tf.gather_nd(pieces, place)], axis=0)
        order = tf.argsort(owner, stable=True)
        return tf.RaggedTensor.from_value_rowids(
            tf.gather(ids, order), tf.gather(owner, order), nrows=tf.size(words, tf.int64), validate=False
        )

    def _search(self, words: tf.Tensor) -> tf.Tensor:
        """Ids of the pieces of each word: string [K] -> int32 [K, steps], -1 after the last."""
        lengths = tf.strings.length(words, unit="UTF8_CHAR")

        def unfinished(position: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
            return tf.reduce_any(position < lengths)

        def advance(position: tf.Tensor, pieces: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            rows = tf.where(position < lengths)  # [open, 1]
            start, end = tf.gather_nd(position, rows), tf.gather_nd(lengths, rows)
            ids, taken = self._longest_at(tf.gather_nd(words, rows), start)
            reached = tf.where(ids == _DEAD_END, end, tf.minimum(start + taken, end))
            column = tf.tensor_scatter_nd_update(tf.fill(tf.shape(position), _NONE), rows, ids)
            position = tf.tensor_scatter_nd_update(position, rows, reached)
            return position, tf.concat([pieces, column[:, None]], axis=1)

        _, pieces = tf.while_loop(
            unfinished,
            advance,
            (tf.zeros_like(lengths), tf.fill([tf.size(words), 1], _NONE)),
            shape_invariants=(lengths.shape, tf.TensorShape([None, None])),
        )
        # One dead end makes the whole word unknown.
        lost = tf.reduce_any(pieces == _DEAD_END, axis=1, keepdims=True)  # [K, 1]
        unknown = tf.where(tf.range(tf.shape(pieces)[1]) == 0, self._unknown_id, _NONE)
        return tf.where(lost, unknown[None, :], pieces)

    def _longest_at(self, words: tf.Tensor, start: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The longest piece at a position (in characters) of each word: int32 [K] and int32 [K].

        Returns its id (`_DEAD_END` if no piece fits), and its length in characters, which may extend beyond
        the word's end.
        """
        lengths = tf.range(self._longest, 0, -1)  # longest first
        rest = tf.strings.substr(words, start, tf.fill(tf.shape(start), self._longest), unit="UTF8_CHAR")
        inside = start > 0
        rest = tf.strings.join([tf.where(inside, CONTINUATION, ""), rest])
        ends = lengths[None, :] + tf.where(inside, len(CONTINUATION), 0)[:, None]  # [K, lengths]
        whole = tf.broadcast_to(rest[:, None], tf.shape(ends))
        ids = self._ids.lookup(tf.strings.substr(whole, tf.zeros_like(ends), ends, unit="UTF8_CHAR"))
        best = tf.argmax(ids != _NONE, axis=1, output_type=tf.int32)  # the first known one
        found = tf.gather(ids, best, batch_dims=1)
        return tf.where(found == _NONE, _DEAD_END, found), tf.gather(lengths, best)


def learn_wordpiece(texts: Iterable[str], vocabulary_size: int) -> WordPiece:
    """Learn a lower-case vocabulary of BERT's kind, for languages that no available checkpoint covers.

    Equal texts give equal vocabularies. Chinese characters, which are words to BERT, become single tokens; in
    other scripts frequent words and pieces do. The rarest characters are unknown if there is no room for all.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    if vocabulary_size < 100:
        raise InputError(
            f"a WordPiece vocabulary of {vocabulary_size} tokens has no room for letters; give at least 100"
        )
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    corpus = list(texts)
    counts: Counter[str] = Counter()
    within: set[str] = set()  # characters that some word does not begin with
    for text in corpus:
        clean = tokenizer.normalizer.normalize_str(text)
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(clean):
            counts.update(word)
            within.update(word[1:])
    letters: list[str] = []
    room = int(vocabulary_size * _LETTERS_SHARE)
    for letter in sorted(counts, key=lambda each: (-counts[each], each)):
        room -= 2 if letter in within else 1
        if room < 0:
            break
        letters.append(letter)
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary_size,
        # The library numbers letters within words in the order of its hash table, and breaks ties by number.
        special_tokens=[*SPECIAL_TOKENS, *(f"##{letter}" for letter in sorted(within.intersection(letters)))],
        initial_alphabet=sorted(letters),
        limit_alphabet=len(letters),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    ids = tokenizer.get_vocab()
    return WordPiece(sorted(ids, key=ids.__getitem__))


class CharacterTables(NamedTuple):
    """Tables over code points below `TABLE_SIZE`.

    `slot`, int16, is a row of `expansions`, int32 [slots, 4], what the character becomes, padded with -1
    (empty if it is dropped), or 0 for a character that does not change. `kind`, int8, is `WORD`, `SPACE` or
    `ALONE` (punctuation and CJK, each a separate word).
    """

    slot: np.ndarray
    expansions: np.ndarray
    kind: np.ndarray


@functools.cache
def bert_characters(lowercase: bool, strip_accents: bool) -> CharacterTables:
    """The tables of BERT's cleaning, accent stripping (NFD without marks), lower-casing and splitting.

    They are computed from Python's Unicode data, so that they do not depend on the locale or the ICU version
    of the server that runs the graph.

    Source: `BasicTokenizer` of Devlin et al. 2018 (google-research/bert), as implemented in `transformers`.
    """
    slot = np.zeros(TABLE_SIZE, np.int16)
    kind = np.zeros(TABLE_SIZE, np.int8)
    rows: dict[tuple[int, ...], int] = {(-1,): 0}
    for code in _LISTED:
        character, category = chr(code), unicodedata.category(chr(code))
        text = character
        if category[0] == "Z" or code in _WHITE_CONTROLS:
            kind[code], text = SPACE, " "
        else:
            kind[code] = ALONE if category[0] == "P" or code in _ASCII_SYMBOLS else WORD
            marks = strip_accents and category == "Mn"
            if marks or character == "\ufffd" or category in ("Cc", "Cf", "Co", "Cs"):
                text = ""
            elif strip_accents and not unicodedata.is_normalized("NFD", text):
                decomposed = unicodedata.normalize("NFD", text)
                text = "".join(c for c in decomposed if unicodedata.category(c) != "Mn")
            text = "".join(c.lower() for c in text) if lowercase else text
        if text != character:
            slot[code] = rows.setdefault(tuple(map(ord, text)), len(rows))
    for block in _CJK_BLOCKS:
        kind[block.start : block.stop] = ALONE
    expansions = np.full((len(rows), _MAX_EXPANSION), -1, np.int32)
    for expansion, row in rows.items():
        expansions[row, : len(expansion)] = expansion
    return CharacterTables(slot, expansions, kind)
