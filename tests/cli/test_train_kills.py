"""`genre train` killed at random moments ends in the weights of a training that nobody disturbed."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from genre_tf.synth.newsroom import write_newsroom
from genre_tf.synth.settings import NewsroomSettings

# Ten by hand (GENRE_KILLS=10); two by default, for each costs the start of a process.
KILLS = int(os.environ.get("GENRE_KILLS", "2"))
SETTINGS = """
[news]
backbone = "tiny"
dropout = 0.3
trainable = "last 1"
[retrieval.optimizer]
steps = 80
batch_size = 8
validate_every = 20
patience = 99
save_every_seconds = 0.0
"""


def _arguments(folder: Path, run: Path) -> list[str]:
    options = ["--data", folder / "newsroom", "--config", folder / "mine.toml", "--run", run]
    return ["train", "retrieval", *map(str, options)]


def _start(folder: Path, run: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-u", "-m", "genre_tf.cli.main", *_arguments(folder, run)]
    return subprocess.Popen(command, text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)


def _weights(run: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}

    def keep(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with h5py.File(run / "retrieval" / "model.weights.h5") as file:
        file.visititems(keep)
    return found


def _kill(process: "subprocess.Popen[str]", run: Path, when: random.Random) -> None:
    """SIGKILL at some moment after the process has done a step of its own."""
    state, started = run / "retrieval" / "unfinished.npz", time.time()
    while not (state.is_file() and state.stat().st_mtime > started):
        assert process.poll() is None, "the training ended before it could be killed"
        time.sleep(0.01)
    time.sleep(when.uniform(0.0, 0.4))
    process.kill()
    process.communicate()


@pytest.mark.proof
def test_killed_trainings_end_in_the_same_weights(tmp_path: Path) -> None:
    def finished(run: str) -> str:
        # In a process of its own too: graphs are not optimized in that of the tests, which rounds otherwise.
        return _start(tmp_path, tmp_path / run).communicate()[1]

    write_newsroom(tmp_path / "newsroom", NewsroomSettings(seed=3, articles=300, readers=60, impressions=480))
    (tmp_path / "mine.toml").write_text(SETTINGS)
    assert "step 80/80" in finished("whole")
    when = random.Random(5)
    for _ in range(KILLS):
        _kill(_start(tmp_path, tmp_path / "parts"), tmp_path / "parts", when)
    assert "resuming after" in finished("parts")
    whole, parts = _weights(tmp_path / "whole"), _weights(tmp_path / "parts")
    assert whole.keys() == parts.keys() and len(whole) > 5
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    assert "kept" in finished("parts")
