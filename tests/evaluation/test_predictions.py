"""MIND's submission file, whole or not at all."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from genre_tf.data.articles import ArticleTable, Impression, Split
from genre_tf.data.columns import ImpressionExample
from genre_tf.errors import FailureError, InputError
from genre_tf.evaluation import scored_log
from genre_tf.evaluation.scored_log import ScoredLog
from genre_tf.evaluation.scoring import write_predictions

TIME = datetime(2019, 11, 15)


def log(*impressions: tuple[str, int]) -> ScoredLog:
    rows = [Impression(name, "U1", TIME, (), ("N",) * count, None) for name, count in impressions]
    return ScoredLog(Split("test", {}, rows, []), ArticleTable(), None, 50)


def later_is_better(examples: Sequence[ImpressionExample]) -> list[np.ndarray]:
    return [np.arange(len(example.candidates), dtype=np.float32) for example in examples]


def test_one_line_an_impression_in_the_order_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scored_log, "BLOCK_IMPRESSIONS", 1)
    written = write_predictions(
        tmp_path / "prediction.txt", log(("7", 3), ("5", 1), ("6", 2)), later_is_better
    )
    assert written == 3
    assert (tmp_path / "prediction.txt").read_bytes() == b"7 [3,2,1]\n5 [1]\n6 [2,1]\n"


def test_a_failure_leaves_the_old_file_and_nothing_half_written(tmp_path: Path) -> None:
    file = tmp_path / "prediction.txt"
    file.write_text("old")

    def failing(examples: Sequence[ImpressionExample]) -> list[np.ndarray]:
        raise FailureError("no")

    with pytest.raises(FailureError):
        write_predictions(file, log(("1", 2)), failing)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_folder_or_a_missing_folder_as_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        write_predictions(tmp_path, log(("1", 2)), later_is_better)
    with pytest.raises(InputError, match="create it first"):
        write_predictions(tmp_path / "a" / "b", log(("1", 2)), later_is_better)
