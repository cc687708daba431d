"""The paired bootstrap finds what is there and nothing else."""

import numpy as np
import pytest

from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.columns import ImpressionExample
from genre_tf.evaluation.significance import (
    FIRST_PLACES,
    bootstrap_intervals,
    by_activity,
    by_category,
    paired_bootstrap,
)


def test_the_interval_is_that_of_the_normal_theory() -> None:
    generator = np.random.default_rng(0)
    theirs = generator.random(2000)
    ours = theirs + generator.normal(0.02, 0.1, 2000)
    found = paired_bootstrap(ours, theirs)
    assert found is not None
    margin = 1.96 * (ours - theirs).std() / np.sqrt(2000)
    assert found.difference == pytest.approx((ours - theirs).mean())
    assert found.low == pytest.approx(found.difference - margin, abs=margin * 0.1)
    assert found.high == pytest.approx(found.difference + margin, abs=margin * 0.1)
    assert found.probability_not_better < 0.001


def test_pairing_sees_a_small_difference_that_unpaired_noise_would_hide() -> None:
    theirs = np.random.default_rng(1).random(200)
    found = paired_bootstrap(theirs + 0.001, theirs)
    assert found is not None
    assert found.low == pytest.approx(0.001)


def test_the_same_seed_gives_the_same_interval_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).random((2, 50))
    whole = paired_bootstrap(values[0], values[1])
    monkeypatch.setattr("genre_tf.evaluation.significance._BLOCK_DRAWS", 500)
    assert paired_bootstrap(values[0], values[1]) == whole


def test_undefined_impressions_are_left_out_and_none_left_is_none() -> None:
    found = paired_bootstrap(np.array([1.0, np.nan, 3]), np.array([0.0, 0, np.nan]))
    assert found is not None
    assert (found.difference, found.impressions) == (1.0, 1)
    assert paired_bootstrap(np.array([np.nan]), np.array([1.0])) is None


def test_values_of_different_impressions_are_refused() -> None:
    with pytest.raises(ValueError, match="differ; they must be equal"):
        paired_bootstrap(np.ones(2), np.ones(3))


def test_intervals_of_many_metrics_are_those_of_each_alone_and_of_any_blocks(monkeypatch: pytest.MonkeyPatch):
    values = np.random.default_rng(1).random((80, 3))
    values[::3, 1] = np.nan
    values[:, 2] = np.nan
    found = bootstrap_intervals(values)
    for column in (0, 1):
        alone = paired_bootstrap(values[:, column], np.zeros(80))
        assert alone is not None and found[column] == pytest.approx([alone.low, alone.high])
    assert np.isnan(found[2]).all()
    monkeypatch.setattr("genre_tf.evaluation.significance._BLOCK_DRAWS", 500)
    assert bootstrap_intervals(values)[:2] == pytest.approx(found[:2])


TABLE = ArticleTable(
    Article(f"N{at}", "sports" if at <= 4 else "food", "", f"Title {at}", "") for at in range(1, 9)
)
NOTHING = np.zeros((8, 3), np.float32)


def example(clicked: set[int]) -> ImpressionExample:
    rows = np.arange(1, 9, dtype=np.int32)
    labels = np.isin(rows, list(clicked)).astype(np.float32)
    return ImpressionExample(0, "U", 0.0, rows[:0], rows, labels, NOTHING)


def test_a_category_is_exposed_by_its_share_of_the_first_places():
    examples = [example({1}), example({5, 2})]
    clicked = [each.labels > 0 for each in examples]
    falling = [np.arange(8, 0, -1).astype(np.float32)] * 2  # N1 to N4, the sports, stand above
    food, sports = by_category(TABLE, examples, clicked, {"model": falling})
    assert (sports["category"], sports["shown"], sports["clicked"]) == ("sports", 8, 2)
    assert (sports["shown_share"], food["click_share"]) == (0.5, pytest.approx(1 / 3))
    assert sports["first_share"]["model"] == 4 / FIRST_PLACES
    assert food["first_share"]["model"] == 1 / FIRST_PLACES


def test_a_category_is_judged_by_its_own_clicks_against_what_was_not_clicked():
    examples = [example({1, 8})]
    falling = [np.arange(8, 0, -1).astype(np.float32)]
    food, sports = by_category(TABLE, examples, [examples[0].labels > 0], {"model": falling})
    assert sports["auc"]["model"]["mean"] == 1.0
    assert food["auc"]["model"]["mean"] == 0.0
    assert food["auc"]["model"]["low"] is None  # of one impression


def test_a_category_that_nobody_clicked_has_no_auc_and_short_impressions_no_first_places():
    short = ImpressionExample(
        0, "U", 0.0, np.zeros(0, np.int32), np.array([1, 6], np.int32), np.array([1.0, 0.0]), NOTHING[:2]
    )
    rows = by_category(TABLE, [short], [short.labels > 0], {"model": [np.array([1.0, 2.0], np.float32)]})
    found = {row["category"]: row for row in rows}
    assert found["food"]["auc"]["model"] is None
    assert found["food"]["first_share"]["model"] == 0


def test_every_impression_is_in_one_group_of_activity():
    clicks = [0, 1, 5, 6, 20, 21, 50, 51, 900]
    auc = np.array([0.5, 0.6, 0.8, 0.1, np.nan, 1.0, 1.0, 0.2, 0.4])
    rows = by_activity(clicks, {"model": auc})
    assert [row["impressions"] for row in rows] == [1, 2, 2, 2, 2]
    assert rows[1]["auc"]["model"]["mean"] == pytest.approx(0.7)
    assert rows[2]["auc"]["model"]["impressions"] == 1  # one is not defined
    low, high = rows[4]["auc"]["model"]["low"], rows[4]["auc"]["model"]["high"]
    assert low < 0.3 < high


def test_only_impressions_with_a_click_of_the_category_are_looked_at_for_its_auc():
    class Counted(list):
        looked_at = 0

        def __getitem__(self, at):
            Counted.looked_at += 1
            return super().__getitem__(at)

    table = ArticleTable(Article(f"N{at}", f"topic {at}", "", "Title", "") for at in range(1, 9))
    examples = [example({1 + at % 8}) for at in range(80)]
    scores = Counted([np.arange(8, 0, -1).astype(np.float32)] * 80)
    rows = by_category(table, examples, [each.labels > 0 for each in examples], {"model": scores})
    assert [row["auc"]["model"]["impressions"] for row in rows] == [10] * 8
    assert Counted.looked_at == 80
