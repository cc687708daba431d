"""Perplexity, ROUGE and distinct-n against hand results."""

import math

import pytest

from genre_tf.evaluation.text_metrics import distinct, perplexity, rouge


def test_perplexity_of_uniform_guesses_is_the_number_of_choices() -> None:
    assert perplexity(7 * math.log(50), 7) == pytest.approx(50)


def test_perplexity_of_nothing_is_unknown_and_of_a_hopeless_model_is_infinite() -> None:
    assert perplexity(0.0, 0) is None
    assert perplexity(1e9, 1) == math.inf


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
    with pytest.raises(ValueError, match="must be pairs"):
        rouge(["a"], [])


def test_distinct_is_the_share_of_different_n_grams() -> None:
    assert distinct(["a b a", "A b"], 1) == pytest.approx(2 / 5)
    assert distinct(["a b a", "A b"], 2) == pytest.approx(2 / 3)
    assert distinct(["a"], 2) is None
