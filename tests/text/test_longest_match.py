import tensorflow as tf

from genre_tf.text.longest_match import LongestMatch

VOCABULARY = ["[UNK]", "un", "##aff", "##able", "##a", "news", "##f", "新", "##闻", "é", "##é"]


def cut(*words: str) -> list[list[str]]:
    rows = LongestMatch(VOCABULARY, 0)(tf.constant(list(words), tf.string)).to_list()
    return [[VOCABULARY[piece] for piece in row] for row in rows]


def test_takes_the_longest_piece_first() -> None:
    assert cut("unaffable", "news", "una") == [["un", "##aff", "##able"], ["news"], ["un", "##a"]]


def test_a_word_with_one_dead_end_is_unknown_as_a_whole() -> None:
    assert cut("unaffx", "x", "newsnews", "un") == [["[UNK]"], ["[UNK]"], ["[UNK]"], ["un"]]


def test_counts_characters_and_not_bytes() -> None:
    assert cut("新闻", "éé", "闻") == [["新", "##闻"], ["é", "##é"], ["[UNK]"]]


def test_no_words_give_no_rows() -> None:
    assert LongestMatch(VOCABULARY, 0)(tf.constant([], tf.string)).to_list() == []
