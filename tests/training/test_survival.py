"""A training that is ended before its time goes on as if nothing had happened."""

import contextlib
import dataclasses
import errno
import functools
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from genre_tf.config import OptimizerConfig
from genre_tf.errors import FailureError, InputError, StoppedError
from genre_tf.training import stage_files
from genre_tf.training.learner import Learner
from genre_tf.training.loop import Training
from genre_tf.training.progress import Goal
from genre_tf.training.stage_files import StageFiles, check_room, load_progress, run_lock, save_state

SETTINGS = OptimizerConfig(
    learning_rate=0.05, warmup_share=0.1, batch_size=4, validate_every=4, patience=99, save_every_seconds=0.0
)
STEPS = 12


class Net(keras.Model):
    """Dropout, so that random states matter."""

    def __init__(self):
        super().__init__()
        self.dropout = keras.layers.Dropout(0.5)
        self.dense = keras.layers.Dense(1)
        self.dense.build((None, 8))
        self.built = True


class Learn(Learner):
    """Calls for the end at a batch."""

    def __init__(self, model, end_at=None, how=None):
        super().__init__(model)
        self.end_at, self.how, self.batches = end_at, how, 0

    def loss_of(self, batch, training):
        tf.py_function(self._count, [], [])
        answer = self.model.dense(self.model.dropout(batch["x"], training=training))
        return tf.reduce_mean((answer - batch["y"]) ** 2)

    def _count(self):
        self.batches += 1
        if self.batches == self.end_at:
            self.how()


def _batches(start, each=1):
    random = np.random.default_rng(3)
    x = random.normal(size=(40, 8)).astype(np.float32)
    data = tf.data.Dataset.from_tensor_slices({"x": x, "y": x[:, :1] * 2.0})
    return data.shuffle(40, seed=1).batch(4).repeat().skip(start * each)


def _train(run, end_at=None, how=None, made_from="same", said=None, settings=SETTINGS):
    keras.utils.set_random_seed(1)
    net = Net()
    trainer = Learn(net, end_at, how)

    def steps_done():
        return {"quality": float(trainer.optimizer.iterations)}

    goal = Goal(validate=steps_done, metric="quality", greater_is_better=True)
    files = StageFiles(Path(run), "ranking", made_from)
    report = (lambda line: None) if said is None else said.append
    batches_from = functools.partial(_batches, each=settings.accumulate)
    result = Training(
        trainer=trainer, batches_from=batches_from, steps=STEPS, config=settings, goal=goal
    ).fit(files, report)
    return net, result, files


def _kernel(net):
    return keras.ops.convert_to_numpy(net.dense.kernel)


@pytest.mark.parametrize(
    ("accumulate", "at_once", "end_at", "ended"),
    [(1, 1, 7, 7), (3, 1, 20, 7), (3, 2, 20, 8)],  # a step is ended, and an execution
)
def test_sigterm_saves_and_the_same_training_goes_on(tmp_path, accumulate, at_once, end_at, ended):
    settings = dataclasses.replace(SETTINGS, accumulate=accumulate, steps_per_execution=at_once)
    whole, expected, _ = _train(tmp_path / "whole", settings=settings)
    with pytest.raises(StoppedError, match=rf"SIGTERM after step {ended} of 12.*same command") as stopped:
        _train(tmp_path / "parts", end_at, lambda: os.kill(os.getpid(), signal.SIGTERM), settings=settings)
    assert stopped.value.status == 143
    said = []
    net, result, files = _train(tmp_path / "parts", said=said, settings=settings)
    assert said[0] == f"resuming after step {ended} of 12"
    np.testing.assert_allclose(_kernel(net), _kernel(whole), rtol=1e-6)
    assert result.steps == expected.steps == STEPS
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    files.finish(result)
    assert files.finished() == result and not (files.folder / "unfinished.npz").exists()


def test_other_settings_start_anew(tmp_path):
    with pytest.raises(StoppedError):
        _train(tmp_path, end_at=7, how=lambda: os.kill(os.getpid(), signal.SIGTERM))
    said = []
    _train(tmp_path, made_from="other", said=said)
    assert not any("resuming" in line for line in said)


def test_a_result_whose_weights_were_overwritten_is_forgotten(tmp_path):
    _, result, files = _train(tmp_path, made_from="first")
    files.finish(result)
    with pytest.raises(StoppedError):
        _train(tmp_path, 7, lambda: os.kill(os.getpid(), signal.SIGTERM), made_from="second")
    assert files.finished() is None
    with pytest.raises(StoppedError):  # and so is a state, before the weights of others take their place
        _train(tmp_path, 2, lambda: os.kill(os.getpid(), signal.SIGTERM), made_from="third")
    said = []
    _train(tmp_path, made_from="second", said=said)
    assert not any("resuming" in line for line in said)


def test_a_damaged_state_starts_anew(tmp_path):
    with pytest.raises(StoppedError):
        _train(tmp_path, end_at=7, how=lambda: os.kill(os.getpid(), signal.SIGTERM))
    state = tmp_path / "ranking" / "unfinished.npz"
    state.write_bytes(state.read_bytes()[:100])
    assert load_progress(state) is None
    said = []
    _train(tmp_path, said=said)
    assert not any("resuming" in line for line in said)


class Killed(BaseException):
    """As SIGKILL, nobody catches it."""


@pytest.mark.parametrize("moment", range(1, 5))
def test_old_weights_never_stand_among_the_files_of_new_ones(tmp_path, monkeypatch, moment):
    monkeypatch.setattr(stage_files, "save_own_weights", lambda model, file: file.write_text("new"))
    files = StageFiles(tmp_path, "generation", "same")
    files.new.mkdir(parents=True)
    files.trained.write_text("old")
    beside = [files.folder / name for name in ("vocab.json", "generator.json")]
    for file in beside:
        file.write_text("old")
        (files.new / file.name).write_text("new")
    moves, move = [], Path.replace

    def until_killed(path, target):
        moves.append(path)
        if len(moves) == moment:
            raise Killed
        return move(path, target)

    monkeypatch.setattr(Path, "replace", until_killed)
    with contextlib.suppress(Killed):
        files.save_best(None)
    killed = moment <= 3  # two files and the weights are moved
    assert files.trained.exists() != killed
    if not killed:
        assert {file.read_text() for file in (*beside, files.trained)} == {"new"}
        assert not files.new.exists()


def test_a_second_training_on_a_run_folder_is_refused(tmp_path):
    script = f"""
        from pathlib import Path
        from genre_tf.training.stage_files import run_lock
        with run_lock(Path({str(tmp_path)!r})):
            print("held", flush=True)
            input()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match=f"trained by process {holder.pid}"), run_lock(tmp_path):
            pass
        holder.kill()
        holder.wait()
    with run_lock(tmp_path):
        pass


def test_a_disk_without_locks_is_not_another_training(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("genre_tf.files.fcntl.flock", refuse)
    with pytest.raises(InputError, match=r"locked \(No locks available\)"), run_lock(tmp_path):
        pass


@pytest.fixture
def small_files():
    """No file may grow beyond 4 kB: what a full disk looks like to a program."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_state_that_does_not_fit_leaves_the_one_before(tmp_path, small_files):
    file = tmp_path / "unfinished.npz"
    save_state(file, [keras.Variable(np.ones(10, np.float32))], {"step": 3})
    with pytest.raises(FailureError, match="cannot be written"):
        save_state(file, [keras.Variable(np.ones(10_000, np.float32))], {"step": 4})
    assert load_progress(file) == {"step": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["unfinished.npz"]


def test_a_disk_without_room_is_told_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(InputError, match="MiB free"):
        check_room(tmp_path, [keras.Variable(np.ones(1000, np.float32))])


def test_a_folder_that_may_not_be_written_is_told_before_any_work():
    with pytest.raises(InputError, match="cannot be written"), run_lock(Path("/proc/no-such-run")):
        pass
