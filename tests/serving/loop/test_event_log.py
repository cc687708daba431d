"""Events of the app as a log in MIND's format."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from genre_tf.data.articles import Article
from genre_tf.data.checking import check_data
from genre_tf.data.mind import read_split
from genre_tf.errors import InputError
from genre_tf.serving.app.observing import hashed
from genre_tf.serving.app.storage import Store
from genre_tf.serving.loop.event_log import (
    count_impressions,
    first_hour,
    last_full_hour,
    newest_hour,
    write_log,
)

from .conftest import HOUR, event, impression

START = 1_800_000_000 // HOUR * HOUR
ARTICLES = {
    name: Article(name, "news", "", f"Title\tof {name}", "An\nabstract", withdrawn=name == "N3")
    for name in ("N1", "N2", "N3")
}


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    store = Store(database)
    yield store
    store.close()


def filled(store: Store) -> None:
    impression(store, "i1", "Ann", START + 10, ["N1", "N2"])
    event(store, "Ann", "click", "N2", START + 20, "i1")
    event(store, "Ann", "click", "N2", START + 25, "i1")  # twice is once
    event(store, "Ann", "dwell", "N2", START + 60, "i1", seconds=35.5)
    event(store, "Ann", "dwell", "N2", START + 70, "i1", seconds=4.5)
    event(store, "Ann", "share", "N2", START + 80, "i1")
    event(store, "Ann", "dwell", "N1", START + 80, "i1", seconds=9.0)  # without a click: no signal
    event(store, "Ann", "click", "N3", START + 90)  # from a search page: history alone
    event(store, "Bob", "click", "N1", START + 30, "i1")  # of another reader: nobody saw it there
    impression(store, "i2", "Ann", START + HOUR + 5, ["N1", "gone", "N3"])
    impression(store, "i3", "Bob", START + HOUR + 1, ["gone"])
    impression(store, "i4", "Bob", START + 2 * HOUR, ["N1"])  # after the last hour
    event(store, "Ann", "click", "N1", START + 2 * HOUR + 1, "i2")  # late, and counts


def test_rows_have_the_history_before_them_and_what_followed(store: Store, tmp_path: Path) -> None:
    filled(store)
    found = write_log(store, ARTICLES, tmp_path, START, START + 2 * HOUR)
    assert check_data(tmp_path).passed
    first = read_split(tmp_path, "train").impressions
    second = read_split(tmp_path, "dev").impressions

    assert [(row.candidates, row.clicked, row.history) for row in first] == [
        (("N1", "N2"), (False, True), ())
    ]
    assert [signal[:] for signal in first[0].signals] == [("N2", 40.0, 0.0, 1.0)]
    assert [(row.candidates, row.clicked, row.history) for row in second] == [
        (("N1", "N3"), (True, False), ("N2", "N3"))
    ]
    assert {row.user_id for row in (*first, *second)} == {hashed("Ann", store.salt)}
    assert (found.impressions, found.impressions_newest, found.clicks, found.readers, found.skipped) == (
        2, 1, 2, 1, 1,
    )  # fmt: skip
    assert found.newest_from == START + HOUR
    articles = read_split(tmp_path, "dev").articles
    assert {name: one.withdrawn for name, one in articles.items()} == {"N1": False, "N2": False, "N3": True}
    assert articles["N1"].title == "Title of N1" and articles["N1"].abstract == "An abstract"


def test_an_erased_reader_is_not_in_the_log(store: Store, tmp_path: Path) -> None:
    filled(store)
    for table in ("events", "impressions"):
        store.write(
            lambda writes, table=table: writes.run(f"DELETE FROM {table} WHERE reader = 'Ann'")
        ).result()
    for number, at in (("i5", START + 5), ("i6", START + HOUR + 5)):
        impression(store, number, "Bob", at, ["N1"])
        event(store, "Bob", "click", "N1", at + 5, number)
    write_log(store, ARTICLES, tmp_path, START, START + 3 * HOUR)
    rows = [*read_split(tmp_path, "train").impressions, *read_split(tmp_path, "dev").impressions]

    assert {row.user_id for row in rows} == {hashed("Bob", store.salt)}


def test_hours_are_counted_once_they_are_complete(store: Store) -> None:
    assert first_hour(store) is None
    filled(store)

    assert first_hour(store) == START
    assert count_impressions(store, START, START + HOUR) == 1  # i2 and i3 come later
    assert count_impressions(store, START, START + 2 * HOUR) == 2
    assert last_full_hour(START + HOUR + 599) == START
    assert last_full_hour(START + HOUR + 600) == START + HOUR


def test_a_hidden_article_is_not_clicked_and_every_article_is_in_the_news(
    store: Store, tmp_path: Path
) -> None:
    filled(store)
    event(store, "Ann", "hide", "N2", START + 100)  # without its impression: the app shows it to nobody again
    event(store, "Bob", "hide", "N1", START + 100)
    event(store, "Ann", "click", "N1", START + 110, "i1")
    more = {**ARTICLES, "N4": Article("N4", "news", "", "Nobody saw it", "")}
    write_log(store, more, tmp_path, START, START + 2 * HOUR)
    train = read_split(tmp_path, "train")

    assert [row.clicked for row in train.impressions] == [(True, False)]
    assert train.impressions[0].signals == (("N1", 9.0, 0.0, 0.0),), "none of what was hidden"
    assert list(train.articles) == ["N1", "N2", "N3", "N4"]
    assert "N4" not in read_split(tmp_path, "dev").articles


@pytest.mark.parametrize(
    ("hours", "newest"),
    [
        ([0, 1], 1),
        (range(30), 27),  # a tenth
        (range(1000), 976),  # a tenth is more than a day
        ([0, 1, 2], 2),
        (range(100), 90),
    ],
)
def test_the_newest_tenth_of_the_hours_is_at_least_one_and_at_most_a_day(hours, newest: int) -> None:
    found = newest_hour([START + hour * HOUR for hour in hours], START + (max(hours) + 1) * HOUR)
    assert (found - START) // HOUR == newest


def test_one_hour_is_too_little(store: Store, tmp_path: Path) -> None:
    filled(store)
    with pytest.raises(InputError, match="clicks of 1 hours: two are needed"):
        write_log(store, ARTICLES, tmp_path, START, START + HOUR)
