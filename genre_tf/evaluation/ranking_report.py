"""The parts of an evaluation that use the scores of a log: ranking, click probabilities, retrieval."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from genre_tf.data.columns import ImpressionExample
from genre_tf.evaluation.click_model import click_quality
from genre_tf.evaluation.fairness import by_activity, by_category
from genre_tf.evaluation.ranking import ranking_metrics
from genre_tf.evaluation.reasons import recommended_samples
from genre_tf.evaluation.report import Slices, compared, intervals, sliced
from genre_tf.evaluation.retrieval_metrics import click_ranks, recall
from genre_tf.evaluation.scored_log import ScoredLog
from genre_tf.evaluation.scoring import RankerScorer, Scorer, Scores, TwoTowerScorer

CUTOFFS = (10, 50, 100, 200, 500)


def ranking_report(
    scores: Mapping[str, Mapping[str, Scores]],
    clicked: Sequence[npt.NDArray[np.bool_]],
    slices: Slices,
    log: ScoredLog,
) -> dict[str, Any]:
    """Ranking metrics of all scorers.

    Returns:
        models and baselines (scorer > slice > metric), before (the models before training), significance,
        intervals (scorer > slice > ends of the AUC's 95% interval), activity (`by_activity`).
    """
    measured = {
        kind: {name: ranking_metrics(scores_of, clicked) for name, scores_of in group.items()}
        for kind, group in scores.items()
    }
    return {
        "models": sliced(measured["models"], slices),
        "before": {"models": sliced(measured["before"], slices)},
        "baselines": sliced(measured["baselines"], slices),
        "significance": compared(measured["models"], measured["before"], measured["baselines"]),
        "intervals": intervals({**measured["baselines"], **measured["models"]}, slices),
        "activity": by_activity(
            [len(row.history) for row in log.split.impressions],
            {name: metrics["auc"] for name, metrics in measured["models"].items()},
        ),
    }


def click_report(
    scorers: Mapping[str, Scorer],
    scores: Mapping[str, Scores],
    log: ScoredLog,
    examples: Sequence[ImpressionExample],
    clicked: Sequence[npt.NDArray[np.bool_]],
) -> dict[str, Any]:
    """Categories under all models; click probabilities and reasons of the rankers.

    Returns:
        categories (`by_category`), click_model (ranker > `click_quality`), recommended
        (`recommended_samples`).
    """
    rankers = {name: scorer for name, scorer in scorers.items() if isinstance(scorer, RankerScorer)}
    best = list(rankers)[-1:]  # the ranker with counters, if there is one
    return {
        "categories": by_category(log.table, examples, clicked, scores),
        "click_model": {name: click_quality(scores[name], clicked) for name in rankers},
        "recommended": [
            sample
            for name in best
            for sample in recommended_samples(rankers[name], scores[name], examples, clicked, log.table)
        ],
    }


def retrieval_report(scorers: Mapping[str, Scorer], examples: Sequence[ImpressionExample]) -> dict[str, Any]:
    """Recall of the two towers in the pool of all articles that the split shows to anyone."""
    towers = scorers.get("two_tower")
    if not isinstance(towers, TwoTowerScorer):
        return {}
    shown = np.unique(np.concatenate([example.candidates for example in examples]))
    shown = shown[shown > 0]
    position = np.full(len(towers.vectors), -1)
    position[shown] = np.arange(len(shown))
    clicked = [position[example.candidates[example.labels > 0]] for example in examples]
    read = [position[example.history] for example in examples]
    ranks = click_ranks(
        towers.user_vectors(examples),
        towers.vectors[shown],
        [row[row >= 0] for row in clicked],
        [row[row >= 0] for row in read],
    )
    return {**recall(ranks, [cutoff for cutoff in CUTOFFS if cutoff < len(shown)]), "pool": len(shown)}
