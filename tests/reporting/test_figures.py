"""Pictures: whatever a title holds is drawn as text, without a warning; what is missing is not drawn."""

import numpy as np
import pytest

from genre_tf.reporting import figures


def sample(title: str) -> dict:
    return {
        "history": [title, "A plain one", "x" * 300],
        "recommended": [
            {"title": title, "probability": 0.2, "clicked": True, "weights": [0.5, 0.3, 0.2]},
            {"title": "Other", "probability": 0.1, "clicked": False, "weights": [0.1, 0.1, 0.8]},
        ],
    }


@pytest.mark.parametrize("title", ["北京今天下雪", "Costs $5 to $10", r"\frac{1} _x^2", "", "🎉 party"])
def test_any_title_is_drawn_without_a_warning(title: str):
    pixels = figures.as_pixels(figures.attention(sample(title)))
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 4
    assert len(np.unique(pixels.reshape(-1, 4), axis=0)) > 10
    assert figures.as_png(figures.attention(sample(title))).startswith(b"\x89PNG")


def test_any_category_is_drawn_too():
    rows = [
        {"category": name, "shown_share": 0.5, "click_share": 0.4, "first_share": {"ranker": 0.3}}
        for name in ("体育", "$port$", "(none)")
    ]
    figure = figures.exposure({"categories": rows})
    assert figure is not None and figures.as_png(figure)


def test_what_an_evaluation_lacks_is_not_drawn():
    numbers = {"auc": 0.6}
    report = {"models": {"ranker": {"all": numbers}}, "baselines": {}, "before": {}, "slices": {"all": 9}}
    assert set(figures.evaluation_figures(report)) == {"Before and after fine-tuning"}
    assert figures.evaluation_figures({**report, "models": {"ranker": {"all": {"auc": None}}}}) == {}
    report["intervals"] = {"ranker": {"all": None}}
    report["before"] = {"models": {"ranker": {"all": {"auc": 0.5}}}}
    assert set(figures.evaluation_figures(report)) == {"AUC by slice", "Before and after fine-tuning"}


def test_where_no_impression_has_an_auc_nothing_is_compared():
    def parts(auc):
        return {"ranker": {"all": {"auc": auc}}}

    def compared(before, now, random):
        baselines = {"random": {"all": {"auc": random}}}
        report = {"models": parts(now), "before": {"models": parts(before)}, "baselines": baselines}
        return figures.before_and_after(report)

    assert compared(None, None, None) is None
    figure = compared(0.5, 0.6, None)
    assert figure is not None and figures.as_png(figure)


def test_the_first_picture_has_both_tasks_with_start_interval_and_best_baseline():
    def of_all(metric, value):
        return {"all": {metric: value}}

    report = {
        "models": {"ranker": of_all("auc", 0.6)},
        "baselines": {"random": of_all("auc", 0.5), "bm25": of_all("auc", 0.55)},
        "intervals": {"ranker": {"all": [0.58, 0.62]}},
        "before": {
            "models": {"ranker": of_all("auc", 0.52)},
            "pool": {"recommend": of_all("recall@10", 0.02)},
        },
        "pool": {
            "recommend": of_all("recall@10", 0.12),
            "retrieval": {},
            "baselines": {"clicks_6h": of_all("recall@10", 0.11)},
            "intervals": {"recommend": of_all("recall@10", [0.1, 0.14])},
        },
    }
    figure = figures.before_and_after(report)
    assert figure is not None and figures.as_png(figure)
    impressions, pool = figure.axes
    assert impressions.get_xlabel() == "best baseline 0.550:\nBM25 of titles"
    assert pool.get_xlabel() == "best baseline 0.110:\nclicks halved every 6 hours"
    for axes, (before, after, low, high) in (
        (impressions, (0.52, 0.6, 0.58, 0.62)),
        (pool, (0.02, 0.12, 0.1, 0.14)),
    ):
        drawn = [list(line.get_xdata()) for line in axes.lines]
        assert [before, after] in drawn and [low, high] in drawn and [before] in drawn and [after] in drawn


def test_a_slice_without_impressions_leaves_a_gap():
    report = {
        "models": {"ranker": {"all": {"auc": 0.6}, "no_history": {"auc": None}}},
        "baselines": {"random": {"all": {"auc": 0.5}, "no_history": {"auc": None}}},
        "before": {},
        "slices": {"all": 9, "no_history": 0},
        "intervals": {name: {"all": [0.4, 0.8], "no_history": None} for name in ("ranker", "random")},
    }
    figure = figures.auc_by_slice(report)
    assert figure is not None and figures.as_png(figure)
