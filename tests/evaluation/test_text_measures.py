"""Fluency under an unadapted language model, and the topic of a text."""

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.backbones.language_models import END_OF_TEXT, load_language_model
from genre_tf.backbones.layers import LanguageLayers
from genre_tf.errors import InputError
from genre_tf.evaluation.text_measures import Fluency, topic, topic_floor
from genre_tf.models.news_encoder import NewsEncoder


def test_fluency_is_the_mean_log_probability_of_a_text_behind_the_end_token() -> None:
    model = load_language_model("tiny")
    layers = LanguageLayers(model.backbone)
    ids = model.tokenizer.encode(tf.constant(["Snow falls"])).to_list()[0]
    read = tf.constant([[model.tokenizer.token_id(END_OF_TEXT), *ids[:-1]]])
    log_probabilities = tf.nn.log_softmax(layers.logits(layers.states(layers.embed(read))))[0].numpy()
    expected = np.mean([row[token] for row, token in zip(log_probabilities, ids, strict=True)])
    alone = Fluency(model)(["Snow falls"])
    assert alone[0] == pytest.approx(expected, abs=1e-5)
    among = Fluency(model)(["A much longer text about snow, and about rain", "Snow falls", ""])
    assert among[1] == pytest.approx(expected, abs=1e-5)
    assert among[2] == 0 and among[0] < 0


def test_a_language_model_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError):
        Fluency.of("no/such/folder")


def test_the_topic_is_the_cosine_of_the_text_vectors() -> None:
    encoder = NewsEncoder.from_preset("tiny")
    texts = ["Snow closes schools", "Cup final tonight", ""]
    same = topic(encoder, texts, texts)
    np.testing.assert_allclose(same, [1, 1, 0], atol=1e-5)
    other = topic(encoder, texts[:1], texts[1:2])
    whole = encoder.encode(texts)[:, : encoder.parts[0]]
    assert other[0] == pytest.approx(float(whole[0] @ whole[1]), abs=1e-5)
    with pytest.raises(ValueError, match="one for each"):
        topic(encoder, texts, texts[:1])


def test_a_share_of_real_titles_is_farther_from_their_sources_than_the_floor() -> None:
    encoder = NewsEncoder.from_preset("tiny")
    titles = [f"News about {at} things" for at in range(30)]
    sources = [f"It happened {at} times in the town." for at in range(30)]
    floor = topic_floor(encoder, titles, sources, 0.1)
    assert np.mean(topic(encoder, titles, sources) < floor) == pytest.approx(0.1, abs=0.01)
    assert topic_floor(encoder, titles, sources, 0.0) == -1
    assert topic_floor(encoder, titles, [*sources[:19], *[" "] * 11], 0.1) == -1
