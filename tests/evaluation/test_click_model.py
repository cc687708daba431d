"""Click probabilities as probabilities: calibrated ones are told from others; every article is counted."""

import numpy as np
import pytest

from genre_tf.evaluation.click_model import THRESHOLDS, click_quality, share_interval

GENERATOR = np.random.default_rng(3)
LOGITS = [GENERATOR.normal(-2.5, 1.0, size=40) for _ in range(500)]
CLICKED = [GENERATOR.random(40) < 1 / (1 + np.exp(-row)) for row in LOGITS]


def test_true_probabilities_are_calibrated_and_shifted_ones_are_off_by_what_they_were_shifted():
    right = click_quality(LOGITS, CLICKED)
    assert right["calibration_error"] < 0.01
    assert right["mean_probability"] == pytest.approx(right["click_rate"], abs=0.01)
    wrong = click_quality([row + 1.0 for row in LOGITS], CLICKED)
    gap = wrong["mean_probability"] - wrong["click_rate"]
    assert gap > 0.08 and wrong["calibration_error"] == pytest.approx(gap, abs=0.01)
    assert wrong["log_loss"] > right["log_loss"]
    flat, hits = np.concatenate(LOGITS), np.concatenate(CLICKED)
    chance = 1 / (1 + np.exp(-flat))
    assert right["log_loss"] == pytest.approx(-np.mean(np.log(np.where(hits, chance, 1 - chance))))


def test_groups_are_equally_large_and_their_intervals_hold_their_rates():
    found = click_quality(LOGITS, CLICKED)
    assert [group["shown"] for group in found["calibration"]] == [2000] * 10
    assert all(group["low"] <= group["rate"] <= group["high"] for group in found["calibration"])
    probabilities = [group["probability"] for group in found["calibration"]]
    assert probabilities == sorted(probabilities)
    assert share_interval(0, 50)[0] == 0 < share_interval(0, 50)[1] < 0.1


def test_the_histogram_counts_every_article_and_every_click_once_certain_ones_too():
    found = click_quality([*LOGITS, np.array([800.0, -800.0])], [*CLICKED, np.array([True, False])])
    assert len(found["histogram"]["shown"]) == THRESHOLDS
    assert sum(found["histogram"]["shown"]) == found["shown"] == 20_002
    assert sum(found["histogram"]["clicked"]) == found["clicked"]
    assert found["histogram"]["clicked"][-1] == 1
    assert np.isfinite(found["log_loss"])
