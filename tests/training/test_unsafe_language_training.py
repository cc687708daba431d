"""The default classifier of unsafe language: its weights are those that its sentences give."""

import numpy as np
import pytest

from genre_tf.generation.unsafe_language import default_unsafe_language
from genre_tf.training.unsafe_language import Sentence, caught, read_sentences, train


@pytest.fixture(scope="module")
def sentences() -> list[Sentence]:
    return read_sentences()


def test_each_language_has_as_many_safe_sentences_as_unsafe_ones(sentences: list[Sentence]) -> None:
    for language in ("en", "zh"):
        unsafe = [one.unsafe for one in sentences if one.language == language]
        assert len(unsafe) > 800
        assert 0.4 < np.mean(unsafe) < 0.6


def test_no_text_has_two_labels(sentences: list[Sentence]) -> None:
    assert len({one.text for one in sentences}) == len({(one.text, one.unsafe) for one in sentences})


def test_the_packaged_weights_are_reproduced_and_generalise_to_kinds_left_out(
    sentences: list[Sentence],
) -> None:
    model, held_out = train(sentences)
    packaged = default_unsafe_language()
    np.testing.assert_allclose(packaged.weights, model.weights, atol=1e-3)
    assert (packaged.bias, packaged.threshold) == pytest.approx((model.bias, model.threshold), abs=1e-4)
    found = caught(held_out >= model.threshold, sentences)
    assert min(found["en unsafe"], found["zh unsafe"]) > 0.75
    assert max(found["en news"], found["zh news"]) < 0.1
