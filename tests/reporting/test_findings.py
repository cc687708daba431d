"""The verdict and the warnings of a report: right numbers, honest words, nothing about what was left out."""

import re
from typing import Any

import pytest

from genre_tf.reporting.findings import findings, verdicts


def parts(**metrics: float | None) -> dict[str, Any]:
    return {"all": metrics}


def difference(low: float, high: float) -> dict[str, float]:
    return {"difference": (low + high) / 2, "low": low, "high": high}


def report(auc: dict[str, float], recall: dict[str, float]) -> dict[str, Any]:
    """An evaluation with these differences from the best baseline."""
    return {
        "models": {"two_tower": parts(auc=0.7), "ranker_counters": parts(auc=0.643)},
        "baselines": {"random": parts(auc=0.5), "bm25": parts(auc=0.612), "popularity": parts(auc=None)},
        "significance": {"ranker_counters over bm25": auc},
        "pool": {
            "recommend": parts(**{"recall@10": 0.121}),
            "baselines": {
                "chance": parts(**{"recall@10": 0.01}),
                "clicks_6h": parts(**{"recall@10": 0.11}),
            },
            "significance": {"recommend over clicks_6h": {"recall@10": recall}},
        },
    }


@pytest.mark.parametrize(
    ("low", "high", "outcome", "impressions", "pool"),
    [
        (
            0.012,
            0.05,
            "better",
            "The ranker with counters beats the best baseline (BM25 of titles, AUC 0.612) by 0.031 AUC "
            "(95% interval 0.012 to 0.050).",
            "those of the best baseline (clicks halved every 6 hours) contain 11.0%, 3.1 points less (95% "
            "interval 1.2 to 5.0).",
        ),
        (
            -0.01,
            0.03,
            "within chance",
            "The ranker with counters (AUC 0.643) is not measurably better than the best baseline (BM25 of "
            "titles, 0.612): the difference of +0.010 (95% interval -0.010 to +0.030) may be chance.",
            "a difference that may be chance (95% interval -1.0 to +3.0 points).",
        ),
        (
            -0.05,
            -0.012,
            "worse",
            "The ranker with counters is worse than the best baseline (BM25 of titles, AUC 0.612) by 0.031 "
            "AUC (95% interval 0.012 to 0.050).",
            "contain 11.0%, 3.1 points more (95% interval 1.2 to 5.0).",
        ),
    ],
)
def test_the_verdict_is_better_within_chance_or_worse(low, high, outcome, impressions, pool):
    first, second = verdicts(report(difference(low, high), difference(low, high)))
    assert first == ("Impressions", outcome, impressions)
    assert second[:2] == ("Whole pool", outcome)
    start = "From the whole pool, the first 10 recommendations contain 12.1% of the clicked articles"
    assert second.sentence.startswith(start) and second.sentence.endswith(pool)


def test_the_verdict_of_what_was_not_compared_gives_the_number_alone():
    assert verdicts({}) == []
    alone = {"models": {"ranker": parts(auc=0.6)}, "baselines": {}}
    (only,) = verdicts(alone)
    assert only.outcome == "not compared" and "The ranker has an AUC of 0.600" in only.sentence
    (only,) = verdicts({**alone, "models": {"ranker": parts(auc=None)}})
    assert only.outcome == "not compared" and "There is no AUC" in only.sentence


def test_findings_name_chance_few_impressions_and_texts_worse_than_copies():
    found = findings(
        {
            "models": {"ranker": {}},
            "significance": {"ranker over its start": difference(-0.01, 0.03)},
            "slices": {"all": 5000, "no_history": 30, "unseen_reader": 0},
            "click_model": {"ranker": {"calibration_error": 0.05, "click_rate": 0.04}},
            "generation": {"rouge1": 0.1, "baselines": {"first_10_words": {"rouge1": 0.2}}, "grounding": 0.5},
        }
    )
    expected = (
        "50% of the names",
        "Training may not have improved the ranker: AUC +0.010 (-0.010 to +0.030).",
        "ROUGE-1 0.100",
        "off by 0.050",
        "(fewer than 200): no history (30).",
    )
    assert len(found) == len(expected)
    for line, part in zip(found, expected, strict=True):
        assert part in line
    assert not re.search(r"nan|None", " ".join(found))


def test_the_most_severe_finding_comes_first():
    worse = report(difference(-0.05, -0.012), difference(-0.03, -0.01))
    worse["slices"] = {"all": 30}
    worse["significance"] |= {
        "two_tower over bm25": difference(-0.02, 0.02),
        "ranker_counters over its start": difference(-0.04, -0.02),
        "ranker_counters over ranker": difference(-0.04, -0.02),
    }
    worse["pool"]["significance"]["recommend over retrieval"] = {"recall@10": difference(-0.02, 0.02)}
    found = findings(worse, {"ranking": {}, "generation": {"refused": True}})
    assert [re.split(r"[:,]", line)[0] for line in found] == [
        "The last training of generation was rejected",
        "Training made the ranker with counters worse",
        "Recommendations may be no better than retrieval alone",
        "Counters make the ranker worse",
        "The two-tower model may be no better than the best baseline",
        "Few impressions",
    ]
    assert "AUC -0.030 (-0.040 to -0.020)." in found[1]


def test_what_is_better_and_what_was_not_measured_give_no_finding():
    better = report(difference(0.012, 0.05), difference(0.01, 0.03))
    assert findings({**better, "slices": {"all": 5000}, "generation": {}}, {"ranking": {}}) == []
    assert findings({}) == []
