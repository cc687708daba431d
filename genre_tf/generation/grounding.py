"""How much of a text is supported by its source: names, numbers and quotes, in the graph.

Texts are compared without invisible characters, with each character in one form (`folded`).
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

FUNCTION_WORDS = tuple(Path(__file__).with_name("function_words.txt").read_text("utf-8").split())
_WORD = re.compile(r"[^\W\d_]+")
# Numbers to twenty; "one" is not a claim, because it is also a pronoun.
_NUMBER_WORDS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty
"""
_COUNTING = tuple(_NUMBER_WORDS.split())
_DIGITS = {word: str(value) for value, word in enumerate(_COUNTING)}
_DIGITS |= {"first": "1st", "second": "2nd", "third": "3rd", "fourth": "4th", "fifth": "5th", "sixth": "6th"}
_DIGITS |= {"seventh": "7th", "eighth": "8th", "ninth": "9th", "tenth": "10th"}
_NOT = r"(?i)\b(?:ai|are|ca|could|did|do|does|had|has|have|is|should|was|were|wo|would)n['’]t\b"
_NAME = r"\p{Lu}[\p{L}\p{M}\p{N}]+|\p{L}+\p{Lu}.*"


_WIDE = range(0xFF01, 0xFF5F)  # full-width forms of the printable ASCII characters
_TO_ASCII = 0xFEE0
_INVISIBLE = r"\p{Cf}+"  # zero-width spaces and joiners, soft hyphens, direction marks
_SPACES = r"[\p{Zs}\t]+"


def folded(texts: Any) -> Any:
    """Undo, in the graph, what hides a word or a number from a regular expression: string [...] -> [...].

    No invisible characters; full-width letters, digits and signs as ASCII; each run of spaces, no-break
    spaces and tabs as a single space; invalid bytes as U+FFFD. Line breaks and case do not change.
    """
    codes = tf.strings.unicode_decode(tf.reshape(texts, [-1]), "UTF-8")  # ragged [texts, characters]
    wide = (codes.values >= _WIDE.start) & (codes.values < _WIDE.stop)
    codes = codes.with_values(tf.where(wide, codes.values - _TO_ASCII, codes.values))
    text = tf.strings.regex_replace(tf.strings.unicode_encode(codes, "UTF-8"), _INVISIBLE, "")
    return tf.reshape(tf.strings.regex_replace(text, _SPACES, " "), tf.shape(texts))


def folded_word(word: str) -> str:
    """A word of an operator's list, folded like the texts."""
    seen = (character for character in word if unicodedata.category(character) != "Cf")
    narrow = (chr(ord(one) - _TO_ASCII) if ord(one) in _WIDE else one for one in seen)
    return " ".join("".join(narrow).split())


def common_words(texts: Iterable[str], least: int = 2) -> list[str]:
    """Words that a corpus writes in lower case: they are not names, even if a headline capitalises them.

    In running text (abstracts, not headlines) they occur at least `least` times in lower case, and at least
    as often as capitalised. FUNCTION_WORDS are always among them.
    """
    small: Counter[str] = Counter()
    capital: Counter[str] = Counter()
    for text in texts:
        for word in _WORD.findall(text):
            (small if word == word.lower() else capital)[word.lower()] += 1
    common = {word for word, count in small.items() if count >= least and count >= capital[word]}
    return sorted(common.union(FUNCTION_WORDS))


def common_words_of(titles: Iterable[str], abstracts: Iterable[str]) -> list[str]:
    """The common words of articles: from their abstracts, or from their titles if no article has an abstract.

    Without either, any word that a headline capitalises would count as a name.
    """
    written = [text for text in abstracts if text]
    return common_words(written or titles)


class Grounding(tf.Module):
    """Share of a text's claims that are supported by the evidence.

    A claim is a name (a capitalised word that is not a common word), a number, or two neighbouring words of a
    quote (or the only word of a quote). It is supported if the evidence contains the same, in any case. The
    comparison ignores thousands separators, currency signs, possessives, the points of U.S., the kind of
    quotation marks, and whether a number up to twenty is written as a word. Scripts without capitals have no
    names here; if they have no spaces, quotes are compared by characters. An unclosed quote does not count,
    and a text without claims is fully grounded.
    """

    def __init__(self, common: Sequence[str] = FUNCTION_WORDS) -> None:
        super().__init__()
        self.common = _table(dict.fromkeys(common, "common"))
        self.digits = _table(_DIGITS)
        self.counting = _table({word: "number" for word in _COUNTING if word != "one"})

    def __call__(self, texts: Any, evidence: Any) -> Any:
        """Texts string [batch, n] and evidence string [batch] -> shares float32 [batch, n] from 0 to 1."""
        _, claimed, stands = self._claims(texts, evidence)
        total, supported = (
            tf.reduce_sum(tf.cast(flags, tf.float32), axis=-1) for flags in (claimed, claimed & stands)
        )
        return tf.reshape(tf.where(total > 0, supported / tf.maximum(total, 1.0), 1.0), tf.shape(texts))

    def unsupported(self, texts: Any, evidence: Any) -> Any:
        """The claims that the evidence does not support, joined by line breaks: string [batch, n]."""
        claims, claimed, stands = self._claims(texts, evidence)
        lines = tf.strings.reduce_join(tf.where(claimed & ~stands, claims, ""), axis=-1, separator="\n")
        return tf.reshape(tf.strings.strip(tf.strings.regex_replace(lines, "\n+", "\n")), tf.shape(texts))

    def _claims(self, texts: Any, evidence: Any) -> tuple[Any, Any, Any]:
        """Words and quotes of all texts: which are claims, and which are supported: [batch * n, claims]."""
        flat = tf.reshape(texts, [-1])  # [batch * n]
        words, quotes = _words(flat).to_tensor(), _quoted(flat).to_tensor()
        known = _words(evidence)
        known = tf.concat([known, _pairs(known)], axis=1)
        lower = _lower(words)
        named = tf.strings.regex_full_match(words, _NAME) & (self.common.lookup(lower) == "")
        number = tf.strings.regex_full_match(words, r".*\p{N}.*") | (self.counting.lookup(lower) != "")
        claims = tf.concat([words, quotes], axis=1)
        ours = tf.reshape(self._fingerprint(claims), [known.nrows(), -1, 1])  # [batch, n * claims, 1]
        theirs = self._fingerprint(known.to_tensor())[:, None, :]  # [batch, 1, known]
        stands = tf.reshape(tf.reduce_any(ours == theirs, axis=-1), tf.shape(claims))
        return claims, tf.concat([named | number, quotes != ""], axis=1), stands

    def _fingerprint(self, words: Any) -> Any:
        lower = _lower(words)
        digits = self.digits.lookup(lower)
        # Numbers compare faster than strings.
        return tf.strings.to_hash_bucket_fast(tf.where(digits == "", lower, digits), 2**62)


def _table(pairs: Mapping[str, str]) -> Any:
    keys = tf.constant(sorted(pairs), tf.string)
    values = tf.constant([pairs[key] for key in sorted(pairs)], tf.string)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), default_value="")


def _words(text: Any) -> Any:
    """Words and numbers with their case: string [n] -> ragged [n, words]."""
    text = _replaced(
        text,
        ("ʼ", "'"),
        (r"(\d)[,'’\x{a0}\x{2009}\x{202f}](\d)", r"\1\2"),  # before `folded` replaces them by plain spaces
    )
    text = _replaced(
        folded(text),
        (_NOT, "not"),
        (r"['’](?:[sS]|[rv]e|ll|[dm])\b", ""),
        (r"\b([A-Z])\.([A-Z])\b(?:\.([A-Z])\b)?(?:\.([A-Z])\b)?\.?", r"\1\2\3\4"),  # U.S., U.S.A.
        (r"\bUS\b", "USA"),  # otherwise it is the pronoun
        (r"([\p{Han}\p{Hiragana}\p{Katakana}])", r" \1 "),  # written without spaces
        (r"(\p{N})(\p{Hangul})", r"\1 \2"),
        (r"(\p{L})\.(\p{N})", r"\1 \2"),  # No.1
        (r"[^\p{L}\p{M}\p{N}.]+", " "),
        (r"\.($|[^0-9])", r" \1"),  # points only stay inside numbers
    )
    return tf.strings.split(text)


def _replaced(text: Any, *rules: tuple[str, str]) -> Any:
    for pattern, rewrite in rules:
        text = tf.strings.regex_replace(text, pattern, rewrite)
    return text


def _lower(words: Any) -> Any:
    return tf.strings.lower(words, encoding="utf-8")


def _pairs(words: Any) -> Any:
    """Neighbouring words: ragged [n, words] -> ragged [n, words - 1]."""
    first, second = words[:, :-1].flat_values, words[:, 1:].flat_values
    return words[:, 1:].with_flat_values(tf.strings.join([first, second], separator=" "))


def _quoted(text: Any) -> Any:
    """Neighbouring words in quotes, and a quote's only word: string [n] -> ragged [n, claims]."""
    text = _replaced(
        text,
        ("[“”„‟«»‹›「」『』《》〈〉＂]", '"'),
        (r"(\p{L})['’](\p{L})", r"\1ʼ\2"),  # such as don't, inside single quotes
        (r"(^|[\s([:—–-])['‘‚]([^'‘’]+)['’]($|[\s)\].,;:!?—–-])", r'\1"\2"\3'),
    )
    parts = tf.strings.split(text, '"')  # ragged [n, parts]: every second one is a quote if one more follows
    place = tf.ragged.range(parts.row_lengths())
    last = tf.repeat(parts.row_lengths() - 1, parts.row_lengths())
    closed = (place.flat_values % 2 == 1) & (place.flat_values < last)
    quotes = tf.ragged.boolean_mask(parts, parts.with_flat_values(closed))
    words = _words(quotes.flat_values)  # ragged [all quotes, words]
    lengths = words.row_lengths()
    alone = words.with_flat_values(tf.repeat(lengths == 1, lengths))
    claims = tf.concat([_pairs(words), tf.ragged.boolean_mask(words, alone)], axis=1)
    text_of_claim = tf.gather(quotes.value_rowids(), claims.value_rowids())
    ragged: Any = tf.RaggedTensor
    return ragged.from_value_rowids(claims.flat_values, text_of_claim, quotes.nrows())
