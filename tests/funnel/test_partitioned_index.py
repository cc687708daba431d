"""The partitioned index: blocks hold every article once, the nearest are found, and the read ones are not."""

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.benchmarks.exported import ExportedSignature
from genre_tf.errors import InputError
from genre_tf.export.gate import portability_violations
from genre_tf.export.saved_model import write_saved_model
from genre_tf.funnel.search import (
    PartitionedIndex,
    PartitionedOptions,
    k_means,
    part_into_blocks,
)

SMALL = 16
NOBODY_READ = np.zeros((0, 2), np.int64)


def clustered(count, clusters, seed=0):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(clusters, 24))
    vectors = centres[random.integers(0, clusters, count)] + random.normal(scale=0.3, size=(count, 24))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def vectors():
    return np.concatenate([np.zeros((1, 24), np.float32), clustered(6000, 40)])


@pytest.fixture(scope="module")
def readers():
    return clustered(30, 40)  # in the same clusters


def exact(readers, vectors, limit):
    scores = readers @ vectors[1:].T
    return np.argsort(-scores, axis=1, kind="stable")[:, :limit] + 1


def recall(found, expected):
    shares = [len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), expected.tolist(), strict=True)]
    return np.mean(shares)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 1000])
def test_every_article_is_in_one_block(count):
    blocks = part_into_blocks(clustered(count, 5), SMALL)
    assert sorted(np.concatenate(blocks).tolist()) == list(range(count))
    assert max(map(len, blocks)) <= 16 and min(map(len, blocks)) >= 1


def test_equal_articles_are_parted_too():
    blocks = part_into_blocks(np.ones((100, 8), np.float32), SMALL)
    assert sorted(np.concatenate(blocks).tolist()) == list(range(100))


def test_blocks_hold_neighbours(vectors):
    blocks = part_into_blocks(vectors[1:], SMALL)
    within = np.mean([np.var(vectors[1:][rows], axis=0).sum() for rows in blocks if len(rows) > 4])
    assert within < 0.5 * np.var(vectors[1:], axis=0).sum()


def test_centres_of_apart_groups_are_their_means():
    random = np.random.default_rng(0)
    groups = [random.normal(scale=0.01, size=(40, 2)) + centre for centre in ([9, 0], [0, 9])]
    points = np.concatenate(groups).astype(np.float32)
    centres = k_means(points, 2)
    expected = sorted(group.mean(axis=0).tolist() for group in groups)
    np.testing.assert_allclose(sorted(centres.tolist()), expected, atol=1e-3)


def test_most_of_the_nearest_are_found_in_a_tenth_of_the_pool(vectors, readers):
    index = PartitionedIndex(vectors, PartitionedOptions(block=SMALL, probes=38))
    rows, found = index.ask(tf.constant(readers)).best(tf.constant(NOBODY_READ), 50)
    assert found.numpy().all() and rows.shape == (30, 50)
    assert recall(rows.numpy(), exact(readers, vectors, 50)) >= 0.95


def test_in_all_blocks_the_search_is_exact(vectors, readers):
    index = PartitionedIndex(vectors, PartitionedOptions(block=SMALL, probes=10_000))
    rows, found = index.ask(tf.constant(readers)).best(tf.constant(NOBODY_READ), 50)
    np.testing.assert_array_equal(rows, exact(readers, vectors, 50))
    assert found.numpy().all()


def test_what_a_reader_has_read_is_not_found_for_him_alone(vectors, readers):
    index = PartitionedIndex(vectors, PartitionedOptions(block=SMALL, probes=38))
    before, _ = index.ask(tf.constant(readers[:3])).best(tf.constant(NOBODY_READ), 20)
    read = before.numpy()[1, [0, 3, 19]]
    # The padding article and an unknown row's place harm nothing.
    excluded = np.array([*([1, row] for row in read), [0, 0]], np.int64)
    after, _ = index.ask(tf.constant(readers[:3])).best(tf.constant(excluded), 20)
    np.testing.assert_array_equal(after.numpy()[[0, 2]], before.numpy()[[0, 2]])
    kept = [row for row in before.numpy()[1] if row not in read]
    assert after.numpy()[1, :17].tolist() == kept and not set(after.numpy()[1]) & set(read)


def test_a_small_pool_is_answered_without_results_beyond_it():
    vectors = np.concatenate([np.zeros((1, 24), np.float32), clustered(5, 2)])
    index = PartitionedIndex(vectors, PartitionedOptions(block=SMALL))
    rows, found = index.ask(tf.constant(vectors[1:2])).best(tf.constant([[0, 2]], tf.int64), 10)
    assert found.numpy()[0].tolist() == [True] * 4 + [False] * 6
    assert sorted(rows.numpy()[0, :4].tolist()) == [1, 3, 4, 5] and rows.numpy()[0, 4:].tolist() == [0] * 6


def test_the_graph_is_portable_and_answers_by_session(vectors, readers, tmp_path):
    index = PartitionedIndex(vectors, PartitionedOptions(block=SMALL, probes=38))

    def search(reader):
        numbers = tf.strings.to_number(tf.strings.split(reader).to_tensor())  # [B, 24]
        return {"rows": index.ask(numbers).best(tf.constant(NOBODY_READ), 20)[0]}

    write_saved_model(tmp_path / "1", [index], {"search": (search, {"reader": tf.string})})
    assert portability_violations(tmp_path / "1") == []
    expected, _ = index.ask(tf.constant(readers)).best(tf.constant(NOBODY_READ), 20)
    ask = ExportedSignature(tmp_path / "1", "search")
    joined = np.array([" ".join(map(str, reader)) for reader in readers], object)
    np.testing.assert_array_equal(ask(reader=joined)["rows"], expected)
    ask.close()


def test_bad_input_is_refused_in_plain_words():
    with pytest.raises(InputError, match=r"probes .* must be at least 1; got 0"):
        PartitionedOptions(probes=0)
    with pytest.raises(InputError, match="at least one article after row 0"):
        PartitionedIndex(np.zeros((1, 4), np.float32), PartitionedOptions())
    with pytest.raises(InputError, match="finite"):
        PartitionedIndex(np.full((3, 4), np.nan, np.float32), PartitionedOptions())
