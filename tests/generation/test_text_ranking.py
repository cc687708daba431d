"""The order in which written texts are offered."""

from typing import Any

import numpy as np
import tensorflow as tf

from genre_tf.generation.writer import Floors, Written, closeness, rank


def ranked(
    texts: list[str], interest: list[float], read: Any = None, fits: Any = None, **other: Any
) -> Written:
    count = len(texts)
    usual = {"log_probability": [-1.0], "grounding": [1.0], "safe": [True], "unsupported": [""]}
    usual |= {"topic": [1.0]}
    columns = {name: value * count for name, value in usual.items()} | other
    written = Written(
        tf.constant([texts]), tf.constant([interest]), **{k: tf.constant([v]) for k, v in columns.items()}
    )
    return rank(written, Floors(topic=0.2), read, fits)


def order(written: Written) -> list[str]:
    return [text.decode() for text in written.text[0].numpy()]


def test_interest_decides_among_equals() -> None:
    assert order(ranked(["a", "b", "c"], [0.1, 0.9, 0.5])) == ["b", "c", "a"]


def test_for_a_reader_who_has_read_nothing_the_text_that_says_what_others_say_stands_first() -> None:
    texts = [
        "Mayor quits",
        "Storm closes schools",
        "Storm closes schools in May",
        "Schools closed by storm in Ohio",
    ]
    assert order(ranked(texts, [0.9, 0.1, 0.2, 0.3], tf.constant([["", ""]])))[0] == texts[2]
    assert order(ranked(texts, [0.9, 0.1, 0.2, 0.3], tf.constant([["A title", ""]])))[0] == texts[0]
    # Of texts that agree alike the likelier one, and one text alone is no matter.
    assert order(ranked(["a", "b"], [0.5, 0.1], tf.constant([[""]]), log_probability=[-2.0, -1.0]))[0] == "b"
    assert order(ranked(["a"], [0.5], tf.constant([[""]]))) == ["a"]


def test_the_likelier_of_equally_interesting_texts_stands_in_front() -> None:
    assert order(ranked(["a", "b"], [0.5, 0.5], log_probability=[-4.0, -2.5])) == ["b", "a"]


def test_no_interest_lifts_a_text_that_is_ungrounded_or_about_something_else_or_no_language() -> None:
    assert order(ranked(["a", "b"], [0.9, 0.1], grounding=[0.5, 1.0])) == ["b", "a"]
    assert order(ranked(["a", "b"], [0.9, 0.1], topic=[0.1, 0.3])) == ["b", "a"]
    assert order(ranked(["a", "b"], [0.9, 0.1], log_probability=[-4.0, -1.5])) == ["b", "a"]
    # Of texts that all fail, the one with fewer failures, then the likelier one.
    failing = {"grounding": [0.0, 0.0, 0.5], "topic": [0.0, 0.5, 0.5], "log_probability": [-1.0, -3.0, -2.0]}
    assert order(ranked(["a", "b", "c"], [0.9, 0.5, 0.1], **failing)) == ["c", "b", "a"]


def test_a_line_copied_from_the_history_stands_behind_texts_on_the_topic() -> None:
    """Found with an adapted SmolLM2: the click model likes what the reader has clicked."""
    read = "Patriots sign Antonio Brown to a one-year deal"
    texts = [f"{read} today", "School board delays vote on new budget", "Budget vote of school board delayed"]
    measured = {
        "grounding": [0.0, 1.0, 1.0],
        "topic": [0.05, 0.7, 0.6],
        "log_probability": [-0.2, -1.5, -1.9],
    }
    assert order(ranked(texts, [0.51, 0.015, 0.014], tf.constant([[read]]), **measured))[-1] == texts[0]
    # Also from interest alone, where the reader's titles are the evidence: the copy agrees with them best.
    measured |= {"grounding": [1.0] * 3, "topic": [1.0, 0.4, 0.3]}
    assert order(ranked(texts, [0.51, 0.015, 0.014], tf.constant([[read]]), **measured))[-1] == texts[0]


def test_the_likelihood_of_a_copy_does_not_make_honest_texts_look_like_noise() -> None:
    measured = {"grounding": [0.0, 1.0, 1.0], "log_probability": [-0.1, -2.5, -3.0]}
    assert order(ranked(["copy", "b", "c"], [0.5, 0.1, 0.2], **measured)) == ["c", "b", "copy"]


def test_noise_stands_behind_a_real_title_however_interesting() -> None:
    """Found with a small writer: the click model preferred its noise to real titles in two of three pairs."""
    texts = ["of the the new s to in with year", "Storm closes schools across the county"]
    measured = {"topic": [0.04, 0.6], "log_probability": [-6.0, -3.0]}
    assert order(ranked(texts, [0.4, 0.02], **measured)) == texts[::-1]
    assert order(ranked(texts, [0.4, 0.02], log_probability=[-6.0, -3.0])) == texts[::-1]


def test_texts_are_close_to_their_source_or_else_to_a_title_of_the_reader() -> None:
    texts = tf.constant([[[2.0, 0.0], [0.0, 3.0]]])
    clicks, mask = tf.constant([[[0.0, 1.0], [9.0, 0.0]]]), tf.constant([[True, False]])
    source, nothing = tf.constant([[[1.0, 0.0]]]), tf.zeros([1, 1, 2])
    np.testing.assert_allclose(closeness(texts, source, clicks, mask), [[1, 0]], atol=1e-6)
    np.testing.assert_allclose(closeness(texts, nothing, clicks, mask), [[0, 1]], atol=1e-6)
    np.testing.assert_allclose(closeness(texts, nothing, clicks, mask & False), [[1, 1]])
    np.testing.assert_allclose(closeness(texts, nothing, clicks[:, :0], mask[:, :0]), [[1, 1]])


def test_unsafe_is_last_behind_empty_behind_repeated() -> None:
    texts = ["Bad", "", "Same, text!", "same text", "poor"]
    result = ranked(texts, [0.99, 0.98, 0.97, 0.96, 0.0], safe=[False, True, True, True, True])
    assert order(result) == ["Same, text!", "poor", "same text", "", "Bad"]
    assert result.safe[0].numpy().tolist() == [True, True, True, True, False]


def test_of_equal_texts_the_better_stays_in_front() -> None:
    result = ranked(["same", "SAME", "other"], [0.2, 0.8, 0.5])
    assert order(result) == ["SAME", "other", "same"]


def test_texts_of_almost_the_same_words_go_behind_others() -> None:
    title = "Mayor of Rome wins a second term today"
    texts = [title, "mayor of rome wins a SECOND term, now!", "Mayor of Rome loses his seat", "", "Bad"]
    result = ranked(texts, [0.5, 0.6, 0.1, 0.9, 0.9], safe=[True] * 4 + [False])
    assert order(result) == [texts[1], texts[2], title, "", "Bad"]
    kept = tf.constant([texts[:3]]), tf.constant([[0.5, 0.6, 0.1]]), -tf.ones([1, 3]), tf.ones([1, 3])
    written = Written(*kept, tf.ones([1, 3], tf.bool), kept[0], tf.ones([1, 3]))
    strict = rank(written, Floors(near_duplicate=0.9))
    assert order(strict) == [texts[1], title, texts[2]]


def test_what_the_reader_has_read_goes_behind_others() -> None:
    texts = ["Mayor of Rome wins a second term", "Mayor loses", "", "poor"]
    interest = [0.9, 0.2, 0.8, 0.1]
    read = tf.constant([["", "Mayor of Rome wins a SECOND term today", "Cats win"]])
    assert order(ranked(texts, interest, read)) == [texts[1], "poor", texts[0], ""]
    nothing = tf.zeros([1, 0], tf.string)
    assert order(ranked(texts, interest, nothing)) == [texts[0], texts[1], "poor", ""]


def test_what_is_like_a_dropped_text_alone_stays() -> None:
    chain = ["a b c d e f g h", "a b c d e f x y", "a b c d z w x y"]  # 6 of 10 words with the neighbour
    assert order(ranked([*chain, "other"], [0.9, 0.8, 0.7, 0.1])) == [chain[0], chain[2], "other", chain[1]]


def test_repeated_words_and_scripts_without_spaces_are_compared_too() -> None:
    assert order(ranked(["go go go team", "go team", "stop"], [0.9, 0.8, 0.1]))[2] == "go team"
    chinese = ["市长赢得连任选举。", "市长赢得连任选举了", "股市大跌"]
    assert order(ranked(chinese, [0.9, 0.8, 0.1])) == [chinese[0], chinese[2], chinese[1]]


def test_unsafe_is_never_first_where_a_safe_text_is_there_however_bad() -> None:
    result = ranked(["bad words here", "bad words, here", "x"], [0.9, 1e30, -1e30], safe=[True, False, True])
    assert order(result) == ["bad words here", "x", "bad words, here"]
    assert result.safe[0].numpy().tolist() == [True, True, False]
    assert order(ranked(["", "bad"], [0.0, 1.0], safe=[True, False])) == ["", "bad"]
    assert not ranked(["bad", "worse"], [0.0, 1.0], safe=[False, False]).safe.numpy().any()


def test_rows_of_empty_texts_are_ranked_without_complaint() -> None:
    assert order(ranked(["", ""], [0.1, 0.2])) == ["", ""]


def test_numbers_that_are_not_finite_become_zero() -> None:
    result = ranked(["a", "b"], [float("nan"), 0.5], log_probability=[float("-inf"), -0.5])
    assert order(result) == ["b", "a"]
    for column in (result.interest, result.log_probability):
        assert np.isfinite(column.numpy()).all()


def test_rows_are_sorted_apart() -> None:
    written = Written(
        tf.constant([["a", "b"], ["c", "d"]]),
        tf.constant([[0.1, 0.9], [0.9, 0.1]]),
        -tf.ones([2, 2]),
        tf.ones([2, 2]),
        tf.ones([2, 2], tf.bool),
        tf.fill([2, 2], ""),
        tf.ones([2, 2]),
    )
    assert rank(written, Floors()).text.numpy().tolist() == [[b"b", b"a"], [b"c", b"d"]]


def test_texts_of_the_style_asked_for_come_first_but_never_before_what_may_be_shown() -> None:
    texts = ["liked", "asked for", "Asked for!", "", "Bad"]
    fits = tf.constant([[False, True, True, True, True]])
    safe = [True] * 4 + [False]
    result = ranked(texts, [0.9, 0.2, 0.1, 0.9, 0.9], fits=fits, safe=safe)
    assert order(result)[0] == "asked for" and order(result)[3:] == ["", "Bad"]
