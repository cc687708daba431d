"""Words with and without spaces between them."""

import pytest

from genre_tf.text.words import beginning, length_in_words, words_of, written_tokens


def test_ideographs_and_kana_are_words_by_themselves_and_other_scripts_have_spaces():
    assert words_of("COVID-19疫情, カナ 한국어 naïve!") == [
        *("COVID", "19", "疫", "情", "カ", "ナ", "한국어", "naïve"),
    ]
    assert written_tokens("Storm, 颱風! now") == ["Storm,", "颱", "風", "!", "now"]
    assert words_of("𠀀々") == ["𠀀", "々"]
    assert words_of("") == written_tokens(" \n") == []


def test_lengths_of_languages_compare():
    assert length_in_words("five words, as they stand") == 5
    assert length_in_words("我是一名球員的妻子啊") == pytest.approx(6.0)


def test_a_beginning_is_cut_between_words_or_characters():
    assert beginning(" one two  three", 2) == "one two"
    assert beginning("one", 5) == "one"
    assert beginning("我是一名NBA球員", 4.0) == "我是一名NBA球"  # 4 x 0.6, 1, 0.6
    assert beginning("我是", 0) == ""
