"""A learned safety classifier: one linear function of the ranker's title vectors."""

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
    return run / FOLDER / _FILE


def save_classifier(classifier: SafetyClassifier, run: Path) -> Path:
    """Write a run's classifier, completely or not at all.

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
            f"{file} cannot be written ({error.strerror}); check the permissions and the disk, then try again"
        ) from None
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
