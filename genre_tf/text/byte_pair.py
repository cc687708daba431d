"""GPT-2's byte-pair tokenizer inside the graph, and back; nothing in it learns or grows at run time."""

import functools
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import tensorflow as tf

from genre_tf.errors import InputError
from genre_tf.text.byte_pair_files import (
    ByteVocabulary,
    check_vocabulary_size,
    merge_pair,
    printable_bytes,
    read_byte_vocabulary,
    write_byte_vocabulary,
)

# Longer text is cut here first, so that no request can occupy the server with one huge string: 10,000
# characters of any script, and far more than GPT-2's 1,024 tokens of prose.
MAX_TEXT_BYTES = 40_000
# This many words of a corpus are looked up instead of merged: nearly all of a day's news.
MAX_KNOWN_WORDS = 100_000
MAX_KNOWN_WORD_BYTES = 64

# The value of a pair that no rule merges: larger than every rank.
_NEVER = np.iinfo(np.int64).max
_NO_TOKEN = -1  # a byte that the vocabulary lacks; it is left out of the text, as in the reference

OTHER, LETTER, NUMBER, SPACE = 0, 1, 2, 3
# No letter, number or space has a code point above this one.
_TABLE_SIZE = 0x32400
_NOTHING = -1  # stands for a code point before the first and after the last

_TEXTS = tf.TensorSpec([None], tf.string)


class BytePair(tf.Module):
    """Splits text as GPT-2 does, using core TensorFlow operations only.

    It accepts any bytes: invalid UTF-8 becomes U+FFFD, as with Python's `errors="replace"`. A special token
    spelled out in a text is read as its characters; special tokens come from `token_id` only, so that no
    reader can insert one.

    Args:
        vocabulary: token (bytes written as GPT-2's printable characters) -> id; the ids are 0, 1, 2, …
        merges: pairs of tokens, best first.
        known_words: words (as split, with their leading space) whose tokens are computed now and looked up
            later; they change only the speed.
        split_digits: whether every digit is a separate word, as in SmolLM2.

    Raises:
        InputError: the vocabulary lacks an ASCII character or the result of a merge, or its ids have gaps.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        merges: Sequence[tuple[str, str]],
        known_words: Iterable[str] = (),
        *,
        split_digits: bool = False,
    ) -> None:
        super().__init__(name="byte_pair")
        # Wrapped, because tf.Module treats plain dictionaries as things to save.
        self._described = ByteVocabulary(vocabulary, merges, known_words, split_digits=split_digits)
        ids = self._described.ids
        self._bytes = np.array([ids.get(token, _NO_TOKEN) for token in printable_bytes()], np.int32)
        self._lacks_bytes = bool((self._bytes == _NO_TOKEN).any())
        ranked = [(ids[a], ids[b], ids[a + b]) for a, b in self._described.merges]
        rules = np.array(ranked or [(-1, -1, -1)], np.int64)
        # Rank and merged id are one number, so that one look-up finds both and the smallest is the best.
        values = (np.arange(len(rules), dtype=np.int64) << 32) | (rules[:, 2] & 0xFFFFFFFF)
        keys = (rules[:, 0] << 32) | (rules[:, 1] & 0xFFFFFFFF)
        self._rules = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), _NEVER)
        self._tokens = np.array(self._described.decoded_tokens(), object)
        # Whether some token contains byte a followed by byte b, at 256 a + b. Integers, because TensorFlow
        # writes a boolean constant to a graph element by element.
        self._side_by_side = np.zeros(65_536, np.int8)
        for token in self._tokens:
            for left, right in itertools.pairwise(token):
                self._side_by_side[256 * left + right] = 1
        self._learn(self._described.known_words)

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Read `vocab.json` and `merges.txt`, or `tokenizer.json`, from a Hugging Face folder."""
        read = read_byte_vocabulary(folder)
        return cls(read.ids, read.merges, read.known_words, split_digits=read.split_digits)

    def save(self, folder: Path) -> None:
        """Write a folder that `from_folder` and `transformers` can read."""
        write_byte_vocabulary(self._described, folder)

    def get_config(self) -> dict[str, Any]:
        """Vocabulary and rules in plain data, from which `from_config` makes the same tokenizer."""
        described = self._described
        return {
            "vocabulary": sorted(described.ids, key=described.ids.__getitem__),
            "merges": [f"{left} {right}" for left, right in described.merges],
            "known_words": described.known_words,
            "split_digits": described.split_digits,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The tokenizer that `get_config` describes."""
        ids = {token: number for number, token in enumerate(config["vocabulary"])}
        merges = [(left, right) for left, _, right in (rule.partition(" ") for rule in config["merges"])]
        return cls(ids, merges, config["known_words"], split_digits=config["split_digits"])

    def with_special_tokens(self, tokens: Sequence[str]) -> "BytePair":
        """The same tokenizer with more special tokens, whose ids follow the last one."""
        ids = dict(self._described.ids)
        for token in tokens:
            ids.setdefault(token, len(ids))
        return self._with(ids, self._described.known_words)

    def with_known_words(self, texts: Iterable[str]) -> "BytePair":
        """The same tokenizer, but faster on the most frequent words of a corpus."""
        counts: Counter[bytes] = Counter()
        remaining = iter(texts)
        while batch := list(itertools.islice(remaining, 10_000)):
            counts.update(split_words(_readable(tf.constant(batch)), self._described.split_digits)[0].numpy())
        frequent = sorted(counts, key=lambda word: (-counts[word], word))[:MAX_KNOWN_WORDS]
        words = [word.decode("utf-8") for word in frequent if len(word) <= MAX_KNOWN_WORD_BYTES]
        return self._with(self._described.ids, words)

    def _with(self, ids: Mapping[str, int], known_words: Iterable[str]) -> "BytePair":
        described = self._described
        return BytePair(ids, described.merges, known_words, split_digits=described.split_digits)

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens, including special tokens."""
        return len(self._described.ids)

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Tokens that no text produces, in the order of their ids."""
        return self._described.special_tokens

    def token_id(self, token: str) -> int:
        """The id of a special token; an `InputError` if the vocabulary has no such special token."""
        if token not in self.special_tokens:
            raise InputError(
                f"{token!r} is not a special token of this vocabulary; it has "
                f"{', '.join(self.special_tokens) or 'none'}. Add it with with_special_tokens."
            )
        return self._described.ids[token]

    def encode(self, text: tf.Tensor) -> tf.RaggedTensor:
        """Token ids of each text, string [N] (any bytes; cut after 40,000 bytes): ragged int32 [N, None].

        They never contain a special token.
        """
        return self._encode(tf.convert_to_tensor(text, tf.string))

    def decode(self, ids: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
        """The text of each row of token ids, int32 [N, T], dense or ragged: string [N], always valid UTF-8.

        Special tokens and ids outside the vocabulary are left out; a character cut in the middle becomes
        U+FFFD.
        """
        values = ids.flat_values if isinstance(ids, tf.RaggedTensor) else ids
        known = (values >= 0) & (values < len(self._tokens))
        pieces = tf.where(known, tf.gather(self._tokens, tf.where(known, values, 0)), "")
        if isinstance(ids, tf.RaggedTensor):
            pieces = ids.with_flat_values(pieces)
        return _readable(tf.strings.reduce_join(pieces, axis=-1))

    # One traced function for all callers, so that a SavedModel contains its constants once.
    @tf.function(input_signature=[_TEXTS], autograph=False)
    def _encode(self, text: tf.Tensor) -> tf.RaggedTensor:
        text = _readable(tf.strings.substr(text, 0, MAX_TEXT_BYTES))
        words, owner = split_words(text, self._described.split_digits)
        known = self._known.lookup(words)
        spelled, lengths = self._merge(tf.boolean_mask(words, known < 0))
        # Tokens of known words and those just merged, in one row, and where each word begins and ends in it.
        pool = tf.concat([self._known_tokens, spelled], 0)
        bounds = tf.concat([self._known_starts, len(self._known_tokens) + tf.cumsum(lengths)], 0)
        merged_before = tf.cumsum(tf.cast(known < 0, tf.int32), exclusive=True)
        place = tf.where(known >= 0, known, len(self._known_starts) - 1 + merged_before)
        tokens = tf.ragged.range(tf.gather(bounds, place), tf.gather(bounds, place + 1))
        ids = tokens.with_flat_values(tf.gather(pool, tokens.flat_values))
        by_text = tf.RaggedTensor.from_value_rowids(ids, owner, nrows=tf.size(text, tf.int64), validate=False)  # type: ignore[attr-defined]
        return by_text.merge_dims(1, 2)

    def _merge(self, words: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Tokens of words by the merge loop: int32 [tokens], and the number in each word: int32 [words]."""
        characters = tf.cast(tf.io.decode_raw(tf.strings.reduce_join(words), tf.uint8), tf.int32)
        word = tf.repeat(tf.range(tf.size(words)), tf.strings.length(words))
        if self._lacks_bytes:
            has_token = tf.gather(self._bytes, characters) != _NO_TOKEN
            characters, word = tf.boolean_mask(characters, has_token), tf.boolean_mask(word, has_token)
        # If no token contains these two bytes side by side, no merge can join them. Split there, so that the
        # loop takes as many steps as the longest part needs, not the longest word.
        joinable = tf.gather(self._side_by_side, characters[:-1] * 256 + characters[1:])
        cuts = (word[:-1] != word[1:]) | (joinable == 0)
        part = tf.cumsum(tf.cast(tf.concat([[True], cuts], 0)[: tf.size(word)], tf.int32)) - 1
        ids = tf.gather(self._bytes, characters)
        ids, merged_part, _ = tf.while_loop(
            lambda ids, part, values: tf.reduce_any(values < _NEVER),
            self._merge_once,
            (ids, part, self._values(ids, part, tf.range(tf.size(ids)))),
            shape_invariants=(tf.TensorShape([None]),) * 3,
        )
        word = tf.gather(tf.math.segment_max(word, part), merged_part)
        return ids, tf.math.bincount(word, minlength=tf.size(words), maxlength=tf.size(words))

    def _merge_once(
        self, ids: tf.Tensor, word: tf.Tensor, values: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Merge the best pair of each word, wherever it occurs in the word.

        Source: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units".
        """
        best = tf.gather(tf.math.segment_min(values, word), word)
        hits = (values == best) & (values < _NEVER)
        # Of consecutive hits (`aaa` contains the pair `aa` twice), every other one from the left.
        begins = hits & tf.logical_not(tf.concat([[False], hits[:-1]], 0))
        place = tf.range(tf.size(hits))
        run = tf.maximum(tf.cumsum(tf.cast(begins, tf.int32)) - 1, 0)
        merges = hits & ((place - tf.gather(tf.boolean_mask(place, begins), run)) % 2 == 0)
        ids = tf.where(merges, tf.cast(tf.bitwise.bitwise_and(values, 0xFFFFFFFF), tf.int32), ids)
        kept = tf.where(tf.logical_not(tf.concat([[False], merges[:-1]], 0)))[:, 0]
        ids, word, values, merged = (tf.gather(x, kept) for x in (ids, word, values, merges))
        # Only the pairs on either side of a merged token are new; the others keep their values.
        changed = tf.where(merged | tf.concat([merged[1:], [False]], 0))
        new = self._values(ids, word, tf.cast(changed[:, 0], tf.int32))
        return ids, word, tf.tensor_scatter_nd_update(values, changed, new)

    def _values(self, ids: tf.Tensor, word: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
        """Rank and merged id of the pair that begins at each position: int64 [places]."""
        after = tf.minimum(places + 1, tf.size(ids) - 1)
        left = tf.cast(tf.gather(ids, places), tf.int64)
        right = tf.cast(tf.gather(ids, after), tf.int64)
        pair = tf.bitwise.bitwise_or(tf.bitwise.left_shift(left, 32), right)
        together = (tf.gather(word, places) == tf.gather(word, after)) & (places != after)
        return tf.where(together, self._rules.lookup(pair), _NEVER)

    def _learn(self, words: Sequence[str]) -> None:
        """Compute the tokens of words once, and create the read-only table that finds them."""
        keys = [word.encode("utf-8") for word in words]
        # Not compiled: a trace takes longer than the few operations of each round.
        tokens, lengths = self._merge(tf.constant(keys, tf.string, [len(keys)]))
        self._known_tokens = tokens.numpy()
        self._known_starts = np.concatenate([[0], np.cumsum(lengths.numpy())]).astype(np.int32)
        places = tf.range(len(keys)) if keys else tf.constant([-1])
        names = tf.constant(keys if keys else [b""], tf.string)
        self._known = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(names, places), -1)


def _readable(text: tf.Tensor) -> tf.Tensor:
    """Valid UTF-8: string of any shape, with invalid bytes replaced by U+FFFD."""
    return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")


def train_byte_pair(
    texts: Iterable[str], vocabulary_size: int, special_tokens: Sequence[str], folder: Path
) -> BytePair:
    """Learn a vocabulary from a corpus with the library `tokenizers`, and write it to a folder.

    Equal texts give equal merges. Special tokens are numbered from 0. Frequent words become known words.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    corpus = list(texts)
    check_vocabulary_size(vocabulary_size, special_tokens)
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=2,
        special_tokens=list(dict.fromkeys(special_tokens)),
        initial_alphabet=sorted(printable_bytes()),
        show_progress=False,
    )
    learner.train_from_iterator(corpus, trainer)
    model = json.loads(learner.to_str())["model"]
    merges = [merge_pair(rule) for rule in model["merges"]]
    tokenizer = BytePair(model["vocab"], merges).with_known_words(corpus)
    tokenizer.save(folder)
    return tokenizer


@functools.cache
def character_classes() -> np.ndarray:
    """Letter, number, space or other, for each code point below `_TABLE_SIZE`: int8 [_TABLE_SIZE].

    As the reference tokenizer sees them: Python's tables are those of another version of Unicode.
    """
    from tokenizers import Regex, pre_tokenizers

    classes = np.zeros(_TABLE_SIZE, np.int8)
    codes = np.array([*range(0xD800), *range(0xE000, _TABLE_SIZE)], "<u4")  # all but surrogates
    for kind, pattern in ((LETTER, r"\p{L}+"), (NUMBER, r"\p{N}+"), (SPACE, r"\s+")):
        matches = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
        for part in np.array_split(codes, 50):  # a long text takes several times as long
            for _, (begin, end) in matches.pre_tokenize_str(part.tobytes().decode("utf-32-le")):
                classes[part[begin:end]] = kind
    return classes


def split_words(text: tf.Tensor, split_digits: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
    """GPT-2's way to split texts, valid UTF-8, into the words within which byte pairs are merged.

    The pattern is `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+`, in
    Radford et al. 2019. TensorFlow's regular expressions have no lookahead, so this is arithmetic over code
    points. With `split_digits` every number is a separate word, and the text between two of them is split as
    if it were a complete text.

    Returns the words, string [W], and the text that each belongs to, int64 [W]. Joined, they give the text
    again.
    """
    codes = tf.strings.unicode_decode(text, "UTF-8")
    flat, owner = codes.flat_values, codes.value_rowids()
    stretch = owner
    if split_digits:  # each number is a stretch of its own, and so is what lies between two of them
        number = _kinds(flat) == NUMBER
        cuts = (owner[1:] != owner[:-1]) | number[1:] | number[:-1]
        stretch = tf.concat([tf.zeros_like(owner[:1]), tf.cumsum(tf.cast(cuts, owner.dtype))], 0)
    begins = _begins(flat, stretch)
    words = tf.RaggedTensor.from_value_rowids(  # type: ignore[attr-defined]
        flat, tf.cumsum(tf.cast(begins, tf.int64)) - 1, nrows=tf.math.count_nonzero(begins), validate=False
    )
    return tf.strings.unicode_encode(words, "UTF-8"), tf.boolean_mask(owner, begins)


def _kinds(codes: tf.Tensor) -> tf.Tensor:
    classes = tf.gather(character_classes(), tf.minimum(codes, _TABLE_SIZE - 1))
    return tf.where(codes < _TABLE_SIZE, tf.cast(classes, tf.int32), OTHER)


def _begins(codes: tf.Tensor, owner: tf.Tensor) -> tf.Tensor:
    """Whether a word begins at each code point: bool [M]."""
    kind = _kinds(codes)
    same_before = tf.concat([[False], owner[1:] == owner[:-1]], 0)
    same_after = tf.concat([same_before[1:], [False]], 0)[: tf.size(codes)]
    kind_before = tf.where(same_before, _shift(kind, 1), _NOTHING)
    kind_after = tf.where(same_after, _shift(kind, -1), _NOTHING)
    code_before = tf.where(same_before, _shift(codes, 1), _NOTHING)

    # The last space before something else joins what follows or stands alone: the lookahead.
    last_of_spaces = same_after & (kind_after != SPACE)
    space_begins = (kind_before != SPACE) | last_of_spaces
    other_begins = (kind_before != kind) & (code_before != ord(" "))
    begins = tf.where(kind == SPACE, space_begins, other_begins)
    # 's, 't, 'm, 'd, 're, 've and 'll are separate words, if the apostrophe begins a word.
    first, second = _following(codes, owner, 1), _following(codes, owner, 2)
    apostrophe = begins & (codes == ord("'"))
    short = apostrophe & _is_one_of(first, "stmd")
    long = apostrophe & (
        _is_one_of(first, "rv") & _is_one_of(second, "e") | _is_one_of(first, "l") & _is_one_of(second, "l")
    )
    inside = _shift(short | long, 1, False)
    ended = _shift(short, 2, False) | _shift(long, 3, False)
    return (begins & tf.logical_not(inside)) | ended


def _following(codes: tf.Tensor, owner: tf.Tensor, distance: int) -> tf.Tensor:
    """The code point that many positions later in the same text, or -1."""
    return tf.where(_shift(owner, -distance) == owner, _shift(codes, -distance), _NOTHING)


def _is_one_of(codes: tf.Tensor, letters: str) -> tf.Tensor:
    return functools.reduce(tf.logical_or, [codes == ord(letter) for letter in letters])


def _shift(values: tf.Tensor, by: int, filling: int | bool = _NOTHING) -> tf.Tensor:
    """Values shifted to the right (or left, if negative), with something in the gap."""
    gap = tf.fill([abs(by)], tf.cast(filling, values.dtype))
    joined = tf.concat([gap, values] if by > 0 else [values, gap], 0)
    return joined[: tf.size(values)] if by > 0 else joined[-by:]
