"""Drift of numbers and of vectors, and what the app watches."""

import time

import numpy as np
import pytest

from genre_tf.serving.app.drift import Drift, Drifts, VectorDrift

from .conftest import TOKEN


def test_drift_is_small_for_the_same_and_large_for_another_distribution():
    random = np.random.default_rng(0)
    same, moved = Drift(), Drift()
    for drift, centre in ((same, 0.0), (moved, 1.0)):
        drift.add(random.normal(size=2_000).tolist())
        assert drift.index() == 0
        drift.add(random.normal(centre, size=2_000).tolist())
    assert same.index() < 0.03 and moved.index() > 0.5


def test_drift_of_few_or_equal_values_is_none():
    drift = Drift()
    drift.add([1.0] * 100)
    assert drift.index() == 0
    drift.add([1.0] * 5_000)
    assert drift.index() == pytest.approx(0)
    assert len(drift._newest) == 2_000


def test_values_that_leave_a_heap_have_moved():
    drift, still = Drift(), Drift()
    for one in (drift, still):
        one.add([0.0] * 4_000)
    still.add([0.0] * 1_990 + [0.5] * 10)
    drift.add([0.0] * 1_000 + [0.5] * 1_000)
    assert still.index() < 0.1 and drift.index() > 0.25


@pytest.mark.parametrize(
    ("change", "least", "most"),
    [
        (lambda vectors: vectors, 0.0, 0.05),
        (lambda vectors: vectors + 0.5, 0.25, np.inf),  # another place
        (lambda vectors: vectors * 1.2, 0.25, np.inf),  # other lengths
        (lambda vectors: vectors * ([4] + [0.1] * 15), 0.25, np.inf),  # fewer dimensions that matter
    ],
    ids=["same", "moved", "longer", "collapsed"],
)
def test_vectors_move_if_their_place_length_or_shape_changes(change, least, most):
    random, drift = np.random.default_rng(1), VectorDrift()
    drift.add(random.normal(size=(2_000, 16)))
    assert drift.index() == 0
    drift.add(change(random.normal(size=(2_000, 16))))
    assert least <= drift.index() < most


def test_the_first_vectors_that_are_compared_raise_no_alarm():
    highest = 0.0
    for seed in range(20):
        random, drift = np.random.default_rng(seed), VectorDrift()
        drift.add(random.normal(size=(2_200, 16)))
        highest = max(highest, drift.index())
    assert 0 < highest < 0.2


def test_vectors_that_are_only_rounded_otherwise_have_not_moved():
    random, drift = np.random.default_rng(1), VectorDrift()
    for noise in (0.0, 1e-7):
        vectors = random.normal(size=(2_000, 16))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        drift.add((vectors * (1 + noise * random.normal(size=(2_000, 1)))).astype(np.float32))
    assert drift.index() < 0.05


def test_vectors_without_numbers_are_left_out_and_other_dimensions_begin_anew():
    drift = VectorDrift()
    drift.add(np.full((3_000, 4), np.nan))
    assert drift.index() == 0
    drift.add(np.zeros((4_000, 4)))
    drift.add(np.ones((2_000, 4)))
    assert drift.index() > 0.25
    drift.add(np.zeros((2_000, 5)))
    assert drift.index() == 0


def test_what_was_observed_longest_ago_is_forgotten():
    drifts = Drifts()
    for version in range(40):
        drifts.observe("lengths", [1.0])
        drifts.observe(f"scores of {version}", [1.0])
    assert len(drifts.indexes()) == 16
    assert {"lengths", "scores of 39"} <= drifts.indexes().keys() and "scores of 3" not in drifts.indexes()


def drifts(app):
    return [line for line in app.get("/metrics").splitlines() if line.startswith("genre_app_drift_psi")]


def eventually(condition):
    ends = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_a_few_readers_vectors_are_asked_for_and_watched(app, server, monkeypatch):
    monkeypatch.setattr("genre_tf.serving.app.feed.VECTOR_SHARE", 1.0)
    app.get("/v1/readers/new/feed")  # no history, no vector
    app.click("r", "N3")
    for _ in range(20):
        app.get("/v1/readers/r/feed?k=3")
    eventually(lambda: any("readers' vectors of genre_recommender/1" in line for line in drifts(app)))
    assert {tuple(inputs["history"]) for inputs in server.signatures("embed_user")} == {("N3",)}
    answered = [label for name, label, _, _ in server.asked if name == "embed_user" and not label]
    assert 2 <= len(answered) < 10  # two a second
    assert "vectors" in app.get("/status", token=TOKEN)


def test_a_model_server_without_vectors_holds_up_no_feed(app, server, monkeypatch):
    monkeypatch.setattr("genre_tf.serving.app.feed.VECTOR_SHARE", 1.0)
    server.refused.add("embed_user")
    app.click("r", "N3")
    for _ in range(3):
        assert app.get("/v1/readers/r/feed?k=3")["version"] == "genre_recommender/1"
    failed = 'genre_app_model_failures_total{signature="embed_user"}'
    eventually(lambda: failed in app.get("/metrics"))
    assert not any("vectors" in line for line in drifts(app))


def test_readers_of_articles_that_no_index_knows_move_the_index(app, monkeypatch):
    monkeypatch.setattr("genre_tf.serving.app.drift._LEAST_COMPARED", 10)
    monkeypatch.setattr(Drift.__init__, "__defaults__", (10, 10))
    app.click("known", "N3")
    app.click("unknown", "N3")
    app.click("unknown", "X3")
    name = 'genre_app_drift_psi{what="shares of unknown articles in histories"}'
    for reader, moved in (("known", False), ("known", False), ("unknown", True)):
        for _ in range(10):
            app.get(f"/v1/readers/{reader}/feed?k=3")
        (line,) = (line for line in drifts(app) if line.startswith(name))
        assert (float(line.split()[-1]) > 0.25) == moved
