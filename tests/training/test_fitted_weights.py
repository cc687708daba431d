"""The ranker's head for what was retrieved: fitted to choices from the pool of a moment, then calibrated."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from genre_tf.data.moment_pool import moment
from genre_tf.models.checkpoint import WEIGHTS_FILE, ranker_of, two_tower_of
from genre_tf.models.ranker import Ranker
from genre_tf.training import fitted_weights
from genre_tf.training.fitted_weights import fit_pool_head, pool_head_seconds
from genre_tf.training.stage_data import StageData


def new_ranker(data: StageData) -> Ranker:
    keras.utils.set_random_seed(1)
    return ranker_of(data.news_encoder(), data.config)


def fitted(data: StageData, report: Any = print) -> tuple[Ranker, list[tuple[np.ndarray, float]]]:
    """A ranker with its fitted head, and the weights that the head was given, one after the other."""
    ranker, given = new_ranker(data), []
    assign = ranker.pool_head.assign

    def spied(kernel: Any, bias: float) -> None:
        given.append((np.array(kernel), float(bias)))
        assign(kernel, bias)

    ranker.pool_head.assign = spied
    fit_pool_head(ranker, data, data.config, report)
    return ranker, given


@pytest.fixture(scope="module")
def head(pool_world: StageData) -> tuple[Ranker, list[tuple[np.ndarray, float]]]:
    return fitted(pool_world)


def lists(ranker: Ranker, data: StageData) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each held-out impression with a click: logits of its unread pool, best first; what was clicked."""
    vectors = tf.constant(ranker.news.embed(data.features))
    for one in data.validation:
        clicked = one.candidates[one.labels > 0]
        if len(clicked):
            rows = data.pool.rows(moment(one))
            rows = rows[~np.isin(rows, one.history) | np.isin(rows, clicked)]
            counters = data.pool.before(rows, moment(one))[None]
            history = one.history if len(one.history) else np.zeros(1, np.int32)
            read, there = (tf.gather(vectors, each)[None] for each in (history, rows))
            logits = ranker.pool_logits(read, (history > 0)[None], there, counters).numpy()[0]
            order = np.argsort(-logits, kind="stable")
            yield logits[order], np.isin(rows[order], clicked)


def mean_rank(ranker: Ranker, data: StageData) -> float:
    return float(np.mean(np.concatenate([np.flatnonzero(clicked) for _, clicked in lists(ranker, data)])))


def test_the_fitted_head_places_the_clicks_of_later_days_before_what_was_not_clicked(
    pool_world: StageData, head: Any
) -> None:
    assert mean_rank(head[0], pool_world) < 0.75 * mean_rank(new_ranker(pool_world), pool_world)


def test_the_probabilities_of_the_best_of_a_list_are_those_of_clicks(
    pool_world: StageData, head: Any
) -> None:
    best = [(logits[:30], clicked[:30]) for logits, clicked in lists(head[0], pool_world)]
    logits, clicked = (np.concatenate(each) for each in zip(*best, strict=True))
    probabilities = 1 / (1 + np.exp(-logits))
    assert clicked.mean() / 1.5 < probabilities.mean() < 1.5 * clicked.mean()
    likely = probabilities > np.quantile(probabilities, 0.9)
    assert clicked[likely].mean() / 1.5 < probabilities[likely].mean() < 1.5 * clicked[likely].mean()


def test_the_calibration_changes_no_order(head: Any) -> None:
    (kernel, bias), (calibrated, calibrated_bias) = head[1]
    slope = calibrated[np.abs(kernel).argmax()] / kernel[np.abs(kernel).argmax()]
    assert bias == 0 and slope > 0 and calibrated_bias != 0
    np.testing.assert_allclose(calibrated, slope * kernel, rtol=1e-5)


def test_clicks_that_are_held_out_calibrate_and_teach_no_order(pool_world: StageData, head: Any) -> None:
    """The future turned round: what is held out is flipped, and the weights are the same to the last bit."""
    other = [replace(one, labels=1 - one.labels) for one in pool_world.validation]
    turned_round = replace(pool_world, validation=other)
    _, ((kernel, _), (calibrated, _)) = fitted(turned_round)
    np.testing.assert_array_equal(kernel, head[1][0][0])
    assert not np.array_equal(calibrated, head[1][1][0])


def test_gradient_steps_leave_the_head_alone(pool_world: StageData) -> None:
    ranker = new_ranker(pool_world)
    trained = {id(weight) for weight in ranker.trainable_weights}
    assert not trained & {id(weight) for weight in ranker.pool_head.weights}


def test_it_learns_from_what_the_towers_retrieve_and_says_so_where_there_are_none(
    pool_world: StageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    fitted(pool_world, said.append)
    assert said == ["no trained retrieval stage; the ranker learns from articles drawn evenly from the pool"]
    towers = two_tower_of(pool_world.news_encoder(), pool_world.config)
    monkeypatch.setattr("genre_tf.training.fitted_weights.load_two_tower", lambda run: towers)
    (tmp_path / "retrieval").mkdir()
    (tmp_path / "retrieval" / WEIGHTS_FILE).touch()
    ranker, given = fitted(replace(pool_world, run=tmp_path), said.append)
    assert len(said) == 1 and len(given) == 2
    assert mean_rank(ranker, pool_world) < 0.75 * mean_rank(new_ranker(pool_world), pool_world)


def test_a_log_without_a_pool_leaves_the_head_as_it_was(pool_world: StageData) -> None:
    said: list[str] = []
    replayed = replace(pool_world, replayed=len(pool_world.train))  # nothing but examples of an earlier run
    _, given = fitted(replayed, said.append)
    assert not given and "pool head is not trained" in said[-1]


def test_its_time_is_known_from_a_few_impressions(
    pool_world: StageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def takes_5_s_and_a_tenth_for_each(*given: Any) -> None:
        clock[0] += 5.0 + 0.1 * 2 * given[-1]  # of the log to learn from and of the validation

    monkeypatch.setattr(fitted_weights, "_fit_pool_head", takes_5_s_and_a_tenth_for_each)
    monkeypatch.setattr(fitted_weights, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    found = pool_head_seconds(new_ranker(pool_world), pool_world, pool_world.config)
    impressions = len(pool_world.train) + len(pool_world.validation)
    assert found == pytest.approx(5.0 + 0.1 * impressions, rel=0.1)
