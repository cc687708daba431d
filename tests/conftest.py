"""Shared fixtures: transcripts, and the real data beside the checkout, skipped aloud where absent."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import genre_tf  # noqa: F401  (before TensorFlow's Keras is touched)

# Begun first, so that no worker is left alone with one of them at the end; whole files, as their tests share
# fixtures.
LONGEST_FILES = ("test_distribution.py", "test_documents.py", "test_train_kills.py", "test_exporting.py")
SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = item.path.name
        return LONGEST_FILES.index(name) if name in LONGEST_FILES else len(LONGEST_FILES)

    items.sort(key=place)


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
