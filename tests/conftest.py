"""Shared fixtures: transcripts, and the real data beside the checkout, skipped aloud where absent."""

import gc
import os
import shutil
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
from genre_tf.environment import import_triton_first  # importing genre_tf also prepares Keras

import_triton_first()
import tensorflow as tf  # noqa: E402

from . import world  # noqa: E402

# Thousands of small files are written, synced and deleted: where memory can hold them, that takes no time.
MEMORY, ROOM_BYTES = Path("/dev/shm"), 8 << 30
if "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ROOM_BYTES:
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)

# Most graphs run once or twice here: TensorFlow would spend a third of the time on optimizing them. Exports
# are replayed, and commands served, in processes that do optimize, and sessions in this one do too.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

DAYS = 6
TESTS = Path(__file__).parent
SHARED = TESTS.parents[1] / "shared"
# Files that take more than about five seconds (`pytest --durations=0`), those first whose fixtures do: begun
# first, so that no worker is left alone with one of them at the end, and left out by `make quick`.
SLOW_FILES = TESTS.joinpath("slow_files.txt").read_text("utf-8").split()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--day", type=int, help="Of the proofs, run the files of one day in six: 0 to 5.")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        world.remove_older()


@pytest.hookimpl(tryfirst=True)  # before `-m` is applied
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    places = {TESTS / name: place for place, name in enumerate(SLOW_FILES)}
    for item in items:
        if item.path in places:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: places.get(item.path, len(places)))
    day = config.getoption("--day")
    if day is not None:
        proofs = sorted({item.path for item in items if item.get_closest_marker("proof")})
        others = set(proofs) - set(proofs[day % DAYS :: DAYS])
        items[:] = [item for item in items if item.path not in others]


def pytest_collection_finish() -> None:
    """What is imported stays. Graphs are millions of objects: a search for garbage takes long."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 1_000_000)


_last_file: list[Path] = []


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before each file the garbage of the last one is collected: a process that grows becomes slow.

    What is left then stays, and is not searched again. At the end of the last file its fixtures still were.
    """
    if _last_file != [item.path]:
        gc.collect()
        gc.freeze()
        _last_file[:] = [item.path]


def _shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return folder


@pytest.fixture(scope="session")
def mind_sample() -> Path:
    return _shared("data/mind_sample")


@pytest.fixture(scope="session")
def mind_sample_zh() -> Path:
    return _shared("data/mind_sample_zh")


@pytest.fixture(scope="session")
def transcripts() -> Path:
    return Path(__file__).parent / "serving" / "transcripts"
