"""A gain over the best baseline is told from chance by an interval of the difference."""

import json
import os

import numpy as np
import pytest

from genre_tf.training.quality import evaluated, judged, shares

RANDOM = np.random.default_rng(1)
BASE = RANDOM.random(400)


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        (BASE + 0.05, "better"),
        (BASE - 0.05, "worse"),
        (BASE + RANDOM.normal(0.0, 0.3, 400), "within chance"),
    ],
)
def test_the_interval_of_the_difference_tells_a_gain_from_chance(ours, verdict):
    found = judged("ranker", "auc", ours, {"weak": BASE - 0.2, "strong": BASE})
    assert (found.baseline, found.verdict) == ("strong", verdict)
    assert found.baseline_value == pytest.approx(BASE.mean())
    assert found.gain == pytest.approx(ours.mean() - BASE.mean())
    assert found.low < found.value < found.high
    assert found.gain_low - 1e-12 <= found.gain <= found.gain_high + 1e-12  # equal gains: rounding


def test_impressions_without_a_value_do_not_count():
    gaps = np.where(np.arange(400) % 2, np.nan, BASE)
    found = judged("ranker", "auc", gaps + 0.1, {"strong": gaps})
    assert found.value == pytest.approx(BASE[::2].mean() + 0.1) and found.gain == pytest.approx(0.1)
    assert judged("ranker", "auc", np.full(3, np.nan), {"strong": np.full(3, np.nan)}) is None


def test_a_perplexity_is_better_if_it_is_smaller_and_its_gain_is_a_share():
    losses = np.full(50, np.log(80.0))
    found = judged("writer", "perplexity", losses, {"unigram": losses + np.log(4.0), "worse": losses + 3})
    assert found.value == pytest.approx(80.0) and found.baseline_value == pytest.approx(320.0)
    assert (found.baseline, found.verdict) == ("unigram", "better")
    assert [found.gain, found.gain_low] == pytest.approx([0.75, 0.75])


def test_shares_have_the_mean_of_all_and_the_interval_of_whole_groups():
    counts = RANDOM.integers(1, 30, 300)
    sums = counts * RANDOM.normal(3.0, 0.5, 300)
    values = shares(sums, counts)
    assert values.mean() == pytest.approx(sums.sum() / counts.sum())
    draws = RANDOM.integers(300, size=(2000, 300))
    ends = np.quantile(sums[draws].sum(1) / counts[draws].sum(1), [0.025, 0.975])
    found = judged("writer", "auc", values, {"none": values})
    assert [found.low, found.high] == pytest.approx(ends, abs=0.01)


def test_an_evaluation_is_shown_unless_the_weights_are_newer(tmp_path):
    def of(value):
        return {"all": {"auc": value, "recall@10": value}}

    over = {"difference": 0.03, "low": 0.01, "high": 0.05}
    report = {
        "split": "dev",
        "models": {"ranker": of(0.66)},
        "baselines": {"category": of(0.63), "random": of(0.5)},
        "intervals": {"ranker": {"all": [0.65, 0.67]}},
        "significance": {"ranker over category": over, "ranker over its start": over},
        "pool": {
            "recommend": of(0.4),
            "baselines": {"clicks": of(0.1), "clicks_1h": of(0.39)},
            "intervals": {"recommend": of([0.38, 0.42])},
            "significance": {"recommend over clicks_1h": {"recall@10": {**over, "low": -0.01}}},
        },
        "generation": {"perplexity": 90.0},
    }
    for name in ("ranking", "reports"):
        (tmp_path / name).mkdir()
    weights, file = tmp_path / "ranking" / "model.weights.h5", tmp_path / "reports" / "evaluation-dev.json"
    weights.touch()
    file.write_text(json.dumps(report))
    ranker, recommend, writer = evaluated(tmp_path)
    assert (ranker.value, ranker.low, ranker.baseline, ranker.baseline_value) == (
        0.66,
        0.65,
        "category",
        0.63,
    )
    assert (ranker.measured_on, ranker.verdict) == ("dev", "better")
    assert (recommend.baseline, recommend.high, recommend.verdict) == ("clicks_1h", 0.42, "within chance")
    assert (writer.value, writer.baseline, writer.verdict) == (90.0, None, "")
    os.utime(file, (1, 1))
    assert evaluated(tmp_path) == []
