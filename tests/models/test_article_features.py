"""Frozen states: ragged, kept on disk under a key that knows what they were made from; batches by length."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.backbones.bert import load_bert
from genre_tf.backbones.layers import split_layers
from genre_tf.backbones.trainable import Trainable
from genre_tf.errors import FailureError
from genre_tf.models import article_features
from genre_tf.models.article_features import FrozenText, StateEncoder, by_length, hidden_states

TEXTS = ["", "one short title", "cheese", "a much longer title about a great many things and more of them"]


def test_gathered_states_are_those_of_the_layers():
    bert = load_bert("tiny")
    lower, _ = split_layers(bert.backbone, Trainable(last=1))
    kept = hidden_states(TEXTS, StateEncoder(bert.tokenizer, lower, 12))
    found, mask = kept.gather(np.array([3, 0, 1]))
    ids = bert.tokenizer(tf.constant([TEXTS[3], "", TEXTS[1]]), 12)
    np.testing.assert_array_equal(mask[[0, 2]], (ids.numpy() != bert.tokenizer.pad_id)[[0, 2]])
    expected = lower(ids).numpy()
    np.testing.assert_allclose(found[mask], expected[mask], atol=2e-3)
    assert not mask[1].any(), "an empty text has no token"


def test_where_the_processor_multiplies_in_bfloat16_kept_states_are_computed_in_it(monkeypatch):
    bert = load_bert("tiny")
    lower, _ = split_layers(bert.backbone, Trainable(last=1))
    frozen = {}
    monkeypatch.setattr(article_features, "_WIDE", 0)
    for multiplies in (False, True):
        monkeypatch.setattr(article_features, "multiplies_bfloat16", lambda answer=multiplies: answer)
        frozen[multiplies] = FrozenText(bert, lower, 12)
    exact, rounded = (frozen[each].states(TEXTS).values.astype(np.float32) for each in (False, True))

    assert 1e-3 < np.abs(rounded - exact).max() < 0.1
    assert [frozen[each].rounds for each in (False, True)] == [False, True]
    assert frozen[False].identity() != frozen[True].identity(), "a cache of one is none of the other"
    served = [frozen[each](tf.constant(TEXTS))["states"].numpy() for each in (False, True)]
    np.testing.assert_array_equal(*served, "what is served is float32 everywhere")
    assert {block.compute_dtype for block in lower.blocks} == {"float32"}


def test_states_are_computed_once_and_again_only_for_other_texts_or_weights(tmp_path):
    bert = load_bert("tiny")
    lower, _ = split_layers(bert.backbone, Trainable(last=0))
    calls = []

    def made(texts, identity):
        before = len(calls)
        encode = StateEncoder(bert.tokenizer, lower, 12)
        states = hidden_states(texts, encode, tmp_path, identity, lambda *n: calls.append(n))
        return states, len(calls) > before

    first, computed = made(TEXTS, "a")
    assert computed
    again, computed = made(TEXTS, "a")
    assert not computed
    np.testing.assert_array_equal(first.values, again.values)
    assert made(TEXTS, "b")[1]
    assert made([*TEXTS[:3], "other"], "a")[1]
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


@pytest.fixture(scope="module")
def kept_in():
    bert = load_bert("tiny")
    lower, _ = split_layers(bert.backbone, Trainable(last=1))
    encode = StateEncoder(bert.tokenizer, lower, 12)
    return lambda cache, *more: hidden_states(TEXTS, encode, cache, "a", *more)


def test_of_two_writers_at_once_the_second_finds_what_the_first_made(tmp_path, kept_in):
    done = []
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: kept_in(tmp_path, lambda *count: done.append(count)), range(2))
    np.testing.assert_array_equal(first.values, second.values)
    assert done == [(3, 3)]


def test_what_a_killed_process_has_left_is_replaced(tmp_path, kept_in):
    expected = np.array(kept_in(tmp_path).values)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    (folder / "offsets.npy").unlink()
    part = folder.with_name(folder.name + ".part")
    part.mkdir()
    (part / "values.npy").write_bytes(b"half")
    np.testing.assert_array_equal(kept_in(tmp_path).values, expected)
    assert not part.exists()


def test_a_full_disk_and_a_wrong_place_are_told(tmp_path, kept_in, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(FailureError, match=r"cannot be written to .*file"):
        kept_in(tmp_path / "file")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(FailureError, match="0 are free"):
        kept_in(tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_texts_without_any_token_have_states_of_the_same_width():
    bert = load_bert("tiny")
    lower, _ = split_layers(bert.backbone, Trainable(last=1))
    states, mask = hidden_states([""], StateEncoder(bert.tokenizer, lower, 12)).gather(np.array([0]))
    assert states.shape == (1, 1, 32) and not mask.any()


def test_rows_come_back_in_their_order_and_a_batch_has_similar_lengths():
    texts = ["x" * (37 * row % 301) for row in range(300)]
    batches = []

    def measure(texts, rows):
        lengths = tf.strings.length(texts)
        batches.append(np.ptp(lengths.numpy()))
        return lengths, tf.stack([rows, lengths], axis=1)

    columns = [texts, np.arange(300, dtype=np.int32)]
    lengths, pairs = by_length(measure, columns)
    assert lengths.tolist() == pairs[:, 1].tolist() == [len(text) for text in texts]
    assert pairs[:, 0].tolist() == list(range(300))
    assert len(batches) == 3 and max(batches) < 140
