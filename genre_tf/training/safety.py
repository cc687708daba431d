"""`genre train safety`: a linear classifier from labelled texts, on a trained ranker's title vectors."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from genre_tf.data.learning_texts import read_labelled_texts
from genre_tf.data.lines import FaultPolicy
from genre_tf.data.prepared import file_fingerprint
from genre_tf.errors import InputError
from genre_tf.generation.safety import SafetyClassifier, save_classifier
from genre_tf.metrics.ranking import ranking_metrics
from genre_tf.models.checkpoint import WEIGHTS_FILE, load_ranker
from genre_tf.training.progress import Report
from genre_tf.training.regression import logistic_regression

LEAST_OF_EACH = 25  # then five of each label choose the threshold, and five measure it
_SHARES = (0.6, 0.8)  # end of the texts to learn from, end of those for the threshold; the rest measures


def train_safety(
    file: Path, run: Path, *, recall: float, seed: int, max_bad_rows: int = 0, report: Report = print
) -> dict[str, Any]:
    """Train a classifier of unsafe texts on labelled ones, and write it to `RUN/safety`.

    Three fifths of the texts of each label are used for training, and one fifth to choose the threshold. The
    returned values are measured on the last fifth. Weights are exact (Newton's method, with a ridge).

    The texts in the file are labelled as `read_labelled_texts` describes. `recall`, above 0 and at most 1, is
    the share of unsafe texts to catch among those that choose the threshold.

    Returns:
        "auc", "precision", "recall" and "flagged" (share of all texts called unsafe) as fractions;
        "threshold" as a probability; "asked_recall"; and the numbers of texts "learned", "unsafe_learned",
        "measured" and "unsafe_measured". Also written to `RUN/reports/training-safety.json`.
    """
    if not 0 < recall <= 1:
        raise InputError(f"the recall must be above 0 and at most 1; got {recall}")
    examples = read_labelled_texts(file, FaultPolicy.allowing(max_bad_rows))
    unsafe = int(examples.unsafe.sum())
    for label, count in (("unsafe", unsafe), ("safe", len(examples.texts) - unsafe)):
        if count < LEAST_OF_EACH:
            raise InputError(
                f"{file} holds {count} different {label} texts; give at least {LEAST_OF_EACH} of each label"
            )
    weights_file = run / "ranking" / WEIGHTS_FILE
    encoder = load_ranker(run).news
    report(f"{len(examples.texts)} texts, {unsafe} of them unsafe")
    vectors = encoder.encode(examples.texts)
    learn, choose, judge = _divided(examples.unsafe, seed)
    mean, spread = vectors[learn].mean(0, dtype=np.float64), vectors[learn].std(0, dtype=np.float64)
    spread[spread < 1e-6] = 1.0  # texts have no category: those dimensions are always zero
    standardised = (vectors[learn] - mean) / spread
    weights, bias = logistic_regression(standardised, examples.unsafe[learn].astype(np.float64))
    weights, bias = weights / spread, bias - float(mean @ (weights / spread))  # for the raw vectors
    logits = vectors.astype(np.float64) @ weights + bias
    threshold = threshold_for(logits[choose][examples.unsafe[choose]], recall)
    classifier = SafetyClassifier(
        weights=tuple(weights.tolist()), bias=bias, threshold=threshold, ranker=file_fingerprint(weights_file)
    )
    file = save_classifier(classifier, run)
    found = {
        **judged(logits[judge], examples.unsafe[judge], threshold),
        "threshold": 1 / (1 + math.exp(-threshold)),
        "asked_recall": recall,
        "learned": len(learn),
        "unsafe_learned": int(examples.unsafe[learn].sum()),
    }
    reports = run / "reports" / "training-safety.json"
    reports.parent.mkdir(exist_ok=True)
    reports.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    report(f"written to {file}")
    return found


def threshold_for(unsafe_logits: npt.NDArray[np.floating], recall: float) -> float:
    """The highest threshold that catches this share of unsafe texts: their logits, float [n] -> a logit."""
    needed = math.ceil(recall * len(unsafe_logits) - 1e-9)
    # Slightly lower, because a server adds in float32.
    return float(np.sort(unsafe_logits)[len(unsafe_logits) - needed] - 1e-4)


def judged(
    logits: npt.NDArray[np.floating], unsafe: npt.NDArray[np.bool_], threshold: float
) -> dict[str, float | int | None]:
    """How well a threshold (a logit) separates the texts; precision is None if none is called unsafe."""
    called = logits >= threshold
    hits = int((called & unsafe).sum())
    return {
        "auc": float(ranking_metrics([logits], [unsafe])["auc"][0]),
        "precision": hits / int(called.sum()) if called.any() else None,
        "recall": hits / int(unsafe.sum()),
        "flagged": float(called.mean()),
        "measured": len(unsafe),
        "unsafe_measured": int(unsafe.sum()),
    }


def _divided(unsafe: npt.NDArray[np.bool_], seed: int) -> list[npt.NDArray[np.int64]]:
    """Rows to learn from, to choose the threshold and to measure, each with its share of both labels."""
    random = np.random.default_rng(seed)
    parts: list[list[npt.NDArray[np.int64]]] = [[], [], []]
    for label in (False, True):
        rows = random.permutation(np.flatnonzero(unsafe == label))
        cuts = [round(share * len(rows)) for share in _SHARES]
        for part, some in zip(parts, np.split(rows, cuts), strict=True):
            part.append(some)
    return [np.concatenate(part) for part in parts]
