"""Whether a text may be shown, learned from examples: one linear function of the ranker's title vectors."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from genre_tf.data.manifest import file_fingerprint
from genre_tf.errors import FailureError, InputError

FOLDER = "safety"
_FILE = "classifier.json"


@dataclass(frozen=True, kw_only=True)
class SafetyClassifier:
    """Logistic regression on the vectors that the click model makes of texts.

    A server has these vectors already, so judging a text costs one dot product. They know the beginning of a
    long text alone (`news.max_title_tokens`); lists and patterns read it whole.

    Args:
        weights: [D], of the vectors.
        bias: of the logit.
        threshold: a logit from here on is unsafe.
        ranker: SHA-256 of the weights file of the ranker whose vectors these are.
    """

    weights: tuple[float, ...]
    bias: float
    threshold: float
    ranker: str

    def logits(self, vectors: Any) -> Any:
        """float32 [..., D] -> float32 [...]; their sigmoid is the probability of being unsafe."""
        return tf.linalg.matvec(vectors, tf.constant(self.weights, tf.float32)) + self.bias

    def is_unsafe(self, vectors: Any) -> Any:
        """float32 [..., D] -> bool [...]; a text without words (a zero vector) is not."""
        return (self.logits(vectors) >= self.threshold) & tf.reduce_any(vectors != 0, axis=-1)


def classifier_file(run: Path) -> Path:
    """Where a run keeps its classifier, if one was trained."""
    return run / FOLDER / _FILE


def save_classifier(classifier: SafetyClassifier, run: Path) -> Path:
    """Write a run's classifier, whole or not at all.

    Raises:
        FailureError: it cannot be written.
    """
    file = classifier_file(run)
    part = file.with_name(f".{_FILE}.part")
    try:
        file.parent.mkdir(exist_ok=True)
        part.write_text(json.dumps(asdict(classifier)) + "\n", "utf-8")
        part.replace(file)
    except OSError as error:
        raise FailureError(
            f"{file} cannot be written ({error.strerror}): check rights and disk, then try again"
        ) from None
    return file


def load_classifier(run: Path, weights: Path) -> SafetyClassifier | None:
    """Read a run's classifier.

    Args:
        run: the run folder.
        weights: the weights file of its ranker.

    Returns:
        None where none was trained.

    Raises:
        InputError: it is damaged, or belongs to another ranker than the run has now.
    """
    file = classifier_file(run)
    if not file.exists():
        return None
    remedy = f"give `genre train safety --run {run}` again, or delete the file"
    try:
        found = json.loads(file.read_text("utf-8"))
        classifier = SafetyClassifier(**{**found, "weights": tuple(map(float, found["weights"]))})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{file} cannot be read ({error}): {remedy}") from None
    if classifier.ranker != file_fingerprint(weights):
        raise InputError(f"{file} was learned from another ranker than {run} has now: {remedy}")
    return classifier
