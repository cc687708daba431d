"""Slices hold the impressions that their names say."""

from datetime import datetime

from genre_tf.data.articles import Impression
from genre_tf.evaluation.scored_log import Seen, slice_masks


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
