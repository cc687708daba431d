"""Counters know what happened strictly before an impression, and nothing else."""

import io
import random
from datetime import datetime, timedelta

import numpy as np
import pytest

from genre_tf.data.articles import Article, ArticleTable, Impression
from genre_tf.data.click_log import block_of
from genre_tf.data.columns import ImpressionColumns
from genre_tf.data.counters import Counters, count_log
from genre_tf.data.mind import read_split
from genre_tf.errors import InputError

NINE = datetime(2019, 11, 9, 9)


def impression(hours: float, candidates: str, clicked: str | None = "") -> Impression:
    ids = tuple(candidates)
    flags = None if clicked is None else tuple(news_id in clicked for news_id in ids)
    return Impression("i", "u", NINE + timedelta(hours=hours), (), ids, flags)


def counted(log: list[Impression], counters: Counters) -> list[np.ndarray]:
    """The counters of each impression; `counters` then include the log."""
    named = dict.fromkeys(news_id for one in log for news_id in one.candidates)
    table = ArticleTable(Article(news_id, "", "", news_id, "") for news_id in named)
    columns = ImpressionColumns([block_of(log, table, 50)])
    count_log(columns, table, counters)
    return [one.counters for one in columns]


def test_an_impression_does_not_know_itself():
    assert counted([impression(0, "ab", "a")], Counters())[0].tolist() == [[0] * 9] * 2


def test_an_impression_knows_clicks_views_and_age_from_before():
    log = [impression(0, "ab", "a"), impression(2, "abc", "a"), impression(5, "abcd", "d")]
    known = counted(log, Counters())[2]
    assert known[:, :3].tolist() == [[2, 2, 5], [0, 2, 5], [0, 1, 3], [0, 0, 0]]
    halved = [0.5 ** (5 / hours) + 0.5 ** (3 / hours) for hours in (1, 6, 24)]
    np.testing.assert_allclose(known[0, 3:], [*halved, *halved], rtol=1e-6)
    np.testing.assert_allclose(known[1, 3:], [0, 0, 0, *halved], rtol=1e-6)


def test_the_age_is_counted_from_publishing_where_it_is_known():
    counters = Counters()
    times = {"a": -2, "b": 3, "c": 20, "d": None}
    counters.publish(
        Article(name, "", "", "", "", None if hours is None else NINE + timedelta(hours=hours))
        for name, hours in times.items()
    )
    # Shown before it was published, as clocks differ: that view is older.
    log = [impression(1, "bd"), impression(4, "abcd"), impression(8, "abcd")]
    first, second, third = (known[:, 2].tolist() for known in counted(log, counters))
    assert (first, second, third) == ([0, 0], [6, 3, 0, 3], [10, 7, 4, 7])
    ages = counters.features(list("abcdx"), NINE + timedelta(hours=30))[:, 2]
    assert ages.tolist() == [32, 29, 26, 29, 0]


def test_an_article_that_was_published_and_never_shown_has_an_age_alone(tmp_path):
    counters = Counters()
    counters.publish([Article("a", "", "", "", "", NINE)])
    counters.save(tmp_path / "one.npz")
    for known in (counters, Counters.load(tmp_path / "one.npz")):
        assert known.features("a", NINE + timedelta(hours=3)).tolist() == [[0, 0, 3, 0, 0, 0, 0, 0, 0]]
        assert known.views == {}


def test_observing_in_any_order_counts_what_a_log_counts():
    rng = random.Random(6)
    log = [impression(rng.randrange(40) / 4, rng.sample("abcdef", 3), "ab") for _ in range(200)]
    counters, observed = Counters(), Counters()
    counted(log, counters)
    for number, seen in enumerate(log):
        observed.observe(seen)
        if number % 50 == 0:
            assert sum(observed.views.values()) == 3 * (number + 1)
    end = NINE + timedelta(hours=12)
    np.testing.assert_allclose(
        observed.features("abcdefx", end), counters.features("abcdefx", end), rtol=1e-6
    )
    assert (observed.clicks, observed.views, observed.newest) == (
        counters.clicks,
        counters.views,
        counters.newest,
    )
    last = counted([*log, impression(12, "abcdef")], Counters())[-1]
    np.testing.assert_allclose(observed.features("abcdef", end), last, rtol=1e-5)


def test_a_copy_learns_by_itself():
    counters = Counters()
    counters.observe(impression(0, "a", "a"))
    copy = counters.copy()
    copy.observe(impression(1, "ab", "b"))
    assert (counters.views, copy.views, counters.newest) == ({"a": 1}, {"a": 2, "b": 1}, NINE)


@pytest.mark.parametrize("kept", [{}, {"format": np.int64(99)}])
def test_counters_of_another_version_are_to_be_made_again(tmp_path, kept):
    Counters().save(tmp_path / "one.npz")
    with np.load(tmp_path / "one.npz") as arrays:
        older = {name: array for name, array in arrays.items() if name != "format"}
    np.savez(tmp_path / "one.npz", **older, **kept)
    with pytest.raises(InputError, match="another version; run `genre prepare` again"):
        Counters.load(tmp_path / "one.npz")


def test_impressions_of_the_same_moment_do_not_know_each_other():
    log = [impression(1, "a", "a"), impression(1, "a", "a"), impression(1, "ab", "b")]
    for known in counted(log, Counters()):
        assert not known.any()


def test_the_order_of_the_log_does_not_matter_and_the_answer_keeps_it():
    log = [impression(hour, "abc"[: 1 + hour % 3], "a") for hour in range(10)]
    in_order = counted(log, Counters())
    numbers = list(range(10))
    random.Random(1).shuffle(numbers)
    shuffled = counted([log[number] for number in numbers], Counters())
    for number, known in zip(numbers, shuffled, strict=True):
        np.testing.assert_array_equal(known, in_order[number])


def test_changing_the_future_changes_nothing(mind_sample):
    log = sorted(read_split(mind_sample, "train").impressions[:600], key=lambda seen: seen.time)
    whole = counted(log, Counters())
    rng = random.Random(3)
    for last in (1, 50, 300):
        now = log[last].time
        past = [seen for seen in log if seen.time < now]
        future = [impression(10_000 + number, "xyz", "x") for number in range(5)]
        spoilt = counted([*past, log[last], *rng.sample(future, 5)], Counters())
        np.testing.assert_array_equal(spoilt[len(past)], whole[last])


def test_counts_agree_with_counting_by_hand(mind_sample):
    log = read_split(mind_sample, "train").impressions[:400]
    known = counted(log, Counters())
    for number in (7, 200, 399):
        seen = log[number]
        past = [other for other in log if other.time < seen.time]
        for place, news_id in enumerate(seen.candidates):
            shown = [other for other in past if news_id in other.candidates]
            clicks = sum(other.clicked[other.candidates.index(news_id)] for other in shown)
            oldest = min((other.time for other in shown), default=seen.time)
            age = (seen.time - oldest).total_seconds() / 3600
            assert known[number][place, :3] == pytest.approx([clicks, len(shown), age], rel=1e-6)


def test_a_log_without_labels_adds_views_only():
    counters = Counters()
    known = counted([impression(0, "ab", None), impression(1, "ab", None)], counters)
    assert known[1][:, :4].tolist() == [[0, 1, 1, 0], [0, 1, 1, 0]]
    assert known[1][:, 6].tolist() == [0.5, 0.5]
    assert counters.clicks == {}


def test_a_second_log_goes_on_from_the_first():
    counters = Counters()
    counted([impression(0, "a", "a")], counters)
    assert counted([impression(24, "a", "a")], counters)[0][:, :3].tolist() == [[1, 1, 24]]
    known = counted([impression(30, "a", "a")], counters)[0][0]
    np.testing.assert_allclose(known[[4, 7]], 0.5**5 + 0.5, rtol=1e-6)


@pytest.mark.parametrize("hours", [0, 4, 5])
def test_asking_about_a_moment_that_is_not_later_is_refused(hours):
    counters = Counters()
    counted([impression(0, "a", "a"), impression(5, "a", "a")], counters)
    with pytest.raises(InputError, match="look into the future"):
        counters.features(["a"], NINE + timedelta(hours=hours))
    with pytest.raises(InputError, match="look into the future"):
        counted([impression(hours, "a", "a")], counters)


def test_counters_are_read_back_as_they_were_saved(tmp_path):
    counters = Counters()
    counted([impression(0, "aé北", "a"), impression(2, "b", None)], counters)
    counters.save(tmp_path / "one.npz")
    again = Counters.load(tmp_path / "one.npz")
    assert again == counters != Counters()
    again.save(tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_empty_counters_are_read_back(tmp_path):
    Counters().save(tmp_path / "none.npz")
    assert Counters.load(tmp_path / "none.npz") == Counters()


def test_no_candidates_are_no_rows():
    assert Counters().features([], NINE).shape == (0, 9)


def array_file() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.arange(3))
    return stream.getvalue()


@pytest.mark.parametrize("content", [None, b"", b"not an archive", b"PK\x03\x04 cut", "array"])
def test_a_file_without_counters_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "counters.npz").write_bytes(array_file() if content == "array" else content)
    with pytest.raises(InputError, match="holds no counters"):
        Counters.load(tmp_path / "counters.npz")
