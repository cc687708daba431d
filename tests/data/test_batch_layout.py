"""Parts of a batch are together the batch; a fixed shape holds the same rows, or leaves out by its rule."""

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.data.batch_layout import BatchLayout, FixedShape
from genre_tf.data.batches import impression_batches
from genre_tf.data.columns import ImpressionExample
from genre_tf.errors import InputError


def example(number, history, candidates, clicked):
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


def examples(count=25):
    random = np.random.default_rng(0)
    found = []
    for number in range(count):
        shown = random.choice(60, random.integers(2, 9), replace=False) + 1
        clicked = random.choice(shown, random.integers(1, len(shown)), replace=False)
        read = random.integers(1, 61, random.integers(0, 7))
        found.append(example(number, read.tolist(), shown.tolist(), clicked.tolist()))
    return found


def rows_of(batch):
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
    return impression_batches(examples(count), batch_size=size, **options)


@pytest.mark.parametrize("negatives", [None, 3])
def test_the_parts_of_a_batch_are_together_the_batch(negatives):
    layout = BatchLayout(parts=3, wanted=(0, 1, 2))
    whole = [rows_of(batch) for batch in batches(negatives=negatives)]
    parts = [rows_of(batch) for batch in batches(layout, negatives=negatives)]
    assert joined(parts, 3) == whole
    assert {len(part) for part in parts[:3]} == {2, 3}


def test_each_pipeline_makes_its_own_parts_with_their_own_articles():
    both = list(batches(BatchLayout(parts=2, wanted=(0, 1))))
    second = list(batches(BatchLayout(parts=2, wanted=(1,))))
    assert [rows_of(batch) for batch in second] == [rows_of(batch) for batch in both[1::2]]
    for batch in second:
        used = np.union1d(batch["history"], batch["candidates"])
        assert np.array_equal(np.union1d(used, [0]), np.arange(len(batch["articles"])))


def test_a_last_batch_may_leave_parts_without_rows():
    parts = list(batches(BatchLayout(parts=2, wanted=(0, 1))))
    assert [len(rows_of(part)) for part in parts[-2:]] == [0, 1]


@pytest.mark.parametrize("negatives", [None, 3])
def test_a_fixed_shape_in_which_all_fits_holds_the_same_rows(negatives):
    fixed = FixedShape.of(8, 50, 4 if negatives else 8, 61)
    dataset = batches(BatchLayout(fixed=fixed), negatives=negatives)
    assert all(spec.shape.is_fully_defined() for spec in dataset.element_spec.values())
    shapes = {name: tuple(spec.shape) for name, spec in dataset.element_spec.items()}
    assert shapes["articles"] == (61,) and shapes["history"] == (8, 50)
    assert shapes["counters"] == (8, fixed.candidates, 9)
    loose = batches(negatives=negatives, drop_remainder=True)
    found = [rows_of(batch) for batch in dataset]
    assert found == [rows_of(batch) for batch in loose] and len(found) >= 3


def test_the_parts_of_a_fixed_shape_are_equal_and_together_the_batch():
    layout = BatchLayout(parts=2, wanted=(0, 1), fixed=FixedShape.of(4, 50, 8, 61))
    parts = [rows_of(batch) for batch in batches(layout)]
    whole = [rows_of(batch) for batch in batches(drop_remainder=True)]
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
        assert tuple(row[1] for row in rows_of(batch)) == histories
        assert [row[2] for row in rows_of(batch)] == [[1, 2], [3, 1]]


def test_of_too_many_candidates_the_clicked_ones_stay_and_others_are_drawn():
    layout = BatchLayout(fixed=FixedShape(candidates=4, articles=50))
    logs = [example(0, [], list(range(1, 11)), [3, 8]), example(1, [], [1, 2], [2])]
    drawn = set()
    for batch in impression_batches(logs, batch_size=2, seed=1, repeat=True, layout=layout).take(40):
        long, short = rows_of(batch)
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
    logs = [weighted(one) for one in examples()]
    found = list(impression_batches(logs, **options))
    assert found and all(follow_their_clicks(batch) for batch in found)
    assert any((batch["history_weights"].numpy() > 1).any() for batch in found)
    plain = list(impression_batches(examples(), **options))
    for left, right, bare in zip(
        found, plain, impression_batches(logs, weighted=False, **options), strict=True
    ):
        assert left.keys() - right.keys() == {"history_weights", "label_weights"}
        assert bare.keys() == right.keys()
        assert all(np.array_equal(left[name], right[name]) for name in right)
        assert all(np.array_equal(bare[name], right[name]) for name in right)


def test_beside_logs_with_signals_others_weigh_one():
    first, second = examples(2)
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
