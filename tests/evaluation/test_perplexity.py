"""Perplexities by hand."""

import math

import pytest

from genre_tf.evaluation.perplexity import TextLoss, UnigramModel, perplexity, word_count


def test_the_unigram_model_by_hand():
    unigram = UnigramModel(["a b", "a"])
    # Counts: a 2, b 1, end 2; 5 in all, and 4 classes with the unknown word: of 9 shares a has 3, b 2, end 3.
    assert unigram.nats("a c") == pytest.approx(math.log(9 / 3) + math.log(9 / 1) + math.log(9 / 3))
    assert unigram.per_word(["a c"]) == pytest.approx(9.0)  # the root of 81
    assert unigram.per_word(["b", "a  c"]) == pytest.approx((4.5 * 3 * 81) ** (1 / 3))
    shares = sum(math.exp(-unigram.nats(word)) * 3 for word in ("a", "b", "unknown"))  # the end is a third
    assert shares + 3 / 9 == pytest.approx(1.0)


def test_per_word_takes_the_nats_of_all_tokens():
    assert word_count(["two words", " and\tthree more "]) == 5
    assert perplexity(5 * math.log(7.0), 5) == pytest.approx(7.0)
    assert TextLoss(6 * math.log(2.0), 3).per_token == pytest.approx(4.0)
    assert math.isfinite(perplexity(1e9, 1))


def test_where_no_spaces_are_written_each_character_counts():
    assert word_count(["颱風 closes 學校"]) == 5
    unigram = UnigramModel(["學校", "學"])
    assert unigram.nats("學") == pytest.approx(math.log(9 / 3) + math.log(9 / 3))  # as "a" above
