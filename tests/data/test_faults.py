"""A faulty row is named by file, line and field; it stops the reading, or is skipped whole and counted."""

import contextlib
import gzip
import random

import pytest

from genre_tf.data import lines
from genre_tf.data.mind import read_split
from genre_tf.errors import InputError

NEWS = ["N1\tc\ts\tOne\t\t\t\t", "N2\tc\ts\tTwo\t\t\t\t", "N3\tc\ts\tThree\t\t\t\t"]
GOOD = ["1\tU1\t11/9/2019 9:00:00 AM\tN1\tN2-1 N3-0", "2\tU1\t11/9/2019 9:00:00 AM\tN1\tN2-1 N3-0"]
TIME = "11/9/2019 9:00:00 AM"

BAD_NEWS = {
    "too few columns": ("N4\tc\ts\tFour", "columns", "4 received"),
    "too many columns": ("N4\tc\ts\tFour\t\t\t\t\t", "columns", "9 received"),
    "other than before": ("N4\tc\ts\tFour\t", "columns", "5 received, 8 in the rows before"),
    "empty line": ("", "columns", "1 received"),
    "no id": ("\tc\ts\tFour\t\t\t\t", "news_id", "is empty"),
    "id with a space": ("N 4\tc\ts\tFour\t\t\t\t", "news_id", "'N 4' holds white space"),
    "id twice": ("N1\tc\ts\tFour\t\t\t\t", "news_id", "'N1' is also in an earlier row"),
    "no title": ("N4\tc\ts\t \t\t\t\t", "title", "is empty"),
    "not UTF-8": (b"N4\tc\ts\tCaf\xe9 \t\t\t\t", "line", "byte 0xe9 at position 11 is not UTF-8"),
    "zero byte": ("N4\tc\ts\tA\0B\t\t\t\t", "line", "zero byte"),
}
BAD_BEHAVIORS = {
    "columns": (f"3\tU1\t{TIME}\tN2-1 N3-0", "columns", "4 received, 5 expected"),
    "no impression id": (f"\tU1\t{TIME}\t\tN2-1", "impression_id", "is empty"),
    "impression id twice": (f"1\tU1\t{TIME}\t\tN2-1", "impression_id", "'1' is also in an earlier row"),
    "no user": (f"3\t\t{TIME}\t\tN2-1", "user_id", "is empty"),
    "time": ("3\tU1\t2019-11-09\t\tN2-1", "time", "'2019-11-09' is not a time"),
    "history": (f"3\tU1\t{TIME}\tN1 N7 N8\tN2-1", "history", "'N7' and 1 more are not in"),
    "unknown candidate": (f"3\tU1\t{TIME}\t\tN2-1 N7-0", "impressions", "'N7' is not in"),
    "no candidates": (f"3\tU1\t{TIME}\tN1\t ", "impressions", "is empty"),
    "half labelled": (f"3\tU1\t{TIME}\tN1\tN2-1 N3", "impressions", "'N3' has no label"),
    "label of another kind": (f"3\tU1\t{TIME}\tN1\tN2-1 N3-2", "impressions", "'N3-2' has no label"),
    "unlabelled row": (f"3\tU1\t{TIME}\tN1\tN2 N3", "impressions", "has no labels, but the rows before"),
    "shown twice": (f"3\tU1\t{TIME}\tN1\tN2-1 N2-0", "impressions", "'N2' is listed twice"),
    "not UTF-8": (b"3\tU\xff\t\t\t", "line", "byte 0xff at position 4 is not UTF-8"),
}


def joined(rows) -> bytes:
    return b"".join((row if isinstance(row, bytes) else row.encode()) + b"\n" for row in rows)


@pytest.mark.parametrize("row, field, message", BAD_NEWS.values(), ids=BAD_NEWS)
def test_the_first_bad_article_stops_with_its_place_and_value(write_split, row, field, message):
    data = write_split(news=joined([*NEWS, row]), behaviors=GOOD)
    with pytest.raises(InputError) as caught:
        read_split(data, "train")
    text = str(caught.value)
    assert text.startswith(f"{data / 'train' / 'news.tsv'}:4: {field}: ")
    assert message in text
    assert "--max-bad-rows" in text


@pytest.mark.parametrize("row, field, message", BAD_BEHAVIORS.values(), ids=BAD_BEHAVIORS)
def test_the_first_bad_impression_stops_with_its_place_and_value(write_split, row, field, message):
    data = write_split(news=NEWS, behaviors=joined([GOOD[0], row, GOOD[1]]))
    with pytest.raises(InputError) as caught:
        read_split(data, "train")
    text = str(caught.value)
    assert text.startswith(f"{data / 'train' / 'behaviors.tsv'}:2: {field}: ")
    assert message in text


def test_skipped_rows_leave_nothing_behind_and_are_listed(write_split):
    news = joined([NEWS[0], *(row for row, _, _ in BAD_NEWS.values()), *NEWS[1:]])
    behaviors = joined([GOOD[0], *(row for row, _, _ in BAD_BEHAVIORS.values()), GOOD[1]])
    clean = read_split(write_split(news=NEWS, behaviors=GOOD), "train")
    bad = len(BAD_NEWS) + len(BAD_BEHAVIORS)
    data = write_split(news=news, behaviors=behaviors)
    split = read_split(data, "train", max_bad_rows=bad)
    assert split.articles == clean.articles
    assert split.impressions == clean.impressions
    assert len({(fault.file, fault.line) for fault in split.faults}) == bad
    with pytest.raises(InputError, match=f"more than {bad - 1} bad rows"):
        read_split(data, "train", max_bad_rows=bad - 1)


def test_a_rejected_row_does_not_take_its_ids(write_split):
    bad_then_good = ["N4\tc\ts\t\t\t\t\t", "N4\tc\ts\tFour\t\t\t\t"]
    behaviors = ["1\tU1\tnever\tN1\tN4-1", f"1\tU1\t{TIME}\tN1\tN4-1"]
    data = write_split(news=[*NEWS, *bad_then_good], behaviors=behaviors)
    split = read_split(data, "train", max_bad_rows=2)
    assert split.articles["N4"].title == "Four"
    assert [impression.impression_id for impression in split.impressions] == ["1"]


def test_an_impression_without_a_click_is_valid_and_labelled(write_split):
    split = read_split(write_split(news=NEWS, behaviors=[f"1\tU1\t{TIME}\tN1\tN2-0 N3-0", GOOD[1]]), "train")
    assert split.labelled
    assert [impression.clicked for impression in split.impressions] == [(False, False), (True, False)]


def test_a_row_tells_all_of_its_faults(write_split):
    data = write_split(news=NEWS, behaviors=["\t\tnever\tN7\tN8-0", GOOD[0]])
    faults = read_split(data, "train", max_bad_rows=1).faults
    assert [fault.field for fault in faults] == [
        "impression_id",
        "user_id",
        "time",
        "history",
        "impressions",
    ]
    assert {fault.line for fault in faults} == {1}


@pytest.mark.parametrize("file", ["news.tsv", "behaviors.tsv"])
@pytest.mark.parametrize("content", [b"", b"\n\n", b"nothing\nof use\n"])
def test_a_file_without_a_usable_row_is_refused_however_many_may_be_skipped(write_split, file, content):
    data = write_split(news=NEWS, behaviors=GOOD)
    (data / "train" / file).write_bytes(content)
    with pytest.raises(InputError, match=r"is empty|no usable row"):
        read_split(data, "train", max_bad_rows=1000)


def test_a_long_line_is_refused_and_the_next_one_read(write_split, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 100)
    long = "N4\tc\ts\t" + "x" * 1000 + "\t\t\t\t"
    split = read_split(write_split(news=[NEWS[0], long, *NEWS[1:]], behaviors=GOOD), "train", max_bad_rows=1)
    assert list(split.articles) == ["N1", "N2", "N3"]
    assert (split.faults[0].line, split.faults[0].field) == (2, "line")


def test_a_line_of_exactly_the_limit_is_read(write_split, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", len(GOOD[0]) + 1)
    news = [row.replace("\t\t\t\t", "\t") for row in NEWS]
    assert len(read_split(write_split(news=news, behaviors=GOOD), "train").impressions) == 2


def test_a_gzip_bomb_stops_at_the_limit(write_split, monkeypatch):
    monkeypatch.setattr(lines, "MAX_FILE_BYTES", 10 << 20)
    data = write_split(news=NEWS, behaviors=GOOD)
    (data / "train" / "behaviors.tsv").unlink()
    bomb = gzip.compress(b"\0" * (50 << 20))
    (data / "train" / "behaviors.tsv.gz").write_bytes(bomb)
    with pytest.raises(InputError, match="holds more than"):
        read_split(data, "train", max_bad_rows=1000)


@pytest.mark.parametrize("damage", ["cut", "flipped", "not gzip"])
def test_a_damaged_gzip_file_is_refused(write_split, damage):
    data = write_split(news=NEWS, behaviors=GOOD)
    path = data / "train" / "behaviors.tsv"
    packed = bytearray(gzip.compress(path.read_bytes()))
    path.unlink()
    if damage == "cut":
        packed = packed[:-12]
    elif damage == "flipped":
        packed[len(packed) // 2] ^= 0xFF
    else:
        packed = bytearray(b"plain text\n")
    (data / "train" / "behaviors.tsv.gz").write_bytes(packed)
    with pytest.raises(InputError, match="cannot be decompressed"):
        read_split(data, "train", max_bad_rows=1000)


def test_a_folder_in_place_of_a_file_is_told(write_split):
    data = write_split(news=NEWS, behaviors=GOOD)
    (data / "train" / "behaviors.tsv").unlink()
    (data / "train" / "behaviors.tsv").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        read_split(data, "train")


def test_terminal_codes_and_long_values_do_not_reach_the_message(write_split):
    data = write_split(news=NEWS, behaviors=["3\tU1\t\x1b[31m" + "x" * 500 + "\tN1\tN2-1"])
    with pytest.raises(InputError) as caught:
        read_split(data, "train")
    assert "\x1b" not in str(caught.value)
    assert "(505 characters)" in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("seed", range(200))
def test_random_damage_is_skipped_or_refused_and_never_breaks(write_split, seed):
    rng = random.Random(seed)
    data = write_split(news=NEWS, behaviors=GOOD)
    path = data / "train" / rng.choice(["news.tsv", "behaviors.tsv"])
    content = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 8)):
        content[rng.randrange(len(content))] = rng.choice(b"\t\n\r -01N\0\xff\xe5x/:")
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        split = read_split(data, "train", max_bad_rows=rng.choice([0, 100]))
        known = set(split.articles)
        for impression in split.impressions:
            assert known >= {*impression.history, *impression.candidates}
            assert impression.candidates
            assert impression.clicked is None or any(impression.clicked)


def test_a_negative_allowance_is_refused(write_split):
    with pytest.raises(InputError, match="--max-bad-rows"):
        read_split(write_split(), "train", max_bad_rows=-1)
