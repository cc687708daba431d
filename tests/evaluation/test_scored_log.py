"""What a model sees of a log: only the past, only known articles, and every impression in order."""

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from genre_tf.config import RunConfig
from genre_tf.data.articles import Impression
from genre_tf.data.counters import Counters
from genre_tf.data.mind import read_split
from genre_tf.errors import InputError
from genre_tf.evaluation import scored_log
from genre_tf.evaluation.scored_log import Seen, read_log, slice_masks

NEWS = "".join(f"N{number}\tsports\tsoccer\tTitle {number}\tText.\t\t[]\t[]\n" for number in range(1, 6))


def write_log(data: Path, name: str, rows: list[str]) -> None:
    (data / name).mkdir(parents=True)
    (data / name / "news.tsv").write_text(NEWS, "utf-8")
    lines = (f"{at}\tU{at}\t{row}\n" for at, row in enumerate(rows, 1))
    (data / name / "behaviors.tsv").write_text("".join(lines), "utf-8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    write_log(data, "train", ["11/9/2019 8:00:00 AM\t\tN1-1 N2-0", "11/9/2019 9:00:00 AM\tN3\tN1-1 N2-0"])
    write_log(data, "dev", ["11/11/2019 9:00:00 AM\tN1 N2\tN1-1 N4-0", "11/11/2019 8:00:00 AM\t\tN1-1 N4-0"])
    write_log(
        data, "between", ["11/10/2019 9:00:00 AM\tN1\tN4-1 N2-0", "11/11/2019 8:30:00 AM\tN1\tN4-1 N2-0"]
    )
    write_log(data, "unclicked", ["11/12/2019 9:00:00 AM\t\tN1-0 N4-0"])
    write_log(data, "unlabelled", ["11/12/2019 9:00:00 AM\t\tN1 N4", "11/12/2019 9:30:00 AM\t\tN1 N4"])
    return data


@pytest.fixture
def run(tmp_path: Path, data: Path) -> Path:
    counters = Counters()
    for impression in read_split(data, "train").impressions:
        counters.observe(impression)
    (tmp_path / "run" / "prepared").mkdir(parents=True)
    counters.save(tmp_path / "run" / "prepared" / "counters.npz")
    return tmp_path / "run"


def seen(run: Path, data: Path, split: str, *counters_from: str) -> list[list[list[float]]]:
    folders = [data / name for name in counters_from]
    log = read_log(run, RunConfig(), data, split, counters_from=folders)
    return [example.counters[:, :2].tolist() for example in log.examples]


def test_counters_continue_after_training_and_know_only_earlier_impressions_of_the_log(
    run: Path, data: Path
) -> None:
    assert seen(run, data, "dev") == [
        [[3, 3], [0, 1]],
        [[2, 2], [0, 0]],
    ]  # the second row of the log is older


def test_the_training_log_itself_starts_from_empty_counters(run: Path, data: Path) -> None:
    assert seen(run, data, "train") == [[[0, 0], [0, 0]], [[1, 1], [0, 1]]]


def test_further_logs_are_counted_as_far_as_they_are_past(run: Path, data: Path) -> None:
    assert seen(run, data, "dev", "between") == [[[3, 3], [2, 3]], [[2, 2], [1, 1]]]


def test_a_log_without_labels_counts_views_only(run: Path, data: Path) -> None:
    assert seen(run, data, "unlabelled")[1] == [[2, 3], [0, 1]]
    with pytest.raises(InputError, match="has no labels"):
        read_log(run, RunConfig(), data, "unlabelled").clicked()


def test_a_split_without_any_click_cannot_be_measured(run: Path, data: Path) -> None:
    with pytest.raises(InputError, match="none of the 1 impressions of split 'unclicked' has a click"):
        read_log(run, RunConfig(), data, "unclicked").clicked()


def test_a_log_that_training_has_counted_is_not_counted_twice(run: Path, data: Path) -> None:
    with pytest.raises(InputError, match="leave it out"):
        read_log(run, RunConfig(), data, "dev", counters_from=[data / "train"])


def test_a_run_without_counters_is_refused_only_when_they_are_needed(tmp_path: Path, data: Path) -> None:
    with pytest.raises(InputError, match=r"counters\.npz"):
        read_log(tmp_path, RunConfig(), data, "dev")
    log = read_log(tmp_path, RunConfig(), data, "dev", with_counters=False)
    assert not log.examples[0].counters.any()


def test_only_articles_that_the_log_mentions_are_in_the_table(run: Path, data: Path) -> None:
    assert read_log(run, RunConfig(), data, "dev").table.news_ids == ["", "N1", "N2", "N4"]


def test_blocks_of_any_size_hold_the_same_examples_in_the_order_of_the_log(
    run: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scored_log, "BLOCK_IMPRESSIONS", 1)
    log = read_log(run, RunConfig(), data, "dev")
    assert [example.impression for block in log.blocks() for example in block] == [0, 1]
    assert [row.tolist() for row in log.clicked()] == [[True, False]] * 2
    assert np.array_equal(log.examples[0].history, [1, 2])


def impression(
    user: str, history: tuple[str, ...], candidates: tuple[str, ...], clicked: tuple[bool, ...] | None
) -> Impression:
    return Impression("1", user, datetime(2019, 11, 13), history, candidates, clicked)


# A training log in which U1 had read N1 and was shown N2 and N3.
TRAIN = Seen(user_ids=frozenset({"U1"}), news_ids=frozenset({"N1", "N2", "N3"}))


def members(log: list[Impression], seen: Seen | None = None) -> dict[str, list[bool]]:
    return {name: mask.tolist() for name, mask in slice_masks(log, seen).items()}


def test_slices_by_history_count_all_clicks_and_include_none_among_the_few() -> None:
    log = [impression("U", ("N",) * clicks, ("N1",), (True,)) for clicks in (0, 5, 6)]
    assert members(log) == {
        "all": [True, True, True],
        "no_history": [True, False, False],
        "at_most_5_clicks": [True, True, False],
    }


def test_a_reader_is_unseen_when_the_training_log_does_not_know_him() -> None:
    log = [impression("U1", (), ("N2",), (True,)), impression("U2", (), ("N2",), (True,))]
    assert members(log, TRAIN)["unseen_reader"] == [False, True]


def test_an_article_is_unseen_when_clicked_and_neither_shown_nor_read_in_training() -> None:
    log = [
        impression("U1", (), ("N1", "N9"), (True, False)),  # read in training; the new one was not clicked
        impression("U1", (), ("N3", "N9"), (True, False)),  # shown in training
        impression("U1", (), ("N3", "N9"), (True, True)),
    ]
    assert members(log, TRAIN)["unseen_article"] == [False, False, True]


def test_a_log_without_labels_has_no_clicked_articles() -> None:
    assert members([impression("U1", (), ("N9",), None)], TRAIN)["unseen_article"] == [False]


def test_an_empty_log_has_empty_slices() -> None:
    assert all(mask == [] for mask in members([], TRAIN).values())
