"""A batch holds every article once, and draws negatives from what the reader was shown and did not click."""

import numpy as np
import pytest

from genre_tf.data.batches import impression_batches
from genre_tf.data.columns import ImpressionExample
from genre_tf.errors import InputError


def example(number: int, history: list[int], candidates: list[int], clicked: list[int]) -> ImpressionExample:
    rows = np.asarray(candidates, np.int32)
    return ImpressionExample(
        impression=number,
        user_id=f"U{number}",
        time_hours=float(number),
        history=np.asarray(history, np.int32),
        candidates=rows,
        labels=np.isin(rows, clicked).astype(np.float32),
        counters=np.stack([rows * scale for scale in range(1, 10)], 1).astype(np.float32).reshape(-1, 9),
    )


def random_examples(count: int = 40, seed: int = 0) -> list[ImpressionExample]:
    rng = np.random.default_rng(seed)
    examples = []
    for number in range(count):
        shown = rng.choice(60, rng.integers(2, 15), replace=False) + 1
        clicked = rng.choice(shown, rng.integers(1, len(shown)), replace=False)
        history = rng.integers(1, 61, rng.integers(0, 9))
        examples.append(example(number, history.tolist(), shown.tolist(), clicked.tolist()))
    return examples


def epoch(dataset):
    return [{name: value.numpy() for name, value in batch.items()} for batch in dataset]


def same(left, right) -> bool:
    return len(left) == len(right) and all(
        np.array_equal(one[name], other[name]) for one, other in zip(left, right, strict=True) for name in one
    )


def rows_of(batches):
    """Each row as (impression, history rows, candidate rows, labels), without padding."""
    for batch in batches:
        for row, number in enumerate(batch["impression"]):
            history = batch["history"][row]
            mask = batch["mask"][row]
            yield (
                int(number),
                batch["articles"][history[history > 0]].tolist(),
                batch["articles"][batch["candidates"][row][mask]].tolist(),
                batch["labels"][row][mask].tolist(),
            )


@pytest.mark.parametrize("negatives", [None, 3])
def test_no_article_stands_twice_in_a_batch_and_the_first_is_the_padding(negatives):
    for batch in epoch(impression_batches(random_examples(), batch_size=8, negatives=negatives, seed=1)):
        articles = batch["articles"]
        assert articles[0] == 0
        assert len(np.unique(articles)) == len(articles)
        used = np.union1d(batch["history"], batch["candidates"])
        assert np.array_equal(np.union1d(used, [0]), np.arange(len(articles)))


def test_every_impression_comes_back_whole():
    examples = random_examples()
    batches = epoch(impression_batches(examples, batch_size=7))
    back = list(rows_of(batches))
    assert [row[0] for row in back] == list(range(40))
    for one, (_, history, candidates, labels) in zip(examples, back, strict=True):
        assert history == one.history.tolist()
        assert candidates == one.candidates.tolist()
        assert labels == one.labels.tolist()


@pytest.mark.parametrize("negatives", [None, 3])
def test_more_columns_stay_with_their_candidates(negatives):
    examples = random_examples()
    columns = {"row": [np.stack([one.candidates, -one.candidates], 1).astype(np.float32) for one in examples]}
    options = {"batch_size": 8, "negatives": negatives, "seed": 1, "shuffle": True}
    for batch in epoch(impression_batches(examples, columns=columns, **options)):
        rows = np.where(batch["mask"], batch["articles"][batch["candidates"]], 0)
        assert batch["row"].dtype == np.float32
        np.testing.assert_array_equal(batch["row"], np.stack([rows, -rows], -1))


def test_shapes_and_types_are_as_promised():
    batch = next(iter(impression_batches(random_examples(), batch_size=8)))
    rows, columns = batch["candidates"].shape
    kinds = {name: value.dtype.name for name, value in batch.items()}
    assert kinds == {
        "articles": "int32",
        "history": "int32",
        "candidates": "int32",
        "labels": "float32",
        "mask": "bool",
        "counters": "float32",
        "impression": "int64",
    }
    assert rows == 8
    assert batch["labels"].shape == batch["mask"].shape == (rows, columns)
    assert batch["counters"].shape == (rows, columns, 9)


def test_counters_go_with_their_candidates():
    for negatives in (None, 3):
        batches = epoch(impression_batches(random_examples(), batch_size=8, negatives=negatives, seed=1))
        for batch in batches:
            rows = batch["articles"][batch["candidates"]]
            assert np.array_equal(batch["counters"][..., 1], rows * 2 * batch["mask"])


def test_padding_is_on_the_right_and_marked():
    examples = [example(0, [5], [1, 2, 3], [1]), example(1, [6, 7, 8], [4, 9], [4])]
    batch = epoch(impression_batches(examples, batch_size=2))[0]
    assert (batch["history"] > 0).tolist() == [[True, False, False], [True, True, True]]
    assert batch["mask"].tolist() == [[True, True, True], [True, True, False]]
    assert batch["labels"].tolist() == [[1, 0, 0], [1, 0, 0]]


def test_the_newest_history_is_kept_oldest_first():
    examples = [example(0, [5, 6, 7, 8], [1, 2], [1])]
    for max_history, kept in ((4, [5, 6, 7, 8]), (2, [7, 8]), (0, [])):
        batches = epoch(impression_batches(examples, batch_size=1, max_history=max_history))
        assert next(rows_of(batches))[1] == kept


@pytest.mark.parametrize("negatives", [None, 1])
def test_readers_without_history_are_kept(negatives):
    examples = [example(0, [], [1, 2], [1]), example(1, [], [3, 4], [4])]
    batch = epoch(impression_batches(examples, batch_size=2, negatives=negatives))[0]
    assert batch["impression"].tolist() == [0, 1]
    assert batch["history"].shape == (2, 0)


def test_an_unknown_candidate_is_real_and_points_at_the_padding_article():
    batch = epoch(impression_batches([example(0, [1], [0, 2], [2])], batch_size=1))[0]
    assert batch["candidates"][0].tolist()[0] == 0
    assert batch["mask"].all()


def test_a_row_is_a_click_and_then_shown_articles_that_were_not_clicked():
    examples = random_examples()
    clicks = sum(int(one.labels.sum()) for one in examples)
    rows = list(rows_of(epoch(impression_batches(examples, batch_size=8, negatives=3, seed=2, shuffle=True))))
    assert len(rows) == clicks
    for number, _, candidates, labels in rows:
        one = examples[number]
        clicked = one.candidates[one.labels == 1].tolist()
        refused = one.candidates[one.labels == 0].tolist()
        assert labels == [1, 0, 0, 0]
        assert candidates[0] in clicked
        assert set(candidates[1:]) <= set(refused)
        assert len(set(candidates[1:])) == min(3, len(refused))
    seen = sorted((number, candidates[0]) for number, _, candidates, _ in rows)
    assert seen == sorted(
        (one.impression, row) for one in examples for row in one.candidates[one.labels == 1].tolist()
    )


def test_every_shown_article_is_drawn_about_equally_often():
    examples = [example(0, [1], [2, 3, 4, 5, 6, 7], [4])]
    batches = impression_batches(examples, batch_size=1, negatives=2, seed=5, repeat=True).take(600)
    drawn = [row for _, _, candidates, _ in rows_of(epoch(batches)) for row in candidates[1:]]
    counts = np.bincount(drawn, minlength=8)
    assert counts[4] == 0
    assert (np.abs(counts[[2, 3, 5, 6, 7]] - 240) < 60).all()


def test_impressions_without_a_click_or_without_a_negative_are_left_out_where_negatives_are_drawn():
    examples = [
        example(0, [1], [2, 3], [2, 3]),
        example(1, [1], [2, 3], []),
        example(2, [1], [2, 3], [3]),
    ]
    assert [row[0] for row in rows_of(epoch(impression_batches(examples, batch_size=2, negatives=1)))] == [2]
    with pytest.raises(InputError, match="nothing to learn from"):
        impression_batches(examples[:2], batch_size=2, negatives=1)
    with pytest.raises(InputError, match="nothing to learn from"):
        impression_batches([], batch_size=2)


def test_the_same_seed_gives_the_same_epochs_one_after_another():
    options = {"batch_size": 8, "negatives": 2, "shuffle": True}
    one = impression_batches(random_examples(), seed=3, **options)
    two = impression_batches(random_examples(), seed=3, **options)
    for _ in range(3):
        assert same(epoch(one), epoch(two))
    assert not same(epoch(impression_batches(random_examples(), seed=4, **options)), epoch(two))


def test_each_epoch_has_another_order_and_other_negatives():
    dataset = impression_batches(random_examples(), batch_size=8, negatives=2, seed=3)
    first, second = epoch(dataset), epoch(dataset)
    assert [batch["impression"].tolist() for batch in first] == [b["impression"].tolist() for b in second]
    assert not same(first, second)
    dataset = impression_batches(random_examples(), batch_size=8, seed=3, shuffle=True)
    first, second = epoch(dataset), epoch(dataset)
    assert [batch["impression"].tolist() for batch in first] != [b["impression"].tolist() for b in second]
    assert sorted(row[0] for row in rows_of(first)) == sorted(row[0] for row in rows_of(second))


def test_repeating_goes_through_the_same_epochs():
    options = {"batch_size": 8, "negatives": 2, "seed": 3, "shuffle": True}
    once = impression_batches(random_examples(), **options)
    first, second = epoch(once), epoch(once)
    endless = epoch(impression_batches(random_examples(), repeat=True, **options).take(2 * len(first)))
    assert same(endless[: len(first)], first)
    assert same(endless[len(first) :], second)


def test_a_last_batch_that_is_not_full_can_be_left_out():
    whole = epoch(impression_batches(random_examples(), batch_size=16))
    cut = epoch(impression_batches(random_examples(), batch_size=16, drop_remainder=True))
    assert [len(batch["impression"]) for batch in whole] == [16, 16, 8]
    assert [len(batch["impression"]) for batch in cut] == [16, 16]
