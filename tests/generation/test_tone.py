"""Which texts have a tone, which are about a topic, and what a writer is told."""

import pytest
import tensorflow as tf

from genre_tf.contract import TONES
from genre_tf.generation.tone import closest_half, has_tone, instruction


def tones_of(text: str) -> list[str]:
    rows = tf.fill([len(TONES), 1], text)
    return [
        tone
        for tone, found in zip(TONES, has_tone(rows, tf.constant(TONES)).numpy()[:, 0], strict=True)
        if found
    ]


@pytest.mark.parametrize(
    ("text", "tones"),
    [
        ("Mayor opens a new bridge", ["neutral", "plain"]),
        ("Parliament ratifies constitutional amendments", ["neutral"]),
        ("The council said on Monday that it will not pay for the bridge over the river", ["neutral"]),
        ("Stunning comeback in the last minute", ["lively"]),
        ("What happened to the bridge?", ["lively"]),
        ("Here is what YOU’LL need to know", ["lively"]),
        ("Wildlife returns to the valley", ["neutral", "plain"]),  # not the word "wild"
        ("市長啟用新橋", ["neutral", "plain"]),
        ("市长启用新桥，居民震惊", ["lively"]),
        ("你需要知道的事", ["lively"]),
        ("市議會週一表示不會為這座橫跨河流的橋樑的維修工程支付任何一部分費用", ["neutral"]),
        ("", ["neutral", "plain"]),
    ],
)
def test_signs_tell_the_tones_of_a_text(text: str, tones: list[str]) -> None:
    assert tones_of(text) == tones


def test_an_unknown_or_empty_tone_is_any_and_each_row_has_its_own() -> None:
    texts = tf.constant([["Wow!", "Rain"]] * 4)
    found = has_tone(texts, tf.constant(["", "jolly", " Lively ", "plain"])).numpy().tolist()
    assert found == [[True, True], [True, True], [True, False], [False, True]]


def test_the_closer_half_of_the_texts_is_about_the_topic() -> None:
    vectors = tf.constant([[[1.0, 0.0], [0.0, 2.0], [3.0, 0.5], [1.0, 1.0]], [[0.0, 0.0]] * 4])
    near = closest_half(vectors, tf.constant([[2.0, 0.0], [1.0, 1.0]])).numpy().tolist()
    assert near == [[True, False, True, False], [True] * 4]


def test_a_writer_is_told_topic_and_tone_in_one_line() -> None:
    topics = ["", " ice\nhockey ", "", "word " * 100]
    said = instruction(tf.constant(["lively", "", "jolly", "plain"]), tf.constant(topics)).numpy()
    assert said[0].endswith(b"!") and said[1] == b"Write about ice hockey." and said[2] == b""
    assert len(said[3]) < 140 and b"simple words" in said[3]
