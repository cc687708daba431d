"""`genre bench loop`: regret that an oracle knows, arms that see the same visits, and a table of both."""

import numpy as np
import pytest

pytest.importorskip("sqlalchemy")

from genre_tf.benchmarks.loop_arms import Lost, lost_clicks
from genre_tf.benchmarks.loop_bench import ARMS, BOTH, DAILY, FROZEN, LIVE, UNIT, bench, regret
from genre_tf.benchmarks.loop_world import SHOWN, Visits, World, WorldSizes
from genre_tf.benchmarks.measuring import BenchOptions
from genre_tf.data.mind import epoch_seconds
from genre_tf.errors import InputError

SIZES = WorldSizes(readers=15, logged_days=2, logged_impressions=20, days=2, visits=40, articles=30)


def visits(probability):
    probability = np.asarray(probability, np.float64)
    taste = -probability  # the reader likes what nobody else reads
    pool = np.arange(probability.shape[1])
    return Visits(0, np.arange(len(probability)), pool, probability, taste, np.full(probability.shape, 0.5))


def test_regret_is_what_the_best_unread_feed_would_have_got_more():
    probability = np.linspace(0.01, 0.3, 30)[None]
    shown, read = np.zeros((2, 1, 30), bool)
    shown[0, 10:20], read[0, 29] = True, True
    new = np.arange(30) >= 25
    lost = lost_clicks(visits(probability), shown, read, new)
    best = probability[0, 29 - SHOWN : 29]  # the most probable article was read before
    assert lost.best[0] == pytest.approx(best.sum())
    assert lost.shown[0] == pytest.approx(probability[0, 10:20].sum())
    assert lost.missed[0] == pytest.approx(probability[0, 20:29].sum()), "one article was in both feeds"
    assert lost.missed_new[0] == pytest.approx(probability[0, 25:29].sum())
    assert lost.by_taste[0] == pytest.approx(probability[0, :10].sum())
    assert regret([lost, lost]) == pytest.approx(lost.best[0] - lost.shown[0])


def test_the_best_feed_leaves_no_regret():
    probability = np.linspace(0.3, 0.01, 30)[None]
    shown = np.arange(30)[None] < SHOWN
    lost = lost_clicks(visits(probability), shown, np.zeros((1, 30), bool), np.zeros(30, bool))
    assert lost.best == pytest.approx(lost.shown) and not lost.missed.any()


def test_a_seed_gives_the_same_visits_and_pools_hold_only_what_is_out(tmp_path):
    worlds = [World(SIZES, 3), World(SIZES, 3)]
    for number, world in enumerate(worlds):
        world.write_first_log(tmp_path / str(number))
    assert all(worlds[0].histories) and worlds[0].histories == worlds[1].histories
    published = np.array([epoch_seconds(one.published) for one in worlds[0].articles])
    seen, newest = [], []
    for day in range(SIZES.days):
        for one, other in zip(*(world.visits(day) for world in worlds), strict=True):
            np.testing.assert_array_equal(one.draw, other.draw)
            np.testing.assert_array_equal(one.probability, other.probability)
            assert (published[one.pool] <= one.second).all() and one.second >= worlds[0].midnight(day)
            assert (one.second - published[one.pool] <= 48 * 3600 + 1).all()
            assert len(set(one.readers.tolist())) == len(one.readers)
            seen.append(len(one.readers))
            newest.append(int(one.pool.max()))
    assert 0.9 * SIZES.days * SIZES.visits <= sum(seen) <= SIZES.days * SIZES.visits
    assert newest == sorted(newest) and newest[-1] > newest[0] + 10, "articles appear all the time"


@pytest.mark.proof
@pytest.mark.slow
def test_quick_gives_each_arm_a_row_for_each_day(tmp_path):
    said: list[str] = []
    options = BenchOptions(rounds=1, quick=True, data=None, news_backbone="tiny", say=said.append)
    rows = bench(options)
    spans = ("day 1", "day 2", "all days")
    assert [row.case for row in rows] == [f"{arm}, {span}" for arm in (LIVE, DAILY, BOTH) for span in spans]
    found = {row.case: row for row in rows}
    for row in rows:
        assert (row.peer_name, row.unit, row.rounds) == (FROZEN, UNIT, 1) and 0 < row.ours < 10
        assert row.ratio == pytest.approx(row.peer / row.ours)
    # Before the first night training has changed nothing.
    assert found[f"{DAILY}, day 1"].ours == found[f"{DAILY}, day 1"].peer
    assert found[f"{BOTH}, day 1"].ours == found[f"{LIVE}, day 1"].ours
    assert found[f"{LIVE}, day 1"].ours != found[f"{LIVE}, day 1"].peer
    assert sum("clicks a visit" in line for line in said) == 2 * len(ARMS)
    assert sum(", night 1: " in line for line in said) >= 2


def test_a_data_set_without_an_oracle_is_refused(tmp_path):
    options = BenchOptions(rounds=1, quick=True, data=tmp_path, news_backbone="tiny", say=print)
    with pytest.raises(InputError, match="whose truth is known"):
        bench(options)


def test_visits_of_several_parts_are_put_together():
    parts = [Lost(*(np.full(size, float(size)) for _ in range(5))) for size in (1, 2)]
    assert Lost.together(parts).best.tolist() == [1.0, 2.0, 2.0]
