"""Whether a text may be shown: words, patterns and personal data, and a trained classifier."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from genre_tf.data.manifest import file_fingerprint
from genre_tf.errors import InputError
from genre_tf.files import whole_file
from genre_tf.generation.folding import folded, folded_word
from genre_tf.text.words import SPACELESS

_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_LETTERS = r"[\p{L}\p{N}]"
PERSONAL_DATA = (
    rf"[\p{{L}}\p{{N}}_.+-]+@{_LETTERS}(?:[\p{{L}}\p{{N}}-]*\.)+\p{{L}}{{2,}}",  # e-mail
    # Telephone, international: 10 to 15 digits (ITU-T E.164). Shorter ones are more often amounts: +10 000
    # 000.
    r"\+[1-9](?:[ ().-]{0,2}\d){9,14}\b",
    r"(?:\([2-9]\d{2}\) ?|\b[2-9]\d{2}[ .-])\d{3}[ .-]\d{4}\b",  # telephone, North American
    # Street address, followed by what usually follows one: "3 Wall Street Stocks" is not an address. Public
    # buildings match too: rejecting a title costs less than showing a home address.
    r"(?:^|[^-\w#.])(?:\d{1,5}-)?\d{1,5} (?:(?:[A-Z]\w+\.?|[NSEW]\.?|[NS][EW]|\d{1,3}(?:st|nd|rd|th)) ){1,3}"
    r"(?:(?:Street|Avenue|Ave|Road|Boulevard|Blvd|Lane|Drive|Court)\.?"
    r"(?:$|[,;)\n]|\. | (?:in|near|on|at|Apt|Suite|Unit|#))|(?:St|Rd|Dr|Ln|Ct)\.?,)",
    r"\b\d{3}-\d{2}-\d{4}\b",  # social security number
    # Chinese ones, with or without spaces around them: mobile telephone, identity card, house number.
    r"(?:^|[^\d.,])1[3-9]\d[ -]?\d{4}[ -]?\d{4}(?:$|[^\d.,]|[.,]\D|[.,]$)",
    r"\b[1-9]\d{5}(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx]\b",
    r"\p{Han}(?:路|街|道|巷|弄) ?\d{1,5} ?[号號]",
    # Payment card by its issuer's digits: Visa, Mastercard, Discover; American Express.
    r"\b(?:4\d{3}|5[1-5]\d{2}|2[2-7]\d{2}|6(?:011|5\d{2}))(?:[ -]?\d{4}){3}\b",
    r"\b3[47]\d{2}[ -]?\d{6}[ -]?\d{5}\b",
    rf"(?:^|[^\d.])(?:{_OCTET}\.){{3}}{_OCTET}(?:$|[^\d.]|\.(?:$|\D))",  # IP address, version 4
    r"\b(?:[0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}\b",  # version 6, not abbreviated
)
_WORDS = """
bastard bitch blowjob bullshit cunt dickhead faggot fuck fucked fucker fucking motherfucker nigger porn
retard shit slut whore asshole
傻逼 煞笔 操你妈 操你媽 婊子 贱货 賤貨 王八蛋 鸡巴 雞巴 肏
"""
DEFAULT_WORDS = tuple(_WORDS.split())
DEFAULT_PATTERNS = (
    r"(?i)\bkill (yourself|himself|herself|themselves)\b",
    r"(?i)\bhow to (make|build) a bomb\b",
)
# What may be next to a word: in a script without spaces, also letters of that script.
_BESIDE = r"(?:[^\p{L}\p{N}]|[\p{Han}\p{Hiragana}\p{Katakana}])"
_SPACELESS = re.compile(f"[{SPACELESS}]")
_SPECIAL = re.compile(r"([^\w\s])")
_WORDS_AT_ONCE = 500  # RE2 rejects expressions that exceed its memory


@dataclass(frozen=True, kw_only=True)
class SafetyList:
    """What makes a text unsafe.

    Texts are checked in the form of `folding.folded`: zero-width characters, full-width letters and repeated
    spaces hide nothing. RE2 takes time proportional to the text, whatever the expression.

    Args:
        words: whole words and phrases, in any case; a Chinese or Japanese character at the beginning or end
            may be next to any letter, because these scripts have no spaces between words.
        patterns: regular expressions in RE2's syntax, found anywhere in the text.
    """

    words: tuple[str, ...] = DEFAULT_WORDS
    patterns: tuple[str, ...] = (*DEFAULT_PATTERNS, *PERSONAL_DATA)

    def is_safe(self, texts: Any) -> Any:
        """Check texts, in the graph.

        Args:
            texts: string [...], UTF-8.

        Returns:
            bool [...], true if neither a word nor a pattern is found.
        """
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
    """Read an operator's list.

    Args:
        file: UTF-8; each line is a word or phrase, or `re:` and a regular expression in RE2's syntax; `#`
            begins a comment line. It replaces the default words and patterns; personal data stay unsafe.

    Raises:
        InputError: the file cannot be read, or an expression is empty, invalid, or found in every text.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the safety list {file} cannot be read: {error}") from None
    words, patterns = [], list(PERSONAL_DATA)
    for number, line in enumerate(map(str.strip, lines), start=1):
        if line.startswith("re:"):
            patterns.append(_checked(line[3:].strip(), f"{file}, line {number}"))
        elif line and not line.startswith("#"):
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

    Args:
        weights: float32 [D], one weight per vector element.
        bias: bias of the logit.
        threshold: logits from here on are unsafe.
        ranker: SHA-256 of the weights file of the ranker that makes these vectors.
    """

    weights: tuple[float, ...]
    bias: float
    threshold: float
    ranker: str

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
    """Write a run's classifier, completely or not at all.

    Raises:
        FailureError: it cannot be written.
    """
    file = classifier_file(run)
    with whole_file(file) as part:
        part.write_text(json.dumps(asdict(classifier)) + "\n", "utf-8")
    return file


def load_classifier(run: Path, weights: Path) -> SafetyClassifier | None:
    """Read a run's classifier.

    Args:
        run: the run folder.
        weights: the weights file of its ranker.

    Returns:
        None if no classifier was trained.

    Raises:
        InputError: it is damaged, or belongs to a ranker other than the run's current one.
    """
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
