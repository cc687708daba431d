"""Shared fixtures: transcripts, and the real data beside the checkout, skipped aloud where absent."""

import gc
import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import genre_tf  # noqa: F401  (before TensorFlow's Keras is touched)

# Graphs are millions of objects that live long: the collector need not go through them every few seconds.
gc.set_threshold(100_000, 50, 50)

# Begun first, so that no worker is left alone with one of them at the end; whole files, as their tests share
# fixtures.
LONGEST_FILES = ("test_exporting.py", "test_html_report.py", "test_board_verb.py", "test_writer_again.py")
DAYS = 7
SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--day", type=int, help="Of the proofs, run the files of one day in seven: 0 to 6.")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = item.path.name
        return LONGEST_FILES.index(name) if name in LONGEST_FILES else len(LONGEST_FILES)

    items.sort(key=place)
    day = config.getoption("--day")
    if day is not None:
        proofs = sorted({item.path for item in items if item.get_closest_marker("proof")})
        others = set(proofs) - set(proofs[day % DAYS :: DAYS])
        items[:] = [item for item in items if item.path not in others]


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
