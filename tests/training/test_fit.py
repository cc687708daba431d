"""The common fit: schedules, the best weights kept, early stopping, a loss that is no number."""

import dataclasses
import itertools
import math
import re
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from genre_tf.config import OptimizerConfig
from genre_tf.errors import FailureError, InputError
from genre_tf.training.learner import Learner
from genre_tf.training.loop import Training
from genre_tf.training.optimizers import learning_rate, make_optimizer
from genre_tf.training.progress import Goal
from genre_tf.training.stage_files import StageFiles

SETTINGS = OptimizerConfig(
    learning_rate=0.1, warmup_share=0.0, decay="none", weight_decay=0.0, validate_every=2
)


class Point(keras.Model):
    def __init__(self):
        super().__init__()
        self.x = self.add_weight(shape=(), initializer="zeros", name="x")
        self.built = True


class Towards(Learner):
    def loss_of(self, batch, training):
        return tf.reduce_mean((self.model.x - batch["goal"]) ** 2)


def _fit(folder, values, config=SETTINGS, goal=3.0, steps=20, files=None):
    point, said = Point(), []
    batches = tf.data.Dataset.from_tensors({"goal": tf.constant([goal]), "impression": [5]}).repeat()
    goal = Goal(validate=lambda: {"quality": next(values)}, metric="quality", greater_is_better=True)
    files = files or StageFiles(folder, "ranking", "these settings")
    result = Training(
        trainer=Towards(point), batches_from=batches.skip, steps=steps, config=config, goal=goal
    ).fit(files, said.append)
    return point, result, said


def test_the_best_weights_are_kept_and_patience_ends_the_training(tmp_path):
    config = dataclasses.replace(SETTINGS, patience=2)
    point, result, said = _fit(tmp_path, iter([0.1, 0.2, 0.9, 0.3, 0.4, 0.5]), config)
    assert (result.before, result.best, result.best_step) == (0.1, 0.9, 4)
    assert result.stopped_early and result.steps == 8
    again = Point()
    again.load_weights(tmp_path / "ranking" / "model.weights.h5")
    assert float(again.x) == float(point.x) > 0
    assert said[-2:] == [
        "stopping early at step 8: quality has not improved in 2 validations",
        "the weights of step 4 are kept, with the best quality: 0.9000",
    ]
    assert list((tmp_path / "logs" / "ranking" / "train").glob("events.*"))
    assert list((tmp_path / "logs" / "ranking" / "validation").glob("events.*"))


def test_greater_or_smaller_is_better_and_anything_beats_no_value():
    quality, loss = (Goal(validate=dict, metric="m", greater_is_better=greater) for greater in (True, False))
    assert quality.better(2, 1) and not quality.better(1, 2) and not quality.better(1, 1)
    assert loss.better(1, 2) and not loss.better(2, 1) and not loss.better(1, 1)
    assert quality.better(-9, math.nan) and loss.better(9, math.nan)


def test_progress_says_how_long_the_rest_takes(tmp_path):
    *_, said = _fit(tmp_path, iter([0.1] * 4), steps=4)
    begin, middle, end = (line.split("  ")[0] for line in said if line.startswith("step"))
    assert (begin, end) == ("step 0/4", "step 4/4")
    assert re.fullmatch(r"step 2/4, \d+ s left", middle)


def test_a_training_that_never_helps_leaves_the_weights_of_before(tmp_path):
    point, result, _ = _fit(tmp_path, iter([0.5] + [0.1] * 30))
    assert float(point.x) == 0.0 and result.best_step == 0


def test_a_training_says_once_what_the_rest_will_take(tmp_path, monkeypatch):
    *_, said = _fit(tmp_path / "short", itertools.repeat(0.1), steps=6)
    assert not any(" per second" in line for line in said)  # over before it was timed
    monkeypatch.setattr("genre_tf.training.progress._ENOUGH_SECONDS", 0.0)
    *_, said = _fit(tmp_path / "long", itertools.count(), steps=20)
    (line,) = (line for line in said if " per second" in line)
    # The first step does not count, and five are timed; validations follow at steps 8, 10, ... 20.
    assert re.match(r"ranking: 14 steps, \d+ per second, 7 validations of 0\.0 s: about 0 s, less if", line)


def test_a_rehearsal_times_a_few_steps_and_a_validation(monkeypatch):
    monkeypatch.setattr("genre_tf.training.progress._ENOUGH_SECONDS", 0.0)
    point, asked = Point(), []
    batches = tf.data.Dataset.from_tensors({"goal": tf.constant([3.0]), "impression": [5]}).repeat()
    goal = Goal(validate=lambda: asked.append(1) or {}, metric="quality", greater_is_better=True)
    training = Training(
        trainer=Towards(point), batches_from=batches.skip, steps=20, config=SETTINGS, goal=goal
    )
    found = training.rehearse(time.monotonic())
    assert (found.steps, found.validations) == (20, 11)  # one before the first step
    assert 0 < found.step_seconds < 1 and found.other_seconds > 0 and len(asked) == 2
    assert training.trainer.optimizer.iterations == 6


def test_a_loss_that_is_no_number_stops_with_the_step_and_its_rows(tmp_path):
    with pytest.raises(FailureError, match="step 1, learning from impressions 5;"):
        _fit(tmp_path, iter([0.5] * 30), goal=float("nan"))


def test_a_metric_that_is_no_number_after_a_bad_update_stops_likewise(tmp_path):
    with pytest.raises(FailureError, match="validation quality became nan at step 2, learn"):
        _fit(tmp_path, iter([0.5, float("nan")]))
    kept = Point()
    kept.load_weights(tmp_path / "ranking" / "model.weights.h5")
    assert float(kept.x) == 0.0, "those of step 0"


def test_the_learning_rate_warms_up_and_decays_to_zero():
    config = OptimizerConfig(learning_rate=0.2, warmup_share=0.1)
    schedule = learning_rate(config, 100)
    rates = np.array([float(schedule(step)) for step in range(101)])
    assert rates.argmax() in (9, 10) and rates.max() == pytest.approx(0.2, rel=0.02)
    assert (np.diff(rates[:9]) > 0).all() and (np.diff(rates[11:]) <= 0).all()
    assert rates[100] == pytest.approx(0.0, abs=1e-6)
    schedule = learning_rate(dataclasses.replace(config, decay="none"), 100)
    assert [float(schedule(step)) for step in (0, 5, 10, 99)] == pytest.approx([0.0, 0.1, 0.2, 0.2])


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_weight_decay_leaves_offsets_alone(name):
    kernel = keras.Variable([1.0], name="kernel")
    bias = keras.Variable([1.0], name="bias")
    config = OptimizerConfig(
        optimizer=name, decay="none", warmup_share=0.0, learning_rate=0.1, weight_decay=0.5
    )
    optimizer = make_optimizer(config, 10, [kernel, bias])
    optimizer.build([kernel, bias])
    optimizer.apply([tf.zeros([1]), tf.zeros([1])], [kernel, bias])
    assert float(kernel[0]) < 1.0 and float(bias[0]) == 1.0


@pytest.mark.parametrize("change", [{"optimizer": "adam?"}, {"decay": "sometimes"}])
def test_unknown_names_say_what_is_known(change):
    with pytest.raises(InputError, match="must be one of"):
        dataclasses.replace(SETTINGS, **change)
