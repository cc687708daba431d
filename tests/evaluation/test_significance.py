"""The paired bootstrap finds what is there and nothing else."""

import numpy as np
import pytest

from genre_tf.evaluation.significance import bootstrap_intervals, paired_bootstrap


def test_the_interval_is_that_of_the_normal_theory() -> None:
    generator = np.random.default_rng(0)
    theirs = generator.random(2000)
    ours = theirs + generator.normal(0.02, 0.1, 2000)
    found = paired_bootstrap(ours, theirs)
    assert found is not None
    margin = 1.96 * (ours - theirs).std() / np.sqrt(2000)
    assert found.difference == pytest.approx((ours - theirs).mean())
    assert found.low == pytest.approx(found.difference - margin, abs=margin * 0.1)
    assert found.high == pytest.approx(found.difference + margin, abs=margin * 0.1)
    assert found.probability_not_better < 0.001


def test_pairing_sees_a_small_difference_that_unpaired_noise_would_hide() -> None:
    theirs = np.random.default_rng(1).random(200)
    found = paired_bootstrap(theirs + 0.001, theirs)
    assert found is not None
    assert found.low == pytest.approx(0.001)


def test_the_same_seed_gives_the_same_interval_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).random((2, 50))
    whole = paired_bootstrap(values[0], values[1])
    monkeypatch.setattr("genre_tf.evaluation.significance._BLOCK_DRAWS", 500)
    assert paired_bootstrap(values[0], values[1]) == whole


def test_undefined_impressions_are_left_out_and_none_left_is_none() -> None:
    found = paired_bootstrap(np.array([1.0, np.nan, 3]), np.array([0.0, 0, np.nan]))
    assert found is not None
    assert (found.difference, found.impressions) == (1.0, 1)
    assert paired_bootstrap(np.array([np.nan]), np.array([1.0])) is None


def test_values_of_different_impressions_are_refused() -> None:
    with pytest.raises(ValueError, match="differ; they must be equal"):
        paired_bootstrap(np.ones(2), np.ones(3))


def test_intervals_of_many_metrics_are_those_of_each_alone_and_of_any_blocks(monkeypatch: pytest.MonkeyPatch):
    values = np.random.default_rng(1).random((80, 3))
    values[::3, 1] = np.nan
    values[:, 2] = np.nan
    found = bootstrap_intervals(values)
    for column in (0, 1):
        alone = paired_bootstrap(values[:, column], np.zeros(80))
        assert alone is not None and found[column] == pytest.approx([alone.low, alone.high])
    assert np.isnan(found[2]).all()
    monkeypatch.setattr("genre_tf.evaluation.significance._BLOCK_DRAWS", 500)
    assert bootstrap_intervals(values)[:2] == pytest.approx(found[:2])
