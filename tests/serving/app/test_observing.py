"""Metrics, agreement of lists, traces."""

import re
from pathlib import Path

import pytest

from genre_tf.serving import operations
from genre_tf.serving.app.observing import Metrics, hashed, overlap, trace_of


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
    metrics.drifts.observe("scores", list(range(4_000)))
    assert 'genre_app_drift_psi{what="scores"}' in metrics.page().decode()


def test_alerts_are_over_metrics_that_the_app_has():
    templates = Path(operations.__file__).parent / "templates" / "monitoring"
    named = set(re.findall(r"genre_app_\w+", (templates / "alerts.yml").read_text("utf-8")))
    metrics = Metrics()
    known = set()
    for family in metrics.registry.collect():
        known |= {f"{family.name}{end}" for end in ("", "_total", "_bucket")}
    assert len(named) > 5 and named <= known


def test_the_alert_on_drift_is_over_all_that_is_watched():
    templates = Path(operations.__file__).parent / "templates" / "monitoring"
    alert = (templates / "alerts.yml").read_text("utf-8").partition("GenreAppDrift")[2]
    assert re.search(r'expr: "(.*)"', alert)[1] == "genre_app_drift_psi > 0.25"  # no label is selected
