"""What could be shown at a moment, and what is drawn from it: never anything of the future."""

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from genre_tf.config import RunConfig
from genre_tf.data.articles import Article, ArticleTable, Impression, Split
from genre_tf.data.click_log import build_examples
from genre_tf.data.columns import ImpressionExample
from genre_tf.data.counters import COUNTERS, Counters, epoch_time
from genre_tf.data.moment_pool import MomentPool, draw_from_pool, moment
from genre_tf.data.prepared import split_by_time
from genre_tf.training.stage_data import StageData

BEGIN = datetime(2025, 3, 3)
DAY = 86_400
FIRST = 20_150 * DAY  # a midnight, in seconds since 1970


def example_of(
    number: int, seconds: int, shown: list[int], clicked: list[int], history: list[int] | None = None
) -> ImpressionExample:
    """An impression whose counters, all 100, tell that they were not looked up in a pool."""
    return ImpressionExample(
        impression=number,
        user_id="U",
        time_hours=seconds / 3600,
        history=np.array(history or [], np.int32),
        candidates=np.array(shown, np.int32),
        labels=np.isin(shown, clicked).astype(np.float32),
        counters=np.full((len(shown), len(COUNTERS)), 100, np.float32),
    )


def test_the_pool_of_a_moment_is_what_is_shown_on_its_day() -> None:
    log = [
        example_of(0, FIRST + 10, [3, 1], [3]),
        example_of(1, FIRST + DAY - 1, [0, 5], [5]),
        example_of(2, FIRST + DAY, [2, 1], []),
    ]
    pool = MomentPool(log, 8)
    for seconds, rows in ((0, [1, 3, 5]), (DAY - 1, [1, 3, 5]), (DAY, [1, 2]), (2 * DAY, []), (-1, [])):
        assert pool.rows(FIRST + seconds).tolist() == rows, "row 0 stands for what nobody knows"
        assert pool.rows(FIRST + seconds).dtype == np.int32


def test_counters_know_what_was_strictly_before_the_moment() -> None:
    hour = 3600
    log = [example_of(n, FIRST + n * hour, [1, 2], [1 + n % 2]) for n in range(3)]
    pool = MomentPool(log, 4, published=np.array([0, FIRST - hour, FIRST, FIRST + 9 * hour]))
    before_any, at_second, later = (pool.before([1, 2, 3], FIRST + n * hour) for n in (0, 1, 2))
    assert not before_any[:, [0, 1, 3, 4, 5, 6, 7, 8]].any()
    assert at_second[:, :3].tolist() == [[1, 1, 2], [0, 1, 1], [0, 0, 0]]
    assert later[:, :3].tolist() == [[1, 2, 3], [1, 2, 2], [0, 0, 0]]
    assert later[0, 3] == 0.25, "clicked two hours before, and halved in each"


def test_the_counters_of_a_pool_are_those_of_the_examples_of_its_log() -> None:
    table, split = random_log()
    examples = build_examples(split, table, Counters())
    pool = MomentPool(examples, len(table), published=table.published)
    for example in examples:
        found = pool.before(example.candidates, moment(example))
        known = example.candidates > 0
        np.testing.assert_array_equal(found[known], example.counters[known])
        assert not found[~known].any()


def test_what_was_known_before_the_log_is_known_in_its_pool() -> None:
    table, split = random_log()
    half = len(split.impressions) // 2
    counters = Counters()
    build_examples(replace(split, impressions=split.impressions[:half]), table, counters)
    earlier = counters.state(table.news_ids)
    examples = build_examples(replace(split, impressions=split.impressions[half:]), table, counters)
    pool = MomentPool(examples, len(table), earlier, table.published)
    for example in examples:
        known = example.candidates > 0
        found = pool.before(example.candidates[known], moment(example))
        np.testing.assert_allclose(found, example.counters[known], rtol=1e-5)


def drawn(example: ImpressionExample, rest: list[int], **options: int):
    """One draw, beside an impression that shows the rest of the pool an hour earlier."""
    log = [example, example_of(9, moment(example) - 3600, rest, rest[:1])]
    settings = {"shown": 2, "drawn": 3, "seed": 1, "most": 99} | options
    return draw_from_pool([example], MomentPool(log, 40), **settings)


def test_a_click_comes_first_then_shown_ones_then_some_of_the_rest() -> None:
    example = example_of(4, FIRST + 7200, [5, 6, 7, 8, 9], [7])
    (one,), (probability,) = drawn(example, list(range(10, 20)))
    assert one.candidates.dtype == np.int32 and len(set(one.candidates.tolist())) == 6
    assert one.candidates[0] == 7 and set(one.candidates[1:3]) < {5, 6, 8, 9}
    assert set(one.candidates[3:]) < set(range(10, 20))
    assert one.labels.tolist() == [1, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(probability, [1, 2 / 4, 2 / 4, 3 / 10, 3 / 10, 3 / 10])
    assert (one.counters[:3] == 100).all(), "those of the impression are taken as they are"
    assert (one.counters[3:, 1] == 1).all(), "shown once, an hour before"
    assert (one.impression, one.user_id, one.time_hours) == (4, "U", example.time_hours)


def test_of_a_part_that_is_smaller_than_wanted_everything_is_taken() -> None:
    (one,), (probability,) = drawn(example_of(0, FIRST + 7200, [5, 6], [5]), [8, 9])
    assert sorted(one.candidates[1:].tolist()) == [6, 8, 9]
    assert probability.tolist() == [1, 1, 1, 1]


def test_without_shown_negatives_these_are_a_part_of_the_rest() -> None:
    (one,), (probability,) = drawn(example_of(0, FIRST + 7200, [5, 6, 7], [5]), [8, 9], shown=0, drawn=9)
    assert sorted(one.candidates.tolist()) == [5, 6, 7, 8, 9] and (probability == 1).all()
    both = drawn(example_of(0, FIRST + 7200, [5, 6, 7], [5]), [8, 9], shown=0, drawn=2)[1][0]
    np.testing.assert_allclose(both, [1, 2 / 4, 2 / 4])


def test_nothing_that_was_clicked_or_read_is_drawn_and_every_click_has_its_row() -> None:
    example = example_of(0, FIRST + 7200, [5, 6, 7, 8, 0], [5, 6, 0], history=[8, 11, 12])
    made, probabilities = drawn(example, [10, 11, 12, 13], shown=9, drawn=9)
    assert [one.candidates[0] for one in made] == [5, 6], "row 0 is an article that nobody knows"
    for one, probability in zip(made, probabilities, strict=True):
        assert sorted(one.candidates[1:].tolist()) == [7, 10, 13], "8 was read before and shown again"
        assert (probability == 1).all()


def test_a_click_with_nothing_beside_it_is_left_out() -> None:
    made, probabilities = drawn(example_of(0, FIRST + 7200, [5], [5], history=[9]), [9])
    assert (len(made), probabilities) == (0, [])


def test_draws_are_even_within_each_part_and_differ_by_seed() -> None:
    example = example_of(0, FIRST + 7200, [5, 6, 7, 8, 9], [7])
    counts = np.zeros(40)
    for seed in range(600):
        np.add.at(counts, drawn(example, list(range(10, 20)), seed=seed)[0][0].candidates, 1 / 600)
    np.testing.assert_allclose(counts[[5, 6, 8, 9]], 2 / 4, atol=0.08)
    np.testing.assert_allclose(counts[10:20], 3 / 10, atol=0.08)
    again = [drawn(example, list(range(10, 20)), seed=3)[0][0].candidates.tolist() for _ in range(2)]
    assert again[0] == again[1]


def test_of_more_clicks_than_wanted_some_are_drawn_in_the_order_of_the_log() -> None:
    log = [example_of(n, FIRST + n, [1, 2, 3], [1, 2]) for n in range(50)]
    made, probabilities = draw_from_pool(log, MomentPool(log, 4), shown=1, drawn=1, seed=2, most=20)
    numbers = [one.impression for one in made]
    assert len(made) == len(probabilities) == 20 and numbers == sorted(numbers)
    assert numbers[-1] > 25, "not the first ones"


def test_a_click_keeps_the_weight_of_its_signals() -> None:
    example = example_of(0, FIRST + 7200, [5, 6, 7], [6])
    example.label_weights = np.array([1, 2.5, 1], np.float32)
    (one,), _ = drawn(example, [8, 9])
    assert one.label_weights is not None and one.label_weights.tolist() == [2.5, 1, 1, 1, 1]


def random_log(days: int = 4, a_day: int = 60) -> tuple[ArticleTable, Split]:
    """Some news of each day, shown on it and the next; histories; unknown articles; moments that coincide."""
    random = np.random.default_rng(7)
    published = [BEGIN + timedelta(hours=float(random.integers(0, 24 * days))) for _ in range(10 * days)]
    news = [
        Article(f"N{n}", "", "", f"title {n}", "", published[n] if n % 3 else None) for n in range(10 * days)
    ]
    impressions = []
    for number in range(days * a_day):
        day = number // a_day
        time = BEGIN + timedelta(days=day, minutes=15 * int(random.integers(0, 96)))
        there = np.arange(max(0, 10 * day - 10), 10 * day + 10)
        shown = [f"N{n}" for n in random.choice(there, random.integers(2, 8), replace=False)]
        shown += ["unknown"] * (number % 9 == 0)
        clicked = tuple((random.random(len(shown)) < 0.3).tolist())
        read = tuple(f"N{n}" for n in random.choice(10 * days, random.integers(0, 4)))
        impressions.append(Impression(str(number), "U", time, read, tuple(shown), clicked))
    impressions.sort(key=lambda one: one.time)
    return ArticleTable(news), Split("train", {one.news_id: one for one in news}, impressions, [])


def turned_round(split: Split, since: datetime) -> Split:
    """The same log up to a moment; from it on each day's impressions last to first, all clicks flipped."""
    later = [one for one in split.impressions if one.time >= since]
    turned = []
    for one in later:
        of_day = [each for each in later if each.time.date() == one.time.date()]
        other = of_day[-1 - of_day.index(one)]
        clicked = tuple(not click for click in other.clicked or ())
        turned.append(replace(one, candidates=other.candidates, clicked=clicked, history=other.history))
    return replace(split, impressions=[one for one in split.impressions if one.time < since] + turned)


@pytest.mark.parametrize("share", [0.15, 0.4, 0.7])
@pytest.mark.parametrize("shown", [3, 0])
def test_the_future_turned_round_changes_nothing_that_training_learns_from(share: float, shown: int) -> None:
    """By the code of the training: what is held out is turned round, and what is learned stays as it was."""
    table, split = random_log()

    def stage_data(log: Split) -> StageData:
        train, validation = split_by_time(build_examples(log, table, Counters()), share)
        return StageData(table, train, validation, None, RunConfig(), Path())  # type: ignore[arg-type]

    data = stage_data(split)
    since = epoch_time(min(moment(one) for one in data.validation))
    assert (since - BEGIN).total_seconds() % DAY > 0, "within a day, so that its pool is known in part"
    other = stage_data(turned_round(split, since))
    assert [one.impression for one in other.train] == [one.impression for one in data.train]
    assert all(
        not np.array_equal(one.labels, two.labels)
        for one, two in zip(data.validation, other.validation, strict=True)
    )
    for one, two in zip(data.train, other.train, strict=True):
        np.testing.assert_array_equal(one.counters, two.counters)
        rows = data.pool.rows(moment(one))
        np.testing.assert_array_equal(rows, other.pool.rows(moment(two)))
        found = (each.pool.before(rows, moment(one)) for each in (data, other))
        np.testing.assert_array_equal(*found)
    draws = [
        draw_from_pool(each.train, each.pool, shown=shown, drawn=6, seed=5, most=80) for each in (data, other)
    ]
    (made, probabilities), (made_again, probabilities_again) = draws
    assert len(made) == len(made_again) > 40
    for one, two in zip(made, made_again, strict=True):
        for name in ("history", "candidates", "labels", "counters"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    for one, two in zip(probabilities, probabilities_again, strict=True):
        np.testing.assert_array_equal(one, two)
    newest = max(moment(one) for one in data.validation)
    rows = data.pool.rows(newest)
    assert (data.pool.before(rows, newest) != other.pool.before(rows, newest)).any(), "the log did change"
