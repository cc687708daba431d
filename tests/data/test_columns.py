"""Columns are a sequence of examples, in memory or in files; batches and logs are read from them."""

import numpy as np
import pytest

from genre_tf.data import preparing
from genre_tf.data.articles import ArticleTable
from genre_tf.data.batches import impression_batches
from genre_tf.data.click_log import build_examples
from genre_tf.data.columns import (
    ImpressionColumns,
    ImpressionExample,
    OfCandidates,
    read_columns,
    write_block,
)
from genre_tf.data.counters import Counters
from genre_tf.data.lines import FaultPolicy
from genre_tf.data.mind import read_news, read_split
from genre_tf.errors import InputError


def example(number: int, weighted: bool = False) -> ImpressionExample:
    """Number n has n % 4 clicks in its history and 1 + n % 5 candidates."""
    shown, read = 1 + number % 5, number % 4
    return ImpressionExample(
        impression=number,
        user_id=f"Ü{number}",
        time_hours=number / 3600,
        history=np.arange(read, dtype=np.int32) + number,
        candidates=np.arange(shown, dtype=np.int32) + 1,
        labels=(np.arange(shown) == number % shown).astype(np.float32),
        counters=np.full((shown, 9), number, np.float32),
        history_weights=np.full(read, 0.5, np.float32) if weighted else None,
        label_weights=np.full(shown, 2, np.float32) if weighted else None,
    )


def as_lists(examples):
    return [
        [one.impression, one.user_id, one.time_hours]
        + [getattr(one, name).tolist() for name in ("history", "candidates", "labels", "counters")]
        for one in examples
    ]


@pytest.fixture(params=["memory", "files"])
def columns(request, tmp_path):
    """Forty impressions, in memory or in files of seven."""
    whole = ImpressionColumns.of([example(number) for number in range(40)])
    if request.param == "memory":
        return whole
    paths = []
    for number, block in enumerate(whole.blocks(size=7)):
        paths.append(tmp_path / f"{number}.arrow")
        write_block(paths[-1], block)
    return read_columns(paths)


def test_columns_are_a_sequence_of_examples(columns):
    expected = [example(number) for number in range(40)]
    assert as_lists(columns) == as_lists(expected)
    assert as_lists([columns[7], columns[-1]]) == as_lists([expected[7], expected[-1]])
    with pytest.raises(IndexError):
        columns[40]
    assert columns.seconds.tolist() == list(range(40))
    assert columns.shown.tolist() == [1 + number % 5 for number in range(40)]


@pytest.mark.parametrize(
    "chosen", [slice(5, 30), slice(None, None, -3), [3, 3, 39, 0], np.arange(40) % 3 == 0, []]
)
def test_chosen_rows_are_those_of_a_list(columns, chosen):
    numbers = np.arange(40)[chosen if isinstance(chosen, slice | np.ndarray) else np.array(chosen, int)]
    some = columns[chosen]
    assert as_lists(some) == as_lists([example(number) for number in numbers.tolist()])
    assert as_lists(some[1:4]) == as_lists([example(number) for number in numbers.tolist()[1:4]])
    assert some.articles("candidates").tolist() == sorted(
        {row for number in numbers.tolist() for row in example(number).candidates.tolist()}
    )


def test_columns_can_be_added_and_blocks_have_what_is_asked_for(columns):
    both = columns[30:] + [example(number, weighted=True) for number in (50, 51)]
    assert [one.impression for one in both] == [*range(30, 40), 50, 51]
    assert both.has_weights and not columns.has_weights
    block = both.take([11, 0], "labels", "label_weights")
    assert block.impression.tolist() == [51, 30]
    assert block.label_weights.tolist() == [2, 2, 1]
    assert len(block.counters) == len(block.candidates) == len(block.user_id) == 0
    assert block.history_weights is None


def test_batches_of_files_are_those_of_memory(tmp_path):
    examples = [example(number, weighted=number > 20) for number in range(40)]
    whole = ImpressionColumns.of(examples)
    for number, block in enumerate(whole.blocks(size=11)):
        write_block(tmp_path / f"{number}.arrow", block)
    mapped = read_columns(sorted(tmp_path.glob("*.arrow")))
    further = OfCandidates(np.arange(whole.shown.sum(), dtype=np.float32), whole.shown)
    options = {"batch_size": 6, "seed": 4, "shuffle": True, "columns": {"further": further}}
    for negatives in (None, 2):
        pairs = zip(
            impression_batches(examples, negatives=negatives, **options),
            impression_batches(mapped, negatives=negatives, **options),
            strict=True,
        )
        for one, other in pairs:
            assert one.keys() == other.keys() and "further" in one and "label_weights" in one
            for name in one:
                np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("start", [1, 4, 5, 13])
def test_a_batch_is_known_by_its_number(start):
    options = {"batch_size": 9, "seed": 4, "shuffle": True, "repeat": True, "negatives": 2}
    examples = [example(number) for number in range(60)]
    begun = iter(impression_batches(examples, start=start, **options))
    for batch in impression_batches(examples, **options).skip(start).take(6):
        resumed = next(begun)
        for name in batch:
            np.testing.assert_array_equal(batch[name], resumed[name])


def test_every_epoch_has_every_row_in_an_order_far_from_that_of_the_log():
    examples = [example(0)] * 1000
    columns = ImpressionColumns.of(examples)
    columns._parts[0].impression[:] = np.arange(1000)
    seen = np.concatenate(
        [batch["impression"] for batch in impression_batches(columns, batch_size=64, shuffle=True, seed=1)]
    )
    assert sorted(seen.tolist()) == list(range(1000))
    assert abs(np.corrcoef(seen[1:], seen[:-1])[0, 1]) < 0.1
    assert abs(np.corrcoef(seen, np.arange(1000))[0, 1]) < 0.1


def test_what_is_no_file_of_columns_is_named(tmp_path):
    (tmp_path / "a.arrow").write_bytes(b"ARROW1\0\0 and then nothing")
    for name in ("a.arrow", "none.arrow"):
        with pytest.raises(InputError, match=f"{name} is missing or damaged"):
            read_columns([tmp_path / name])


GOOD = "{0}\tU{0}\t11/9/2019 9:00:00 AM\tN1 N2\tN3-1 N4-0"


@pytest.mark.parametrize(
    "odd",
    [
        GOOD.replace(" N2", "  N2 "),  # any white space parts ids
        GOOD + "\r",
        GOOD.replace("U{0}", "U 1"),
        GOOD.replace("N3-1", "N99-1"),
        GOOD.replace("N3-1", "N4-1"),
        GOOD.replace("N1 N2", "N77"),
        GOOD.replace("N1 N2", ""),
        GOOD.replace("9:00", "99:00"),
        GOOD.replace("{0}\tU", "1\tU"),  # the id of another row
        GOOD.replace("-1", "").replace("-0", ""),
        GOOD + "\tN1:dwell=3",
        "",
        "x",
    ],
)
def test_a_block_is_read_as_its_rows_are_read_one_by_one(write_split, odd):
    rows = [GOOD.format(number) for number in range(1, 8)]
    rows[4] = odd.format(5)
    data = write_split(behaviors=rows)
    split = read_split(data, "train", max_bad_rows=9)
    expected = build_examples(split, ArticleTable.of(split), Counters())
    policy = FaultPolicy(9)
    table = ArticleTable(read_news(data / "train" / "news.tsv").values())
    task = preparing.LogTask(data / "train" / "behaviors.tsv", table, policy, 50, 0.0)
    blocks = [*preparing.BlockReader(task).blocks()]
    found = ImpressionColumns(blocks).take(
        range(7 - policy.bad_rows), "user_id", "history", "candidates", "labels"
    )
    assert [found.example(row).history.tolist() for row in range(len(found))] == [
        one.history.tolist() for one in expected
    ]
    assert found.candidates.tolist() == [row for one in expected for row in one.candidates.tolist()]
    assert found.labels.tolist() == [label for one in expected for label in one.labels.tolist()]
    assert (found.user_id, found.impression.tolist()) == (
        [one.user_id for one in expected],
        [one.impression for one in expected],
    )
    assert policy.faults == split.faults
