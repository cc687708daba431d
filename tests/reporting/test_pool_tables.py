"""The whole pool in a report: strict JSON, tables, TensorBoard and HTML."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from genre_tf.config import RunConfig
from genre_tf.evaluation.click_model import calibration
from genre_tf.evaluation.pool_metrics import rank_metrics
from genre_tf.evaluation.whole_pool import pool_section
from genre_tf.reporting.board import charts, scalars
from genre_tf.reporting.figures import as_png, evaluation_figures
from genre_tf.reporting.html_report import _environment
from genre_tf.reporting.tables import pool_lines, print_report, report_tables

COUNT = 60
GENERATOR = np.random.default_rng(0)
SLICES = {
    "all": np.ones(COUNT, bool),
    "no_history": np.arange(COUNT) < 20,
    "unseen_reader": np.zeros(COUNT, bool),
}


def ranked(most: int) -> dict[str, np.ndarray]:
    return rank_metrics([GENERATOR.integers(1, most, 1) for _ in range(COUNT)])


def section(**more: Any) -> dict[str, Any]:
    fresh = {"fresh": np.where(np.arange(COUNT) % 2, 1.0, np.nan), "diversity": np.full(COUNT, np.nan)}
    measured = {
        "recommend": ranked(12) | fresh,
        "retrieval": ranked(200),
        "clicks_1h": ranked(90),
        "clicks_6h": ranked(30),
        "chance": ranked(400),
    }
    scores = GENERATOR.random(300)
    options: dict[str, Any] = {
        "articles": 400,
        "per_moment": np.array([300, 400] * (COUNT // 2)),
        "rule": "first_seen",
        "coverage": {"recommend": 0.25},
        "calibration": calibration(scores, GENERATOR.random(300) < scores),
    }
    return pool_section(measured, SLICES, **{**options, **more})


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return {
        "split": "dev",
        "impressions": COUNT,
        "slices": {"all": COUNT},
        "models": {},
        "baselines": {},
        "before": {},
        "pool": section(),
    }


def test_the_section_has_means_intervals_and_differences(report: dict[str, Any]):
    found = report["pool"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    mean, (low, high) = (
        found["recommend"]["all"]["recall@10"],
        found["intervals"]["recommend"]["all"]["recall@10"],
    )
    assert low < mean < high
    assert found["recommend"]["all"]["fresh"] == 1
    assert set(found["baselines"]) == {"clicks_1h", "clicks_6h", "chance"}
    assert set(found["significance"]) == {
        f"recommend over {name}" for name in ("retrieval", "clicks_6h", "clicks_1h")
    }
    assert found["significance"]["recommend over clicks_1h"]["recall@10"]["low"] > 0
    assert found["pool"] == {
        "articles": 400,
        "per_moment": {"mean": 350.0, "least": 300, "most": 400},
        "rule": "first_seen",
        "reason": found["pool"]["reason"],
        "impressions": COUNT,
    }


def test_a_slice_without_impressions_and_a_metric_without_values_are_none(report: dict[str, Any]):
    found = report["pool"]
    assert found["slices"] == {"all": COUNT, "no_history": 20, "unseen_reader": 0}
    assert found["recommend"]["unseen_reader"]["recall@10"] is None
    assert found["intervals"]["recommend"]["unseen_reader"]["recall@10"] is None
    assert found["recommend"]["all"]["diversity"] is None
    assert found["intervals"]["recommend"]["all"]["diversity"] is None


def test_people_read_the_pool_its_slices_and_its_calibration(report: dict[str, Any]):
    out = StringIO()
    print_report(report, Console(file=out, width=80))
    text = out.getvalue()
    assert "…" not in text, "all of it fits into a terminal"
    assert "Whole pool on dev: what `recommend` would answer" in text
    found, described = (
        line for line in text.splitlines() if line.startswith("│ recommend ") and "│ 1.000" in line
    )
    assert f"{report['pool']['recommend']['all']['recall@10']:.3f}" in found
    assert "0.250" in described, "coverage"
    text = " ".join(text.split())  # lines may be folded
    for part in (
        "clicks 1h",
        "60 impressions",
        "350 articles on average (300 to 400)",
        "Brier score",
        "no history",
    ):
        assert part in text, part
    assert "without views" not in text and "None" not in text and "nan" not in text


def test_tensorboard_has_its_numbers_chart_and_picture(report: dict[str, Any]):
    tags = {f"dev/{name}" for name, _ in scalars(report)}
    assert "dev/pool/significance/recommend_over_clicks_1h/recall_at_10/difference" in tags
    assert "dev/pool/calibration/brier" in tags
    chart = charts(report)["recall@10 of the whole pool"]
    assert len(chart) == 5 and set(chart) <= tags
    pictures = evaluation_figures({key: report[key] for key in ("pool", "baselines", "before")})
    calibrated = "Reliability of recommendations out of the whole pool"
    assert set(pictures) == {"Before and after fine-tuning", calibrated}
    assert all(as_png(figure).startswith(b"\x89PNG") for figure in pictures.values())
    assert calibrated not in evaluation_figures({**report, "pool": section(calibration={})})


def test_the_page_has_a_section_on_the_pool(report: dict[str, Any], tmp_path: Path):
    template = _environment().get_template("report.html")
    shared: dict[str, Any] = {
        "run": "r",
        "split": "dev",
        "lacking": {"evaluation": "", "pool": "The whole pool was not measured."},
        "not_measured": "",
        "verdicts": [],
        "readers": [],
        "data": {},
        "report": {},
        "training": {},
        "config": RunConfig(),
    }
    shared |= {"findings": [], "pictures": {}, "recommended": [], "written": [], "safety_classifier": False}
    tables, lines = report_tables(report), pool_lines(report["pool"])
    html = template.render(**shared, tables=tables, pool_lines=lines)
    low, high = report["pool"]["intervals"]["clicks_1h"]["all"]["mrr"]
    for part in (
        "<th>clicks halved every hour</th>",
        f"{low:.3f} to {high:.3f}",
        "recommend over clicks halved every 6 hours",
        "<th>nDCG@10</th>",
    ):
        assert part in html, part
    assert "None" not in html
    assert "The whole pool was not measured" in template.render(**shared, tables={}, pool_lines=[])
