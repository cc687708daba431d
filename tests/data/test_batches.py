"""A batch holds every article once, and draws negatives from what the reader was shown and did not click.

Parts of a batch are together the batch; a fixed shape holds the same rows, or leaves out by its rule.
"""

from dataclasses import replace
from functools import partial
from itertools import chain

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.data.batches import BatchLayout, FixedShape, impression_batches
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


def random_examples(
    count: int = 40, seed: int = 0, shown: int = 15, read: int = 9
) -> list[ImpressionExample]:
    rng = np.random.default_rng(seed)
    examples = []
    for number in range(count):
        rows = rng.choice(60, rng.integers(2, shown), replace=False) + 1
        clicked = rng.choice(rows, rng.integers(1, len(rows)), replace=False)
        history = rng.integers(1, 61, rng.integers(0, read))
        examples.append(example(number, history.tolist(), rows.tolist(), clicked.tolist()))
    return examples


short_examples = partial(random_examples, shown=9, read=7)


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


def rows_with_counters(batch):
    """Each row as (impression, history, candidates, labels, counters), as article rows without padding."""
    batch = {name: value.numpy() for name, value in batch.items()}
    rows = []
    for row, number in enumerate(batch["impression"]):
        history, mask = batch["history"][row], batch["mask"][row]
        shown = batch["candidates"][row][mask]
        rows.append(
            (
                int(number),
                batch["articles"][history[history > 0]].tolist(),
                batch["articles"][shown].tolist(),
                batch["labels"][row][mask].tolist(),
                batch["counters"][row][mask].tolist(),
            )
        )
    return rows


def weighted(example):
    """As the example of a log with signals: every click weighs by its article."""
    clicked = example.labels > 0
    return replace(
        example,
        history_weights=1 + example.history.astype(np.float32),
        label_weights=np.where(clicked, 1 + example.candidates.astype(np.float32), np.float32(1)),
    )


def follow_their_clicks(batch):
    """Whether weights stand where the articles do that they were made of, and 1 everywhere else."""
    batch = {name: value.numpy() for name, value in batch.items()}
    read, shown = batch["articles"][batch["history"]], batch["articles"][batch["candidates"]]
    return np.array_equal(batch["history_weights"], 1 + read) and np.array_equal(
        batch["label_weights"], np.where(batch["labels"] > 0, 1 + shown, 1)
    )


def joined(parts, count):
    return [list(chain(*parts[start : start + count])) for start in range(0, len(parts), count)]


def batches(layout=None, size=8, count=25, **options):
    options = {"seed": 3, "shuffle": True, **options} | ({"layout": layout} if layout else {})
    return impression_batches(short_examples(count), batch_size=size, **options)


@pytest.mark.parametrize("negatives", [None, 3])
def test_the_parts_of_a_batch_are_together_the_batch(negatives):
    layout = BatchLayout(parts=3, wanted=(0, 1, 2))
    whole = [rows_with_counters(batch) for batch in batches(negatives=negatives)]
    parts = [rows_with_counters(batch) for batch in batches(layout, negatives=negatives)]
    assert joined(parts, 3) == whole
    assert {len(part) for part in parts[:3]} == {2, 3}


def test_each_pipeline_makes_its_own_parts_with_their_own_articles():
    both = list(batches(BatchLayout(parts=2, wanted=(0, 1))))
    second = list(batches(BatchLayout(parts=2, wanted=(1,))))
    assert [rows_with_counters(batch) for batch in second] == [
        rows_with_counters(batch) for batch in both[1::2]
    ]
    for batch in second:
        used = np.union1d(batch["history"], batch["candidates"])
        assert np.array_equal(np.union1d(used, [0]), np.arange(len(batch["articles"])))


def test_a_last_batch_may_leave_parts_without_rows():
    parts = list(batches(BatchLayout(parts=2, wanted=(0, 1))))
    assert [len(rows_with_counters(part)) for part in parts[-2:]] == [0, 1]


@pytest.mark.parametrize("negatives", [None, 3])
def test_a_fixed_shape_in_which_all_fits_holds_the_same_rows(negatives):
    fixed = FixedShape.of(8, 50, 4 if negatives else 8, 61)
    dataset = batches(BatchLayout(fixed=fixed), negatives=negatives)
    assert all(spec.shape.is_fully_defined() for spec in dataset.element_spec.values())
    shapes = {name: tuple(spec.shape) for name, spec in dataset.element_spec.items()}
    assert shapes["articles"] == (61,) and shapes["history"] == (8, 50)
    assert shapes["counters"] == (8, fixed.candidates, 9)
    loose = batches(negatives=negatives, drop_remainder=True)
    found = [rows_with_counters(batch) for batch in dataset]
    assert found == [rows_with_counters(batch) for batch in loose] and len(found) >= 3


def test_the_parts_of_a_fixed_shape_are_equal_and_together_the_batch():
    layout = BatchLayout(parts=2, wanted=(0, 1), fixed=FixedShape.of(4, 50, 8, 61))
    parts = [rows_with_counters(batch) for batch in batches(layout)]
    whole = [rows_with_counters(batch) for batch in batches(drop_remainder=True)]
    assert joined(parts, 2) == whole


def test_the_shape_of_batches_without_end_is_known_to_have_none():
    dataset = batches(BatchLayout(parts=2, wanted=(0, 1)), repeat=True)
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY


def test_clicks_on_articles_that_do_not_fit_are_left_out_oldest_first():
    logs = [example(0, [5, 6, 7], [1, 2], [1]), example(1, [8, 9], [3, 1], [3])]
    kept = {
        9: ([5, 6, 7], [8, 9]),  # padding, three candidates, five clicks
        8: ([6, 7], [8, 9]),
        7: ([6, 7], [9]),
        5: ([7], []),
        4: ([], []),
    }
    for articles, histories in kept.items():
        layout = BatchLayout(fixed=FixedShape(candidates=2, articles=articles))
        (batch,) = impression_batches(logs, batch_size=2, max_history=3, layout=layout)
        assert len(batch["articles"]) == articles
        assert tuple(row[1] for row in rows_with_counters(batch)) == histories
        assert [row[2] for row in rows_with_counters(batch)] == [[1, 2], [3, 1]]


def test_of_too_many_candidates_the_clicked_ones_stay_and_others_are_drawn():
    layout = BatchLayout(fixed=FixedShape(candidates=4, articles=50))
    logs = [example(0, [], list(range(1, 11)), [3, 8]), example(1, [], [1, 2], [2])]
    drawn = set()
    for batch in impression_batches(logs, batch_size=2, seed=1, repeat=True, layout=layout).take(40):
        long, short = rows_with_counters(batch)
        assert len(long[2]) == 4 and {3, 8} < set(long[2]) and sorted(long[2]) == long[2]
        assert long[3] == [float(row in (3, 8)) for row in long[2]]
        assert long[4] == [[row * scale for scale in range(1, 10)] for row in long[2]]
        assert short[2:4] == ([1, 2], [0, 1])
        drawn |= set(long[2])
    assert drawn == set(range(1, 11))


@pytest.mark.parametrize(
    ("layout", "negatives"),
    [
        (BatchLayout(), 3),
        (BatchLayout(parts=2, wanted=(0, 1)), None),
        (BatchLayout(parts=2, wanted=(1,), fixed=FixedShape(candidates=5, articles=36)), None),  # not for all
    ],
)
def test_weights_go_with_their_clicks(layout, negatives):
    options = {"batch_size": 8, "max_history": 4, "negatives": negatives, "seed": 3, "layout": layout}
    logs = [weighted(one) for one in short_examples(25)]
    found = list(impression_batches(logs, **options))
    assert found and all(follow_their_clicks(batch) for batch in found)
    assert any((batch["history_weights"].numpy() > 1).any() for batch in found)
    plain = list(impression_batches(short_examples(25), **options))
    for left, right, bare in zip(
        found, plain, impression_batches(logs, weighted=False, **options), strict=True
    ):
        assert left.keys() - right.keys() == {"history_weights", "label_weights"}
        assert bare.keys() == right.keys()
        assert all(np.array_equal(left[name], right[name]) for name in right)
        assert all(np.array_equal(bare[name], right[name]) for name in right)


def test_beside_logs_with_signals_others_weigh_one():
    first, second = short_examples(2)
    (batch,) = impression_batches([weighted(first), second], batch_size=2)
    assert (batch["label_weights"].numpy()[0] > 1).any() and (batch["label_weights"].numpy()[1] == 1).all()
    assert (batch["history_weights"].numpy()[1] == 1).all()


def test_what_cannot_be_fixed_is_said_with_the_remedy():
    fixed = FixedShape.of(4, 50, 8, 61)
    with pytest.raises(InputError, match=r"9 rows cannot be cut into 2 equal parts.*--batch-size"):
        batches(BatchLayout(parts=2, fixed=fixed), size=9)
    with pytest.raises(InputError, match=r"25 rows are less than one batch of 32.*--batch-size"):
        batches(BatchLayout(fixed=fixed), size=32)
    with pytest.raises(InputError, match="give at least 33"):
        FixedShape.of(4, 50, 8, 61, articles=20)
