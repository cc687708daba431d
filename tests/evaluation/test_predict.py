"""`genre predict` writes what MIND's evaluator reads."""

from pathlib import Path

import numpy as np
import pytest

from genre_tf.cli.predict import predict
from genre_tf.data.mind import read_split
from genre_tf.errors import InputError
from genre_tf.evaluation.scored_log import read_log
from genre_tf.evaluation.scoring import load_scorers, open_run
from genre_tf.metrics.ranking import rank_scores


def ranks_of(file: Path) -> dict[str, list[int]]:
    rows = (line.split(" ", 1) for line in file.read_text().splitlines())
    return {impression: [int(rank) for rank in ranks.strip("[]").split(",")] for impression, ranks in rows}


@pytest.mark.parametrize("model", ["two_tower", "ranker", "ranker_counters"])
def test_a_log_without_labels_is_ranked_line_by_line(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, model: str
) -> None:
    predict(tiny_run, data=tiny_data, split="test", model=model, out=tmp_path / "prediction.txt")
    ranks = ranks_of(tmp_path / "prediction.txt")
    log = read_split(tiny_data, "test")
    assert list(ranks) == [impression.impression_id for impression in log.impressions]
    assert all(sorted(row) == list(range(1, 7)) for row in ranks.values())


def test_the_ranks_are_those_of_the_scores_that_are_evaluated(
    tiny_run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    predict(tiny_run, data=tiny_data, split="dev", model="ranker_counters", out=tmp_path / "p.txt")
    log = read_log(tiny_run, open_run(tiny_run), tiny_data, "dev")
    scorer = load_scorers(tiny_run, ("ranker_counters",), log.table)["ranker_counters"]
    expected = [rank_scores(scores).tolist() for scores in scorer(log.examples)]
    assert list(ranks_of(tmp_path / "p.txt").values()) == expected


def test_earlier_logs_count_when_they_are_given(tiny_run: Path, tiny_data: Path) -> None:
    def clicks_and_views(*folders: Path) -> np.ndarray:
        log = read_log(tiny_run, open_run(tiny_run), tiny_data, "test", counters_from=folders)
        return sum(example.counters.sum(axis=0)[:2] for example in log.examples)

    without, given = clicks_and_views(), clicks_and_views(tiny_data / "dev")
    assert (given > without).all()


def test_a_wrong_place_for_the_file_is_told_before_any_work(
    tiny_run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="create it first"):
        predict(tiny_run, data=tiny_data, split="nowhere", model="ranker", out=tmp_path / "a" / "p.txt")
