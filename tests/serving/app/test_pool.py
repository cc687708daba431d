"""The counters that the app tells the model are those that training counted."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from genre_tf.contract import COUNTERS
from genre_tf.data.articles import Impression
from genre_tf.data.counters import Counters
from genre_tf.errors import InputError
from genre_tf.serving.app.pool import LiveCounters, Pool
from genre_tf.serving.client.messages import PredictRequest, to_array

from .conftest import write_version

START = datetime(2026, 1, 5, 8)


def seconds(moment):
    return moment.replace(tzinfo=UTC).timestamp()


def slots(impressions):
    """The rows that the database has of some impressions."""
    counts = {}
    for one in impressions:
        for news_id, clicked in zip(one.candidates, one.clicked, strict=True):
            key = news_id, int(seconds(one.time) // 60)
            clicks, views = counts.get(key, (0, 0))
            counts[key] = clicks + clicked, views + 1
    return [(*key, *count) for key, count in counts.items()]


def log(count, seed=0):
    random = np.random.default_rng(seed)
    for number in range(count):
        moment = START + timedelta(seconds=int(random.integers(0, 6 * 3600)))
        shown = [f"N{place}" for place in random.choice(np.arange(1, 9), 4, replace=False)]
        clicked = tuple(bool(one) for one in random.random(4) < 0.3)
        yield Impression(str(number), "U", moment, (), tuple(shown), clicked)


@pytest.fixture
def pool(tmp_path):
    write_version(tmp_path, views=0)
    file = tmp_path / "genre_recommender/1/assets.extra/articles.jsonl"
    lines = [json.loads(line) | {"counters": [0.0] * 9} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Pool.read(tmp_path)


def test_clicks_and_views_are_halved_as_in_training(pool):
    impressions = sorted(log(800), key=lambda one: one.time)
    now = START + timedelta(hours=6, minutes=30)
    exact = Counters()
    for one in impressions:
        exact.observe(one)
    ids = [f"N{number}" for number in range(1, 9)]
    live = LiveCounters(pool).at(seconds(now), slots(impressions))
    found = np.array([live.of[news_id] for news_id in ids])
    expected = exact.features(ids, now)
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.02)  # a minute is counted as its middle


def test_looking_every_second_gives_what_looking_once_gives(pool):
    impressions, now = list(log(300)), seconds(START) + 7 * 3600
    once = LiveCounters(pool).at(now, slots(impressions))
    often, rows = LiveCounters(pool), slots(impressions)
    for moment in [*np.arange(seconds(START), now, 401).tolist(), now]:
        seen = [row for row in rows if row[1] * 60 <= moment and row[1] >= often.first_slot]
        live = often.at(moment, seen)
    for news_id, numbers in once.of.items():
        np.testing.assert_allclose(live.of[news_id], numbers, rtol=0.01, atol=0.01)


def test_counts_are_added_to_those_of_the_index_which_grow_older(tmp_path):
    version = write_version(tmp_path, views=16)
    pool = Pool.read(tmp_path)
    live = LiveCounters(pool).at(pool.moment + 3600, [("N3", int(pool.moment // 60) + 59, 1, 2)])
    numbers = dict(zip(COUNTERS, live.of["N3"], strict=True))
    assert (numbers["clicks"], numbers["views"], numbers["age_hours"]) == (3, 18, 3)
    assert numbers["views_1h"] == pytest.approx(0.5 + 2, abs=0.05)
    assert numbers["clicks_24h"] == pytest.approx(1, abs=0.05)
    assert pool.version == version and live.popular[0] == "N3"


def test_events_that_an_export_has_counted_do_not_count_again(tmp_path):
    version = write_version(tmp_path)
    file = version / "assets.extra" / "contract.json"
    as_of = datetime.fromtimestamp(file.stat().st_mtime, UTC) - timedelta(hours=1)
    file.write_text(json.dumps({"sources": {"counters_as_of": as_of.replace(tzinfo=None).isoformat()}}))
    pool = Pool.read(tmp_path)
    assert pool.moment == pool.since == pytest.approx(as_of.timestamp(), abs=1)
    assert LiveCounters(pool).first_slot == int(pool.since // 60)


def test_the_clock_of_an_old_log_is_not_todays(tmp_path):
    version = write_version(tmp_path, as_of="2019-11-15T00:00:00")
    pool = Pool.read(tmp_path)
    assert pool.moment == pytest.approx((version / "assets.extra" / "contract.json").stat().st_mtime)
    assert pool.since == 0


def test_an_article_under_embargo_is_not_told_until_it_is_out(tmp_path):
    version = write_version(tmp_path)
    file = version / "assets.extra" / "articles.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0]["counters"] = [0, 0, -2, 0, 0, 0, 0, 0, 0]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    pool = Pool.read(tmp_path)
    before, after = (LiveCounters(pool).at(pool.moment + hours * 3600, []) for hours in (1, 3))
    assert "N1" not in before.of and "N1" not in before.popular
    assert after.of["N1"][2] == pytest.approx(1, abs=0.01)


def test_at_most_so_many_articles_are_told_those_first_that_are_shown_here(pool):
    counts = [("N7", 1, 0, 1), ("N9", 3, 0, 1), ("elsewhere", 3, 5, 9)]
    live = LiveCounters(pool).at(600.0, counts, most=2)
    assert list(live.of) == ["N9", "N7"]


def test_articles_that_must_not_be_found_are_told_first_and_as_never_seen(pool):
    live = LiveCounters(pool).at(600.0, [("N7", 3, 1, 1)])
    request = PredictRequest.FromString(live.without({"N7"}))
    rows = {name: to_array(proto)[0].decode().split() for name, proto in request.inputs.items()}
    assert rows["news_id"][0] == "N7" and {len(row) for row in rows.values()} == {31}
    assert {rows[name][0] for name in COUNTERS} == {"0"}
    assert "history" not in rows and live.without([]) == live.message


def test_a_folder_without_a_version_is_refused(tmp_path):
    with pytest.raises(InputError, match="genre export"):
        Pool.read(tmp_path)
