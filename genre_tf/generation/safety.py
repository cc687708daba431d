"""Whether a text may be shown: words, patterns and personal data, and a trained classifier."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from genre_tf.data.prepared import file_fingerprint
from genre_tf.errors import InputError
from genre_tf.files import whole_file
from genre_tf.generation.grounding import folded, folded_word
from genre_tf.text.words import SPACELESS


def _entries(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a list with their numbers: words or phrases, and `re:` with a regular expression."""
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if line and not line.startswith("#"):
            yield number, line


def _own(name: str) -> list[str]:
    return [line for _, line in _entries(Path(__file__).with_name(name).read_text("utf-8"))]


PERSONAL_DATA = tuple(line.removeprefix("re:") for line in _own("personal_data.txt"))
_DEFAULT = _own("safety_list.txt")
# What may be next to a word: in a script without spaces, also letters of that script.
_BESIDE = r"(?:[^\p{L}\p{N}]|[\p{Han}\p{Hiragana}\p{Katakana}])"
_SPACELESS = re.compile(f"[{SPACELESS}]")
_SPECIAL = re.compile(r"([^\w\s])")
_WORDS_AT_ONCE = 500  # RE2 rejects expressions that exceed its memory


@dataclass(frozen=True, kw_only=True)
class SafetyList:
    """What makes a text unsafe.

    Texts are checked as `folded`: zero-width characters, full-width letters and repeated spaces hide nothing.
    RE2 takes time proportional to the text, whatever the expression.
    """

    # Whole words and phrases, in any case; a Chinese or Japanese character at the beginning or end may be
    # next to any letter, because these scripts have no spaces between words.
    words: tuple[str, ...] = tuple(line for line in _DEFAULT if not line.startswith("re:"))
    # Of RE2, found anywhere in the text.
    patterns: tuple[str, ...] = (
        *(line.removeprefix("re:") for line in _DEFAULT if line.startswith("re:")),
        *PERSONAL_DATA,
    )

    def is_safe(self, texts: Any) -> Any:
        """Whether neither a word nor a pattern is found, in the graph: string [...], UTF-8 -> bool [...]."""
        texts = folded(texts)
        unsafe: Any = tf.zeros(tf.shape(texts), tf.bool)
        for pattern in self._expressions():
            unsafe |= tf.strings.regex_full_match(texts, _anywhere(pattern))
        return ~unsafe

    def _expressions(self) -> list[str]:
        alike: dict[tuple[str, str], list[str]] = {}  # by what must stand before and after
        for word in filter(None, map(folded_word, self.words)):
            before = "" if _SPACELESS.match(word[0]) else f"(?:^|{_BESIDE})"
            behind = "" if _SPACELESS.match(word[-1]) else f"(?:$|{_BESIDE})"
            alike.setdefault((before, behind), []).append(_SPECIAL.sub(r"\\\1", word).replace(" ", r"\s+"))
        words = [
            f"(?i){before}(?:{'|'.join(escaped[at : at + _WORDS_AT_ONCE])}){behind}"
            for (before, behind), escaped in alike.items()
            for at in range(0, len(escaped), _WORDS_AT_ONCE)
        ]
        return words + list(self.patterns)


def _anywhere(pattern: str) -> str:
    return f"(?s).*(?:{pattern}).*"


def read_safety_list(file: Path) -> SafetyList:
    """Read an operator's list; it replaces the default words and patterns, and personal data stay unsafe.

    Each line of the UTF-8 file is a word or phrase, or `re:` and a regular expression in RE2's syntax; `#`
    begins a comment line.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the safety list {file} cannot be read: {error}") from None
    words, patterns = [], list(PERSONAL_DATA)
    for number, line in _entries(text):
        if line.startswith("re:"):
            patterns.append(_checked(line[3:].strip(), f"{file}, line {number}"))
        else:
            words.append(line)
    return SafetyList(words=tuple(words), patterns=tuple(patterns))


def _checked(pattern: str, where: str) -> str:
    if not pattern:
        raise InputError(f"{where}: no expression after re:, so no text would be safe; remove the line")
    try:
        tf.strings.regex_full_match("", pattern)  # alone first: a)|(b would be valid inside brackets
        in_all = tf.strings.regex_full_match("", _anywhere(pattern))
    except tf.errors.InvalidArgumentError as error:
        raise InputError(f"{where}: {pattern!r} is not a valid RE2 expression: {error.message}") from None
    if in_all:
        raise InputError(
            f"{where}: {pattern!r} matches even an empty text, so no text would be safe; require at "
            "least one character"
        )
    return pattern


@dataclass(frozen=True, kw_only=True)
class SafetyClassifier:
    """Logistic regression on the click model's vectors of texts.

    A server has these vectors already, so checking a text costs one dot product. They cover only the
    beginning of a long text (`news.max_title_tokens`); lists and patterns cover all of it.
    """

    weights: tuple[float, ...]  # [D], one per vector element
    bias: float
    threshold: float  # logits from here on are unsafe
    ranker: str  # SHA-256 of the weights file of the ranker that makes these vectors

    def logits(self, vectors: Any) -> Any:
        """float32 [..., D] -> float32 [...]; their sigmoid is the probability of being unsafe."""
        return tf.linalg.matvec(vectors, tf.constant(self.weights, tf.float32)) + self.bias

    def is_unsafe(self, vectors: Any) -> Any:
        """float32 [..., D] -> bool [...]; a text without words (a zero vector) is not unsafe."""
        return (self.logits(vectors) >= self.threshold) & tf.reduce_any(vectors != 0, axis=-1)


def classifier_file(run: Path) -> Path:
    """Where a run keeps its classifier, if it has one."""
    return run / "safety" / "classifier.json"


def save_classifier(classifier: SafetyClassifier, run: Path) -> Path:
    """Write a run's classifier, completely or not at all."""
    file = classifier_file(run)
    with whole_file(file) as part:
        part.write_text(json.dumps(asdict(classifier)) + "\n", "utf-8")
    return file


def load_classifier(run: Path, weights: Path) -> SafetyClassifier | None:
    """Read a run's classifier; None if none was trained."""
    file = classifier_file(run)
    if not file.exists():
        return None
    remedy = f"run `genre train safety --run {run}` again, or delete the file"
    try:
        found = json.loads(file.read_text("utf-8"))
        classifier = SafetyClassifier(**{**found, "weights": tuple(map(float, found["weights"]))})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{file} cannot be read ({error}); {remedy}") from None
    if classifier.ranker != file_fingerprint(weights):
        raise InputError(f"{file} was trained with another ranker than {run} has now; {remedy}")
    return classifier
