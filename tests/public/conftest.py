"""A tiny data set for the public models."""

from pathlib import Path

import pytest

from ..evaluation.conftest import write_split


@pytest.fixture(scope="session")
def mind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("mind")
    write_split(data, "train", 10, 120, range(1, 30))
    write_split(data, "dev", 12, 30, range(1, 40))
    return data
