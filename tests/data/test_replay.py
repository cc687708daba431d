"""A run that goes on from another: its counters, and the examples that it takes over."""

import shutil

import numpy as np
import pytest

from genre_tf.data.counters import Counters
from genre_tf.data.prepared import read_articles, read_examples
from genre_tf.data.preparing import prepare, read_older, write_older
from genre_tf.errors import InputError

DAY_ONE = [
    "1\tU1\t11/9/2019 9:00:00 AM\tN1 N2\tN3-1 N4-0",
    "2\tU2\t11/9/2019 10:00:00 AM\t\tN3-0 N4-1",
    "3\tU1\t11/9/2019 11:00:00 PM\tN1 N2 N3\tN4-0 N2-1",
    "4\tU3\t11/10/2019 12:30:00 AM\tN2\tN1-1 N5-0 N3-0 N4-0",
]
# Other rows than the day before: N3 has a new title, N4 and N5 are no longer listed.
NEWS = [
    "N6\tweather\train\tRain ends\t\t\t[]\t[]",
    "N3\thealth\tfood\tSoup for spring\t\t\t[]\t[]",
    "N1\tsports\tsoccer\tHome side wins late\tA late goal settled it.\t\t[]\t[]",
]
BEHAVIORS = [
    "1\tU9\t11/11/2019 9:00:00 AM\tN1\tN3-1 N6-0",
    "2\tU1\t11/11/2019 10:00:00 AM\t\tN3-0 N6-1",
    "3\tU3\t11/11/2019 11:00:00 AM\tN3\tN6-1 N1-0",
]


@pytest.fixture
def days(write_split, tmp_path):
    """Two runs, of which only the first is prepared, and the data of the second."""
    prepare(write_split(behaviors=DAY_ONE), tmp_path / "one" / "prepared", validation_share=0.25)
    shutil.rmtree(tmp_path / "data")
    return tmp_path / "one", tmp_path / "two", write_split(news=NEWS, behaviors=BEHAVIORS)


def _prepare_next(one, two, data):
    counters = one / "prepared" / "counters.npz"
    return prepare(data, two / "prepared", validation_share=0.4, counters_from=counters)


def _by_id(example, table):
    rows = (example.history.tolist(), example.candidates.tolist())
    ids = [[table.news_ids[row] for row in each] for each in rows]
    return (example.user_id, example.time_hours, *ids, example.labels.tolist(), example.counters.tolist())


def test_counters_start_where_the_earlier_log_ended(days):
    _, two, data = days
    assert _prepare_next(*days).written and not _prepare_next(*days).written
    example = read_examples(two / "prepared", "train")[0]
    # N3 was shown three times on the day before, clicked once, first at nine o'clock two days ago; N6 is new.
    np.testing.assert_array_equal(example.counters[:, :3], [[1, 3, 48], [0, 0, 0]])
    counters = Counters.load(two / "prepared" / "counters.npz")
    assert counters.views == {"N1": 2, "N2": 1, "N3": 5, "N4": 4, "N5": 1, "N6": 3}
    with pytest.raises(InputError, match="other data or settings"):
        prepare(data, two / "prepared", validation_share=0.4)


def test_a_log_that_is_not_wholly_later_is_refused(days, write_split):
    one, two, _ = days
    at_its_end = ["1\tU9\t11/10/2019 12:30:00 AM\tN1\tN3-1 N6-0", *BEHAVIORS[1:]]
    said = r"begins at 2019-11-10 00:30:00.*ends at 2019-11-10 00:30:00.*begins after"
    with pytest.raises(InputError, match=said):
        _prepare_next(one, two, write_split(news=NEWS, behaviors=at_its_end))
    assert not two.exists()


def test_older_examples_keep_their_articles_in_the_rows_of_the_new_table(days):
    one, two, _ = days
    _prepare_next(*days)
    write_older(two, one, replay_share=0.9, seed=1)
    older, new = read_older(two), read_articles(two / "prepared")
    assert older.table.articles[: len(new)] == new.articles
    assert sorted(older.table.news_ids[len(new) :]) == ["N2", "N4", "N5"]
    known = read_articles(one / "prepared")
    for split, found in (("train", older.train), ("validation", older.validation)):
        expected = [_by_id(example, known) for example in read_examples(one / "prepared", split)]
        assert [_by_id(example, older.table) for example in found] == expected
    numbers = [example.impression for example in (*older.train, *older.validation)]
    assert numbers == [3, 4, 5, 6]
    assert older.unlearned == {older.table.row("N5")}  # shown by the held-out impression alone


def test_the_share_decides_how_many_and_the_seed_which(days):
    one, two, _ = days
    _prepare_next(*days)

    def drawn(share, seed):
        write_older(two, one, share, seed)
        return [example.user_id + str(example.time_hours) for example in read_older(two).train]

    assert drawn(0.0, 1) == []
    draws = {tuple(drawn(1 / 3, seed)) for seed in range(9)}
    assert {len(draw) for draw in draws} == {1} and len(draws) > 1  # to two new ones, one of three older ones
    assert drawn(1 / 3, 4) == drawn(1 / 3, 4)
    with pytest.raises(InputError, match="below 1; got 1"):
        drawn(1.0, 1)


def test_the_third_day_draws_from_both_days_before(days, write_split, tmp_path):
    one, two, _ = days
    _prepare_next(*days)
    write_older(two, one, 0.5, seed=1)
    rows = [row.replace("11/11", "11/12") for row in BEHAVIORS]
    _prepare_next(two, tmp_path / "three", write_split(news=NEWS, behaviors=rows))
    write_older(tmp_path / "three", two, 0.9, seed=1)
    older = read_older(tmp_path / "three")
    days_of = [example.time_hours // 24 for example in older.train]
    assert {day - min(days_of) for day in days_of} == {0, 2}
    assert len(older.train) == 4 and [example.user_id for example in older.validation] == ["U3"]
