"""Recalibrate a ranker whose training moved its mean click probability away from the click rate."""

import numpy as np

from genre_tf.evaluation.scoring import RankerScorer
from genre_tf.models.ranker import Ranker
from genre_tf.training.ranker_start import logistic_regression
from genre_tf.training.stage_data import StageData

_MOST_CANDIDATES = 300_000  # one bias is stable long before that


def calibrate(ranker: Ranker, data: StageData) -> None:
    """Refit the biases of a ranker on its training log, so that mean probability and click rate are equal.

    A softmax loss does not train the bias, because it cancels out. The order of candidates does not change,
    nor does how far apart the probabilities of two readers lie.

    Args:
        ranker: the trained ranker.
        data: its training log.
    """
    shown = int(data.train.shown.sum())
    examples = data.train[:: 1 + shown // _MOST_CANDIDATES]
    labels = np.concatenate([example.labels for example in examples])
    vectors = ranker.news.embed(data.features)
    shifts = []
    for with_counters in (False, True):
        logits = np.concatenate(RankerScorer(ranker, vectors, with_counters)(examples))
        shifts.append(logistic_regression(np.zeros((len(labels), 0)), labels, offset=logits)[1])
    ranker.shift(*shifts)
