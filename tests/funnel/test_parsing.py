import numpy as np
import pytest
import tensorflow as tf

from genre_tf.funnel import parsing


def rows(ragged):
    return ragged.to_list()


def test_ids_split_at_any_white_space_and_empty_rows_stay():
    text = tf.constant(["N1 N2", "", "  N3\t\nN4  ", " "])
    assert rows(parsing.split_ids(text)) == [[b"N1", b"N2"], [], [b"N3", b"N4"], []]


def test_blank_lines_are_no_titles_of_a_history():
    text = tf.constant(["a b\n\n c \r\n", "", "\n\n", "d"])
    assert rows(parsing.split_history_titles(text)) == [[b"a b", b"c"], [], [], [b"d"]]


def test_each_line_is_a_candidate_whatever_stands_in_it():
    text = tf.constant(["a\n\nb", "a\n", "", "\n", "a\r\nb\r\n", "a\n\n"])
    expected = [[b"a", b"", b"b"], [b"a"], [], [b""], [b"a", b"b"], [b"a", b""]]
    assert rows(parsing.split_candidate_titles(text)) == expected


def test_titles_are_always_utf8():
    text = tf.constant([b"caf\xc3 ok\n\xff\xfe", "新闻\n😀".encode()])
    parsed = rows(parsing.split_history_titles(text))
    assert parsed[1] == ["新闻".encode(), "😀".encode()]
    assert [title.decode() for title in parsed[0]] == ["caf\ufffd ok", "\ufffd\ufffd"]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3", 3.0),
        ("+2.5", 2.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("1e3", 1000.0),
        ("2E-1", 0.2),
        ("abc", 0.0),
        ("1,5", 0.0),
        ("-4", 0.0),
        ("nan", 0.0),
        ("inf", 0.0),
        ("1e999", 0.0),
        ("1e99", parsing.LARGEST_NUMBER),
        ("9" * 30, parsing.LARGEST_NUMBER),
        ("9" * 500, 0.0),
        ("0x10", 0.0),
        (b"\xff", 0.0),
    ],
)
def test_a_number_that_cannot_be_read_is_zero_and_none_fails(text, number):
    assert rows(parsing.split_numbers(tf.constant([text])))[0] == [pytest.approx(number)]


def test_numbers_keep_their_places():
    assert rows(parsing.split_numbers(tf.constant(["1 x 3", "", "4"]))) == [[1, 0, 3], [], [4]]


def test_the_newest_of_a_long_history_are_kept():
    long = " ".join(str(number) for number in range(10_000))
    kept = parsing.newest(parsing.split_ids(tf.constant(["a b", "", long])), 3)
    assert rows(kept) == [[b"a", b"b"], [], [b"9997", b"9998", b"9999"]]


def test_a_batch_without_any_part_keeps_its_rows():
    empty = parsing.newest(parsing.split_ids(tf.constant(["", ""])), 5)
    assert rows(empty) == [[], []]
    assert np.asarray(parsing.split_numbers(tf.constant(["", ""])).to_tensor()).shape == (2, 0)


def test_no_rows_at_all_is_a_batch_too():
    nothing = tf.constant([], tf.string)
    assert rows(parsing.split_candidate_titles(nothing)) == []
    assert rows(parsing.newest(parsing.split_ids(nothing), 2)) == []
