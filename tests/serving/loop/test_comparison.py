"""The sequential test on simulated readers, who differ in how much they read and click."""

import numpy as np
import pytest

from genre_tf.serving.loop.comparison import Comparison, compare, rate_of

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
    seed: int, rates: tuple[float, float], hours: int = 48, most: int = 10**9, readers: int = 200
) -> Comparison:
    """The test after the first hour with a decision, or after the last one; looked at each hour."""
    present, new = Traffic(2 * seed, 2 * readers, rates[0]), Traffic(2 * seed + 1, readers, rates[1])
    for _ in range(hours):
        found = compare(present.hour(), new.hour(), error_rate=ERROR_RATE, most_impressions=most)
        if found.decision != "go on":
            break
    return found


def test_equal_versions_are_seldom_told_apart_however_often_one_looks() -> None:
    decisions = [decided(seed, (0.1, 0.1), hours=24).decision for seed in range(500)]

    assert decisions.count("better") + decisions.count("worse") <= ERROR_RATE * 500


@pytest.mark.parametrize(("new", "expected"), [(0.05, "worse"), (0.2, "better")])
def test_large_differences_are_found_in_twenty_of_twenty(new: float, expected: str) -> None:
    assert [decided(seed, (0.1, new), readers=1500).decision for seed in range(20)] == [expected] * 20


def test_it_ends_without_a_difference_after_enough_impressions() -> None:
    found = decided(1, (0.1, 0.1), most=2000)

    assert found.decision == "no harm" and found.new.impressions >= 2000


def test_variance_is_over_readers_not_impressions() -> None:
    random = np.random.default_rng(0)
    means = []
    for _ in range(2000):
        clicks = np.where(random.random(100) < 0.1, 20, 0)  # a reader clicks always or never
        means.append(clicks.sum() / 2000)
    rate = rate_of({str(number): (20, int(count)) for number, count in enumerate(clicks)})

    assert rate.variance == pytest.approx(np.var(means), rel=0.5)
    assert rate.variance > 5 * 0.1 * 0.9 / 2000  # which clicks that are drawn one by one would have


@pytest.mark.parametrize("counts", [{}, {"U1": (3, 1)}, {str(n): (2, 0) for n in range(100)}])
def test_too_few_readers_and_no_clicks_decide_nothing(counts: dict[str, tuple[int, int]]) -> None:
    found = compare(counts, counts, error_rate=ERROR_RATE, most_impressions=1000)

    assert (found.decision, found.evidence) == ("go on", 1.0)
