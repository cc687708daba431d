"""Shared fixtures: the real data and transcripts beside the checkout, skipped aloud where absent."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import genre_tf  # noqa: F401  (before TensorFlow's Keras is touched)

SHARED = Path(__file__).resolve().parents[2] / "shared"


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
    return _shared("tf_serving_transcripts")
