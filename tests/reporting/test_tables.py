"""The report: slices, comparisons, TensorBoard scalars, and tables for people."""

from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from genre_tf.evaluation.evaluate import finite
from genre_tf.evaluation.significance import compared, sliced
from genre_tf.metrics.ranking import ranking_metrics
from genre_tf.reporting.board import scalars
from genre_tf.reporting.tables import print_report

GENERATOR = np.random.default_rng(0)
CLICKED = [np.arange(6) == 2 for _ in range(100)]
NOISE = [GENERATOR.normal(size=6) for _ in CLICKED]
GOOD, BETTER, POOR = (
    ranking_metrics([noise + strength * hits for noise, hits in zip(NOISE, CLICKED, strict=True)], CLICKED)
    for strength in (1.0, 2.0, 0.0)
)
SLICES = {"all": np.ones(100, bool), "no_history": np.zeros(100, bool)}


@pytest.fixture
def report() -> dict[str, object]:
    models, before, rivals = {"ranker": BETTER}, {"ranker": POOR}, {"random": POOR, "bm25": GOOD}
    return {
        "split": "dev",
        "impressions": 100,
        "slices": {"all": 100, "no_history": 0},
        "models": sliced(models, SLICES),
        "before": {"models": sliced(before, SLICES), "retrieval": {"recall@10": 0.1, "pool": 50}},
        "baselines": sliced(rivals, SLICES),
        "retrieval": {"recall@10": 0.5, "pool": 50},
        "significance": compared(models, before, rivals),
        "generation": {
            "perplexity": 123.4,
            "rouge1": 0.2,
            "headlines": 7,
            "clicked_titles": 9,
            "baselines": {"first_10_words": {"rouge1": 0.1}},
        },
    }


def test_every_slice_has_every_metric_and_an_empty_slice_has_none() -> None:
    parts = sliced({"ranker": BETTER}, SLICES)["ranker"]
    assert set(parts["all"]) == {"auc", "mrr", "ndcg@5", "ndcg@10"}
    assert 0.5 < (parts["all"]["auc"] or 0) <= 1
    assert parts["no_history"]["auc"] is None


def test_models_are_compared_with_the_best_baseline_their_start_and_each_other() -> None:
    found = compared(
        {"ranker": GOOD, "ranker_counters": BETTER}, {"ranker": POOR}, {"random": POOR, "bm25": GOOD}
    )
    assert set(found) == {
        "ranker over bm25",
        "ranker over its start",
        "ranker_counters over bm25",
        "ranker_counters over ranker",
    }
    assert found["ranker over bm25"]["difference"] == 0
    assert found["ranker over its start"]["low"] > 0


def test_numbers_that_json_does_not_know_become_null() -> None:
    assert finite({"a": [float("nan"), 1.0], "b": {"c": float("inf")}}) == {
        "a": [None, 1.0],
        "b": {"c": None},
    }


def test_tensorboard_gets_every_number(report: dict[str, object]) -> None:
    found = dict(scalars(report))
    assert found["models/ranker/all/auc"] == report["models"]["ranker"]["all"]["auc"]  # type: ignore[index]
    assert found["retrieval/recall_at_10"] == 0.5
    assert found["generation/perplexity"] == 123.4
    assert found["significance/ranker_over_its_start/difference"] > 0


def test_people_read_percent_with_before_beside_after(report: dict[str, object]) -> None:
    out = StringIO()
    print_report(report, Console(file=out, width=120))
    text = out.getvalue()
    after, before = (
        report[key]["ranker"] if key == "models" else report[key]["models"]["ranker"]  # type: ignore[index]
        for key in ("models", "before")
    )
    row = next(line for line in text.splitlines() if "ranker" in line)
    assert f"{100 * after['all']['auc']:.1f}" in row
    assert f"{100 * before['all']['auc']:.1f}" in row
    for heading in (
        "AUC by slice",
        "no history",
        "among all 50",
        "7 headlines",
        "first 10 words",
        "over its start",
    ):
        assert heading in text
