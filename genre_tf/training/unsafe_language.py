"""Train the default classifier of unsafe language; its weights come with the package.

Run it after a change of `generation/safety_classes.txt` or `training/unsafe_sentences.txt`:

    python -m genre_tf.training.unsafe_language [news.tsv ...]

With MIND-format news files it also prints the share of their titles that would be called unsafe. Titles are
only measured, never learned.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.generation.unsafe_language import BUCKETS, UnsafeLanguage, features, save_unsafe_language, scale

SENTENCES_FILE = Path(__file__).with_name("unsafe_sentences.txt")
_RIDGE = 10.0  # 5 to 40 found about as many of the left-out kinds of phrasing (measured on a prototype)
# Lower ones catch more and call more news unsafe: about 1 % of the titles of MIND, in both languages.
_THRESHOLD = 0.08
Floats = npt.NDArray[np.float64]


class Sentence(NamedTuple):
    """A sentence to learn."""

    unsafe: bool
    language: str
    kind: str  # subject and way of phrasing; cross-validation leaves out one at a time
    text: str


def read_sentences() -> list[Sentence]:
    """The sentences of the file: under `[label language kind]` one a line."""
    found, head = [], ("", "", "")
    for line in SENTENCES_FILE.read_text("utf-8").splitlines():
        if line.startswith("["):
            label, language, kind = line.strip("[]").split()
            head = (label, language, kind)
        elif line and not line.startswith("#"):
            found.append(Sentence(head[0] == "unsafe", head[1], head[2], line))
    return found


def train(sentences: list[Sentence]) -> tuple[UnsafeLanguage, Floats]:
    """The model, and the logit of each sentence by a model that has seen no sentence of its kind.

    Ridge regression on labels of -1 and 1, in its dual form, since there are more features than sentences.
    Source: Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning", 7.10 and 18.3.5.
    """
    design, harmful = _design([sentence.text for sentence in sentences])  # [n, BUCKETS], [n]
    labels = np.array([1.0 if sentence.unsafe else -1.0 for sentence in sentences])
    gram = design @ design.T + 1.0  # the constant is the bias
    inverse = np.linalg.inv(gram.astype(np.float64) + _RIDGE * np.eye(len(labels)))
    dual = inverse @ labels
    held_out = np.zeros(len(labels))
    kinds = np.array([f"{sentence.language} {sentence.kind}" for sentence in sentences])
    for kind in np.unique(kinds):
        rows = np.flatnonzero(kinds == kind)
        held_out[rows] = labels[rows] - np.linalg.solve(inverse[np.ix_(rows, rows)], dual[rows])
    held_out[~harmful] = -np.inf
    weights = (design.T @ dual.astype(np.float32)).astype(np.float32)
    return UnsafeLanguage(weights=weights, bias=float(dual.sum()), threshold=_THRESHOLD), held_out


def _design(texts: list[str]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """A row of features for each text, read as one sentence; and whether it has a harmful class."""
    found = features(tf.strings.regex_replace(tf.constant(texts), r"[.!?;。！？；]+", " "))
    rows = found.text.numpy()[found.sentence.numpy()]
    counts = np.bincount(rows, minlength=len(texts))
    design = np.zeros((len(texts), BUCKETS), np.float32)
    design[rows, found.bucket.numpy()] = scale(tf.constant(counts)).numpy()[rows]
    return design, found.harmful.numpy()


def caught(called: Any, sentences: list[Sentence]) -> dict[str, float]:
    """Share of the sentences called unsafe, for each language and label."""
    groups: dict[str, list[bool]] = {}
    for one, sentence in zip(called, sentences, strict=True):
        label = "unsafe" if sentence.unsafe else "news"
        groups.setdefault(f"{sentence.language} {label}", []).append(bool(one))
    return {name: float(np.mean(group)) for name, group in sorted(groups.items())}


def main(news_files: list[str]) -> None:
    """Train, measure and write."""
    sentences = read_sentences()
    model, held_out = train(sentences)
    print(f"{len(sentences)} sentences")
    print("called unsafe, kinds left out:", caught(held_out >= model.threshold, sentences))
    for file in news_files:
        lines = Path(file).read_text("utf-8").splitlines()
        titles = tf.constant([line.split("\t")[3] for line in lines])
        flagged = np.concatenate(
            [model.is_unsafe(titles[at : at + 1000]) for at in range(0, len(lines), 1000)]
        )
        print(f"{file}: {flagged.mean():.4f} of {len(lines)} titles")
    print(f"written to {save_unsafe_language(model)}")


if __name__ == "__main__":
    main(sys.argv[1:])
