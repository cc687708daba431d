"""The sequential test on simulated readers, who differ in how much they read and click."""

import math

import numpy as np
import pytest

from genre_tf.serving.loop import comparison
from genre_tf.serving.loop.comparison import Comparison, Counts, compare, rate_of

ERROR_RATE = 0.05


class Traffic:
    """Readers with click rates of their own; each hour some of them see feeds."""

    def __init__(self, seed: int, readers: int, rate: float) -> None:
        self.random = np.random.default_rng(seed)
        self.rates = self.random.beta(rate * 4, (1 - rate) * 4, readers)  # some click often, most seldom
        self.activity = self.random.gamma(0.5, 2.0, readers)  # most read little, some very much
        self.views, self.clicks = np.zeros((2, readers), int)

    def hour(self) -> dict[str, tuple[int, int]]:
        views = self.random.poisson(self.activity)
        self.views += views
        self.clicks += self.random.binomial(views, self.rates)
        rows = zip(self.views.tolist(), self.clicks.tolist(), strict=True)
        return {str(number): row for number, row in enumerate(rows) if row[0]}


def decided(
    seed: int,
    rates: tuple[float, float],
    hours: int = 48,
    most: int = 10**9,
    readers: int = 200,
    error_rate: float = ERROR_RATE,
) -> Comparison:
    """The test after the first hour with a decision, or after the last one; looked at each hour."""
    present, new = Traffic(2 * seed, 2 * readers, rates[0]), Traffic(2 * seed + 1, readers, rates[1])
    for _ in range(hours):
        found = compare(present.hour(), new.hour(), error_rate=error_rate, most_impressions=most)
        if found.decision != "go on":
            break
    return found


@pytest.mark.parametrize("error_rate", [0.05, 0.2])
@pytest.mark.parametrize("most", [10**9, 500])
def test_equal_versions_are_seldom_told_apart_however_often_one_looks(error_rate: float, most: int) -> None:
    found = [decided(seed, (0.1, 0.1), hours=24, most=most, error_rate=error_rate) for seed in range(500)]
    decisions = [one.decision for one in found]

    assert decisions.count("worse") <= error_rate * 500, "rolled back, both looks and the end together"
    assert most < 10**9 or decisions.count("better") + decisions.count("worse") <= error_rate * 500


def alone(counts: Counts) -> float:
    """The variance of a rate by the readers of one group alone."""
    rows = np.array(list(counts.values()), float)
    residual = rows[:, 1] - rows[:, 0] * rows[:, 1].sum() / rows[:, 0].sum()
    return float(residual.var(ddof=1) * len(rows) / rows[:, 0].sum() ** 2)


def test_a_small_group_of_skewed_readers_is_not_called_worse_too_often() -> None:
    """A tenth of the readers, whose variance alone is too low where their clicks happen to be few."""
    below = {"used": 0, "alone": 0}
    for seed in range(2000):
        random = np.random.default_rng(seed)
        views = random.poisson(random.lognormal(1.0, 1.0, 600))
        clicks = random.binomial(views, random.beta(0.4, 3.6, 600))
        rows = [(str(row), (int(views[row]), int(clicks[row]))) for row in np.flatnonzero(views)]
        present, new = dict(rows[60:]), dict(rows[:60])
        rates = [rate_of(counts) for counts in (present, new)]
        used = comparison.difference_variance(present, new)
        for name, variance in (("used", used), ("alone", alone(present) + alone(new))):
            below[name] += rates[1].rate - rates[0].rate < -1.96 * math.sqrt(variance)

    assert below["used"] <= 0.025 * 2000 < 0.04 * 2000 <= below["alone"]


def test_views_that_were_taken_for_independent_would_tell_equal_versions_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def of_views(present: Counts, new: Counts) -> float:
        rates = [rate_of(counts) for counts in (present, new)]
        return sum(one.rate * (1 - one.rate) / one.impressions for one in rates)

    monkeypatch.setattr(comparison, "difference_variance", of_views)
    decisions = [decided(seed, (0.1, 0.1), hours=24).decision for seed in range(100)]

    assert decisions.count("better") + decisions.count("worse") > 2 * ERROR_RATE * 100


@pytest.mark.parametrize(
    ("new", "expected"), [(0.05, {"worse"}), (0.15, {"better", "no harm"}), (0.2, {"better"})]
)
def test_half_the_clicks_are_always_rolled_back_and_more_clicks_promoted(
    new: float, expected: set[str]
) -> None:
    found = [decided(seed, (0.1, new), readers=1500, most=20_000).decision for seed in range(20)]

    assert set(found) <= expected


def test_harm_that_only_the_end_finds_is_worse() -> None:
    def readers(clicks: int) -> dict[str, tuple[int, int]]:
        return {str(number): (100, clicks + 16 * (number % 2)) for number in range(1000)}

    present, new = readers(100), readers(99)
    harmed = compare(present, new, error_rate=ERROR_RATE, most_impressions=100_000)
    early = compare(present, new, error_rate=ERROR_RATE, most_impressions=100_001)

    assert (early.decision, harmed.decision) == ("go on", "worse")
    assert early.low is not None and early.low < 0 < (early.high or 0)


def test_it_ends_without_a_difference_after_enough_impressions() -> None:
    found = decided(1, (0.1, 0.1), most=2000)

    assert found.decision == "no harm" and found.new.impressions >= 2000


def test_variance_is_over_readers_not_impressions() -> None:
    random = np.random.default_rng(0)
    means = []
    for _ in range(2000):
        clicks = np.where(random.random(100) < 0.1, 20, 0)  # a reader clicks always or never
        means.append(clicks.sum() / 2000)
    counts = {str(number): (20, int(count)) for number, count in enumerate(clicks)}
    variance = comparison.difference_variance(counts, counts) / 2

    assert variance == pytest.approx(np.var(means), rel=0.5)
    assert variance > 5 * 0.1 * 0.9 / 2000  # which clicks that are drawn one by one would have


@pytest.mark.parametrize("counts", [{}, {"U1": (3, 1)}, {str(n): (2, 0) for n in range(100)}])
def test_too_few_readers_and_no_clicks_decide_nothing(counts: dict[str, tuple[int, int]]) -> None:
    found = compare(counts, counts, error_rate=ERROR_RATE, most_impressions=1000)

    assert (found.decision, found.evidence) == ("go on", 1.0)
