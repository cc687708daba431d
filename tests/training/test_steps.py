"""A step of several batches, several steps in one call, and the time that steps wait for their batches."""

import dataclasses
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from genre_tf.config import OptimizerConfig
from genre_tf.errors import FailureError
from genre_tf.training.learner import Learner
from genre_tf.training.loop import Training
from genre_tf.training.progress import Goal
from genre_tf.training.stage_files import StageFiles

SETTINGS = OptimizerConfig(learning_rate=0.1, warmup_share=0.3, clip_norm=0.05, validate_every=4)
STEPS, ROWS = 10, 12


class Line(keras.Model):
    def __init__(self):
        super().__init__()
        self.kernel = self.add_weight(shape=(3,), initializer="zeros", name="kernel")
        self.built = True


class Fitted(Learner):
    """Notes how many steps each call did."""

    slow = False

    def __init__(self, model):
        super().__init__(model)
        self.calls = []

    def loss_of(self, batch, training):
        batch = _slowly(batch) if self.slow else batch
        found = tf.linalg.matvec(batch["x"], self.model.kernel)
        return tf.reduce_mean((found - batch["labels"]) ** 2)

    def run(self, batches, steps):
        self.calls.append(steps)
        return super().run(batches, steps)


def _rows(bad=None):
    random = np.random.default_rng(5)
    x = random.normal(size=(STEPS * ROWS, 3)).astype(np.float32)
    labels = x @ np.float32([1.0, -2.0, 0.5]) + random.normal(size=len(x)).astype(np.float32)
    if bad is not None:
        labels[bad] = np.nan
    return tf.data.Dataset.from_tensor_slices({"x": x, "labels": labels, "impression": np.arange(len(x))})


def _fit(folder, config, batches=None, steps=STEPS, **options):
    trainer, said, weights = Fitted(Line()), [], []
    batches = batches or _rows().batch(ROWS // config.accumulate).repeat()

    def validate():
        weights.append(trainer.model.kernel.numpy())
        return {"quality": float(len(weights))}

    goal = Goal(validate=validate, metric="quality", greater_is_better=True)
    files = StageFiles(folder, "ranking", "these settings")

    def from_step(step):
        return batches.skip(step * config.accumulate)

    result = Training(
        trainer=trainer, batches_from=from_step, steps=steps, config=config, goal=goal, **options
    ).fit(files, said.append)
    return trainer, result, said, np.stack(weights)


def _scalars(folder):
    found = {}
    for file in (folder / "logs" / "ranking" / "train").glob("events.*"):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    name = value.tag.removeprefix("ranking/")
                    found[name, event.step] = float(tf.make_ndarray(value.tensor))
    return found


@pytest.fixture(scope="module", params=["adamw", "sgd"])
def large(request, tmp_path_factory):
    """What steps of one large batch come to."""
    folder, config = tmp_path_factory.mktemp("large"), dataclasses.replace(SETTINGS, optimizer=request.param)
    trainer, _, said, weights = _fit(folder, config)
    assert trainer.calls == [1] * STEPS
    return config, said, weights, _scalars(folder)


@pytest.mark.parametrize(
    ("accumulate", "at_once", "calls", "jit_compile"),
    [(3, 1, [1] * STEPS, False), (1, 3, [3, 1, 3, 1, 2], False), (3, 100, [4, 4, 2], True)],
)
def test_a_step_of_several_batches_and_several_at_once_are_those_of_one(
    tmp_path, large, accumulate, at_once, calls, jit_compile
):
    config, expected_said, expected_weights, expected = large
    config = dataclasses.replace(config, accumulate=accumulate, steps_per_execution=at_once)
    trainer, result, said, weights = _fit(tmp_path, config, jit_compile=jit_compile)
    assert trainer.calls == calls and result.steps == STEPS and not result.stopped_early
    assert [line.split(",")[0].split("  ")[0] for line in said] == [
        line.split(",")[0].split("  ")[0] for line in expected_said
    ]
    # Clipped at every step, as one gradient; at the rates of as many updates.
    np.testing.assert_allclose(weights, expected_weights, rtol=2e-5, atol=1e-7)
    found = _scalars(tmp_path)
    for name in ("loss", "learning_rate", "gradient_norm"):
        assert found[name, STEPS] == pytest.approx(expected[name, STEPS], rel=1e-4)


def test_a_scaled_loss_gives_the_same_steps_and_one_overflow_leaves_out_one(tmp_path, monkeypatch):
    config = dataclasses.replace(SETTINGS, accumulate=3)
    *_, expected = _fit(tmp_path / "plain", config)
    monkeypatch.setattr("genre_tf.training.optimizers.wants_loss_scaling", lambda weights: True)
    *_, weights = _fit(tmp_path / "scaled", config)
    np.testing.assert_allclose(weights, expected, rtol=2e-5, atol=1e-7)
    # The loss of row 5 is a number, its scaled gradient is none; it is in the second batch of the first step.
    huge = _rows().map(lambda row: {**row, "x": tf.where(row["impression"] == 5, 1e35, 1.0) * row["x"]})
    trainer, *_, weights = _fit(tmp_path / "huge", config, huge.batch(ROWS // 3), steps=1)
    assert not weights.any() and float(trainer.optimizer.dynamic_scale) == 2.0**14
    assert not any(total.numpy().any() for total in trainer.gradient_sums)


@pytest.mark.parametrize(("accumulate", "at_once"), [(1, 4), (3, 4)])
def test_a_loss_that_is_no_number_names_its_step_and_all_its_rows(tmp_path, accumulate, at_once):
    config = dataclasses.replace(SETTINGS, accumulate=accumulate, steps_per_execution=at_once)
    listed = ", ".join(str(row) for row in range(2 * ROWS, 3 * ROWS))
    with pytest.raises(FailureError, match=f"became nan at step 3, learning from impressions {listed};"):
        _fit(tmp_path, config, _rows(bad=2 * ROWS + 7).batch(ROWS // accumulate))


def _sleep(value):
    time.sleep(0.05)
    return value


def _slowly(values):
    x = tf.numpy_function(_sleep, [values["x"]], tf.float32, stateful=False)
    return {**values, "x": tf.ensure_shape(x, values["x"].shape)}


@pytest.mark.parametrize("at_once", [1, 4])
def test_the_time_that_steps_wait_for_their_batches_is_told(tmp_path, at_once, monkeypatch):
    """The same 50 ms, in the input or in the step."""
    config = dataclasses.replace(SETTINGS, steps_per_execution=at_once)
    waits, shares = {}, {}
    for slow in ("input", "step"):
        batches = _rows().batch(ROWS).repeat()
        if slow == "input":
            batches = batches.map(_slowly, num_parallel_calls=1)
        else:
            monkeypatch.setattr(Fitted, "slow", True)
        _, result, said, _ = _fit(tmp_path / slow, config, batches)
        found = _scalars(tmp_path / slow)
        waits[slow], shares[slow] = found["input_wait_ms", STEPS], result.input_wait_share
        assert 0 < found["examples_per_second", STEPS] < ROWS / 0.05
        lines = [line for line in said if line.startswith("step")]
        told = ["input wait" in line for line in lines[1:]]  # the first holds the tracing of the step
        assert told[-1] if slow == "input" else not all(told)
    assert waits["input"] > 30 and 0 < waits["step"] < 15
    assert 1 > shares["input"] > 2 * shares["step"] >= 0  # a share is told in thousandths: 0.0 is right too
