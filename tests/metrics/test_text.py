"""Perplexity, ROUGE and distinct-n against hand results."""

import math

import pytest

from genre_tf.metrics.text import (
    TextLoss,
    UnigramModel,
    copy_rate,
    distinct,
    perplexity,
    rouge,
    self_bleu,
    sentiment,
    word_count,
)


def test_perplexity_of_uniform_guesses_is_the_number_of_choices() -> None:
    assert perplexity(7 * math.log(50), 7) == pytest.approx(50)


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


def test_rouge_counts_stems_pairs_and_order() -> None:
    found = rouge(["dogs chasing cats"], ["a dog chased the cat"])
    assert found["rouge1"] == pytest.approx(2 * (3 / 3) * (3 / 5) / (3 / 3 + 3 / 5))
    assert found["rougeL"] == pytest.approx(found["rouge1"])
    found = rouge(["cat the"], ["the cat"])
    assert found["rouge1"] == 1
    assert found["rouge2"] == 0
    assert found["rougeL"] == pytest.approx(0.5)


def test_rouge_is_the_mean_over_samples() -> None:
    assert rouge(["same words", ""], ["same words", "other words"])["rouge1"] == 0.5


def test_rouge_without_samples_is_unknown_and_unpaired_texts_are_refused() -> None:
    assert rouge([], []) == {"rouge1": None, "rouge2": None, "rougeL": None}
    with pytest.raises(ValueError, match="give one for each"):
        rouge(["a"], [])


def test_distinct_is_the_share_of_different_n_grams() -> None:
    assert distinct(["a b a", "A b"], 1) == pytest.approx(2 / 5)
    assert distinct(["a b a", "A b"], 2) == pytest.approx(2 / 3)
    assert distinct(["a"], 2) is None


def test_self_bleu_tells_equal_texts_from_different_ones() -> None:
    assert self_bleu(["the cat sat down", "The cat sat down"]) == pytest.approx(1)
    assert self_bleu(["a b c d", "e f g h"]) == 0
    # Of five words, four, three and two pairs stand in the other text, then one of two runs of four.
    assert self_bleu(["a b c d e", "a b c d f"]) == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    assert self_bleu(["alone"]) is None


def test_precisions_of_zero_are_smoothed_by_a_tenth() -> None:
    # Three words of four, one pair of three; no run of three or four.
    expected = (3 / 4 * 1 / 3 * 0.1 / 2 * 0.1 / 1) ** 0.25
    assert self_bleu(["a b x c", "a b c y"]) == pytest.approx(expected)


def test_copied_words_stand_in_runs_of_four() -> None:
    source = "The mayor of Rome, said on Monday that he would resign."
    assert copy_rate(["Mayor of Rome said nothing"], [source]) == pytest.approx(4 / 5)
    assert copy_rate(["the mayor of Rome said on Monday"], [source]) == 1
    assert copy_rate(["mayor of Rome", "would he resign on Monday that he"], [source] * 2) == pytest.approx(
        4 / 10
    )
    assert copy_rate(["the mayor of Rome"], ["of Rome the mayor"]) == 0
    assert copy_rate([""], [source]) is None
    with pytest.raises(ValueError, match="argument"):
        copy_rate(["a"], [])


def test_chinese_is_measured_by_characters():
    assert rouge(["颱風關閉學校"], ["颱風關閉了學校"])["rouge1"] == pytest.approx(
        2 * 1 * (6 / 7) / (1 + 6 / 7)
    )
    assert rouge(["學校"], ["校學"])["rouge2"] == 0
    assert distinct(["學校學", "學"], 1) == pytest.approx(2 / 4)
    assert copy_rate(["颱風關閉商店"], ["颱風關閉了學校"]) == pytest.approx(4 / 6)
    assert self_bleu(["颱風關閉學校", "颱風關閉學校"]) == pytest.approx(1)


def test_rouge_of_latin_letters_is_that_of_the_library():
    from rouge_score.rouge_scorer import RougeScorer

    written = [
        "The Café's 3 dogs' were running, naïvely",
        "U.S. stocks fell 3.5%",
        "",
        "_under_scored_ words",
    ]
    real = ["3 dogs ran by the cafés", "Stocks in the U.S. fall by 3.5 percent", "x", "under scores word"]
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    expected = [scorer.score(target, text) for text, target in zip(written, real, strict=True)]
    for name, value in rouge(written, real).items():
        assert value == pytest.approx(sum(each[name].fmeasure for each in expected) / 4)


def test_other_scripts_have_words_in_rouge_too():
    assert rouge(["шторм закрыл школы"], ["Шторм закрыл города"])["rouge1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("text", "mood"),
    [
        ("Snow on Monday", 0),
        ("Rescuers save two hikers", 1),
        ("Two killed in crash", -1),
        ("The film is NOT good", -1),
        ("It isn't a bad year", 1),
        ("Winner sued", 0),
        ("他們獲救了", 1),
        ("车祸造成两人死亡", -1),
        ("没有死亡", 1),
        ("", 0),
    ],
)
def test_sentiment_reads_words_of_good_and_bad_news_and_negations(text, mood):
    assert sentiment([text]) == mood


def test_sentiment_of_texts_is_their_mean():
    assert sentiment(["Two killed in crash", "Snow", "Rain", "Rain"]) == -0.25
    assert sentiment([]) is None
