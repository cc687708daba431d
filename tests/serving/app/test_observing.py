"""Drift, agreement of lists, traces."""

import re
from pathlib import Path

import numpy as np
import pytest

from genre_tf.serving import operations
from genre_tf.serving.app.observing import Drift, Metrics, hashed, overlap, trace_of


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


def test_the_overlap_of_lists():
    assert overlap("abc", "abc") == 1 and overlap("abc", "xyz") == 0 and overlap("", "") == 1
    assert overlap("ab", "ba") == pytest.approx((0 + 1) / 2)


def test_a_trace_goes_on_if_it_is_one():
    trace = "ab" * 16
    assert trace_of(f"00-{trace}-{'cd' * 8}-00").split("-")[1] == trace
    for wrong in (None, "", "x", f"00-{'0' * 32}-{'cd' * 8}-00", f"00-{trace}-{'cd' * 8}-00\n"):
        assert trace_of(wrong).split("-")[1] != trace
        assert len(trace_of(wrong)) == 55


def test_readers_are_hashed_with_the_salt_of_the_database():
    assert hashed("r", "a") == hashed("r", "a") != hashed("r", "b")


def test_the_page_of_metrics_has_the_drift():
    metrics = Metrics()
    metrics.observe("scores", list(range(4_000)))
    assert 'genre_app_drift_psi{what="scores"}' in metrics.page().decode()


def test_alerts_are_over_metrics_that_the_app_has():
    templates = Path(operations.__file__).parent / "templates" / "monitoring"
    named = set(re.findall(r"genre_app_\w+", (templates / "alerts.yml").read_text("utf-8")))
    metrics = Metrics()
    known = set()
    for family in metrics.registry.collect():
        known |= {f"{family.name}{end}" for end in ("", "_total", "_bucket")}
    assert len(named) > 5 and named <= known
