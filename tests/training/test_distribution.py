"""Strategies by name, and the same training on one device, on two, and in two processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.errors import InputError
from genre_tf.losses.replicas import rows_of_replicas, sum_over_replicas
from genre_tf.training.distribution import make_strategy, worker_index

HERE = Path(__file__).parent
STAGES = ("retrieval", "ranking", "generation")
# Sums are taken in another order: float32 differs in the last of its seven digits, and steps carry it on.
TOLERANCE = 1e-4
TWO = {"worker": ["localhost:1", "localhost:2"]}


def config(cluster: Any, kind: str = "worker", index: int = 0) -> str:
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


def test_one_device_is_the_default_strategy_and_auto_finds_no_more_here(monkeypatch: Any) -> None:
    monkeypatch.delenv("TPU_NAME", raising=False)
    for name in ("one", "auto"):
        found = make_strategy(name)
        assert found.strategy is tf.distribute.get_strategy()
        assert (found.replicas, found.worker, found.jit_compile) == (1, 0, False)
    assert make_strategy("one", fixed_shapes=True).jit_compile


def test_on_one_device_sums_and_rows_are_its_own() -> None:
    values = tf.constant([[1.0], [2.0]])
    assert sum_over_replicas(values) is values and rows_of_replicas(values) is values


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "TF_CONFIG, which is not set"),
        ("", "TF_CONFIG, which is not set"),
        ("{'cluster'", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"cluster": {}}', "KeyError: 'task'"),
        ('{"cluster": [], "task": {"type": "worker", "index": 0}}', "cannot be read"),
        (config(TWO, index=2), "worker 2, but its cluster has 0 chief and 2 worker"),
        (config(TWO, "ps"), "calls this process ps 0"),
        (config({}), "worker 0, but its cluster has 0 chief and 0 worker"),
    ],
)
def test_a_wrong_tf_config_is_said_with_an_example(value: str | None, said: str) -> None:
    with pytest.raises(InputError, match=said) as found:
        worker_index(value)
    assert '"task": {"type": "worker", "index": 0}' in str(found.value)


def test_the_chief_is_the_first_worker() -> None:
    assert [worker_index(config(TWO, index=index)) for index in (0, 1)] == [0, 1]
    cluster = {"chief": ["a:1"], "worker": ["b:1"]}
    assert (worker_index(config(cluster, "chief")), worker_index(config(cluster))) == (0, 1)


def test_several_workers_cannot_be_joined_after_tensorflow_began(monkeypatch: Any) -> None:
    monkeypatch.setenv("TF_CONFIG", config({"worker": ["localhost:1"]}))
    tf.zeros([1])
    with pytest.raises(InputError, match="create the strategy first"):
        make_strategy("multiworker")


def test_a_tpu_that_is_not_there_is_said_at_once(monkeypatch: Any) -> None:
    monkeypatch.delenv("TPU_NAME", raising=False)
    with pytest.raises(InputError, match=r"no TPU and none is named; give .* as --tpu or TPU_NAME"):
        make_strategy("tpu")
    with socket.socket() as taken:  # bound and not listening
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(InputError, match=r"cannot be used .*refused"):
            make_strategy("tpu", f"grpc://127.0.0.1:{taken.getsockname()[1]}")
    with pytest.raises(InputError, match="use one of auto, one"):
        make_strategy("gpu")


def start(script: str, *arguments: object, worker: tuple[list[str], int] | None = None) -> Any:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    environment.pop("TF_CONFIG", None)
    if worker is not None:
        environment["TF_CONFIG"] = config({"worker": worker[0]}, index=worker[1])
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def answers(*processes: Any) -> list[Any]:
    """Lines of JSON that the processes print."""
    found = []
    for process in processes:
        try:
            out, err = process.communicate(timeout=400)
        finally:
            for each in processes:
                if process.returncode != 0:
                    each.kill()
        assert process.returncode == 0, err[-3000:]
        found += [json.loads(line) for line in out.splitlines() if line.startswith(("{", "["))]
    return found


def two_addresses() -> list[str]:
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
        return [f"localhost:{each.getsockname()[1]}" for each in (first, second)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("data")
    words, random = ["storm", "wins", "late", "goal", "budget", "soup"], np.random.default_rng(0)
    news, lines = [], []
    for n in range(40):
        title, body = (" ".join(random.choice(words, size)) for size in (4, 7))
        news.append(f"N{n}\t{'abc'[n % 3]}\t{'xyzw'[n % 4]}\t{title} {n}\t{body}\t\t[]\t[]\n")
    for n in range(48):  # 2 to 7 candidates, histories of 0 to 5 clicks
        shown = random.choice(40, random.integers(2, 8), replace=False)
        read = " ".join(f"N{row}" for row in random.choice(40, random.integers(0, 6), replace=False))
        listed = " ".join(f"N{row}-{int(place < 1 + n % 2)}" for place, row in enumerate(shown))
        signals = " ".join(f"{one}:dwell={n * place}" for place, one in enumerate(read.split()))
        signals += f" N{shown[0]}:shares={n % 3}" if f"N{shown[0]}" not in read.split() else ""
        lines.append(f"{n}\tU{n}\t11/9/2019 {1 + n // 10}:{n:02}:00 AM\t{read}\t{listed}\t{signals}\n")
    (folder / "train").mkdir()
    (folder / "train" / "news.tsv").write_text("".join(news))
    (folder / "train" / "behaviors.tsv").write_text("".join(lines))
    return folder


def the_same_curves(one: Any, several: Any) -> None:
    assert (one["replicas"], several["replicas"]) == (1, 2)
    for stage in STAGES:
        for name in ("train loss", "validation loss", "validation perplexity"):
            if name in one[stage]:
                np.testing.assert_allclose(several[stage][name], one[stage][name], rtol=TOLERANCE)
        losses = one[stage]["train loss"]
        assert len(losses) == 3 and len(set(losses)) == 3


@pytest.mark.proof
def test_two_devices_and_two_processes_train_to_the_losses_of_one(data: Path, tmp_path: Path) -> None:
    stages = ",".join(STAGES)
    one, mirrored = answers(start("train_in_process.py", data, tmp_path, 2, stages, "one", "mirrored"))
    the_same_curves(one, mirrored)
    addresses = two_addresses()
    workers = [
        start("train_in_process.py", data, tmp_path / str(n), 1, stages, "multiworker", worker=(addresses, n))
        for n in range(2)
    ]
    chief, other = answers(*workers)
    the_same_curves(one, chief)
    for stage in STAGES:
        for found in (other, chief):
            del found[stage]["train memory_gb"]  # each process has its own
        assert other[stage] == chief[stage]


@pytest.mark.proof
def test_keras_own_fit_still_fails_with_several_workers() -> None:
    """When this fails, Keras' own `fit` can train on several machines: say so in `training/learner.py`."""
    addresses = two_addresses()
    for plain, without_build in answers(
        *(start("keras_fit_process.py", worker=(addresses, n)) for n in range(2))
    ):
        assert "_maybe_symbolic_build" in plain
        assert "reduce_per_replica" in without_build
