"""Exact search: equal to `tf.math.top_k`, whatever the sizes and however many scores are equal."""

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.funnel.search import BLOCK, ExactIndex, top_columns


def columns_and_scores(found):
    best, columns = found
    return best.numpy().tolist(), columns.numpy().tolist()


@pytest.mark.parametrize(
    ("readers", "articles", "limit"),
    [
        (1, 1, 1),
        (3, BLOCK - 1, 5),
        (2, BLOCK, BLOCK),
        (2, 5 * BLOCK, 100),
        (4, 700, 7),
        (2, 3000, 100),
        (0, 70, 3),
    ],
)
def test_the_same_as_top_k(readers, articles, limit):
    scores = tf.constant(np.random.default_rng(articles).normal(size=(readers, articles)), tf.float32)
    expected = tf.math.top_k(scores, limit)
    assert columns_and_scores(top_columns(scores, limit)) == columns_and_scores(expected)


@pytest.mark.parametrize("values", [1, 2, 5])
def test_of_equal_scores_the_first_columns_win(values):
    scores = tf.constant(np.random.default_rng(values).integers(0, values, (3, 2000)), tf.float32)
    expected = tf.math.top_k(scores, 150)
    assert columns_and_scores(top_columns(scores, 150)) == columns_and_scores(expected)


def test_what_was_excluded_comes_last():
    scores = np.full((1, 50), -1e30, np.float32)
    scores[0, [49, 3]] = [-5.0, -7.0]
    best, columns = columns_and_scores(top_columns(tf.constant(scores), 4))
    assert columns[0] == [49, 3, 0, 1] and best[0][:2] == [-5.0, -7.0]


def test_sizes_may_change_from_request_to_request():
    traced = tf.function(
        top_columns, input_signature=[tf.TensorSpec([None, None]), tf.TensorSpec([], tf.int32)]
    )
    for articles, limit in ((40, 40), (4 * BLOCK, 3), (999, 50)):
        scores = tf.constant(np.random.default_rng(1).normal(size=(2, articles)), tf.float32)
        expected = tf.math.top_k(scores, limit)
        assert columns_and_scores(traced(scores, limit)) == columns_and_scores(expected)


@pytest.mark.parametrize("articles", [2, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
@pytest.mark.parametrize("some_hidden", [False, True])
def test_an_index_finds_every_article_and_nothing_behind_them(articles, some_hidden):
    random = np.random.default_rng(articles)
    vectors = -random.uniform(0.1, 1, (articles, 8)).astype(np.float32)  # all scores are below padding's 0
    vectors[0] = 0
    findable = np.arange(articles) % 5 != 1 if some_hidden else None
    index = ExactIndex(vectors, findable)
    assert index.matrix.shape[1] is None and index.matrix.numpy().shape[1] % BLOCK == 0
    readers = random.uniform(0.1, 1, (3, 8)).astype(np.float32)
    rows, found = index.ask(readers).best(tf.constant([[0, 0], [1, 0], [2, 0]], tf.int64), 1000)
    assert rows.shape == found.shape == (3, articles)
    left = [row for row in range(1, articles) if findable is None or findable[row]]
    for reader, of_reader, is_found in zip(readers, rows.numpy(), found.numpy(), strict=True):
        best = sorted(left, key=lambda row: -float(reader @ vectors[row]))
        assert of_reader[is_found].tolist() == best
    np.testing.assert_array_equal(index.vectors(tf.constant([articles - 1, 0])), vectors[[articles - 1, 0]])


def test_more_than_there_is_is_refused():
    with pytest.raises(tf.errors.InvalidArgumentError):
        top_columns(tf.zeros([1, 40]), 65)
