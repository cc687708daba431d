"""`genre refresh --expire` and `--withdraw`: what leaves the pool, and stays in every history."""

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest

from genre_tf.data.articles import Article, ArticleTable, Impression
from genre_tf.data.counters import COUNTERS, Counters
from genre_tf.errors import InputError
from genre_tf.export.contract_file import read_contract
from genre_tf.export.pool import (
    Pool,
    build_catalogue,
    with_articles,
    with_counts,
    with_published_ages,
    without,
)
from genre_tf.export.publishing import publish, staged
from genre_tf.export.refreshing import Changes, new_articles, parse_expiry, refresh
from genre_tf.export.servables import recommender_servable, write_version
from genre_tf.funnel.rules import Rules
from genre_tf.funnel.served_models import ServedModels

from .conftest import NoProcess

SIZES = {"max_history": 5, "k": 12, "retrieve": 40}
START = datetime(2025, 3, 3)
STALE, READ, YOUNG = "N1 N2 N3 N4", "N5 N6", "N7 N8 N9 N10"
EMBARGOED, TIMELESS = "N11", "N12"
HISTORIES = [STALE, f"{STALE} {YOUNG}", f"N8 {EMBARGOED} {TIMELESS} N2", "N5 N1", ""]
KNOWING = {
    "embed_user": {},
    "score": {"candidates": [f"{STALE} {TIMELESS}", YOUNG, "N1 N9", EMBARGOED, "N2"]},
    "explain": {"candidates": [f"{STALE} {TIMELESS}", YOUNG, "N1 N9", EMBARGOED, "N2"]},
}


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("48", 48.0),
        ("1.5", 1.5),
        ("2019-11-15", datetime(2019, 11, 15)),
        ("2019-11-15T12:30", datetime(2019, 11, 15, 12, 30)),
    ],
)
def test_an_expiry_is_hours_or_a_date(text, limit):
    assert parse_expiry(text) == limit


@pytest.mark.parametrize("text", ["", "0", "-3", "nan", "inf", "yesterday", "2019-13-01"])
def test_other_expiries_are_wrong_input(text):
    with pytest.raises(InputError, match="--expire must be hours"):
        parse_expiry(text)


def article(number):
    published = START + timedelta(hours=110) if number == 11 else None
    topic = ("rates", "match", "storm", "cure")[number % 4]
    return Article(f"N{number}", "sports", "", f"{topic} story {number}", "", published)


def impression(hour, shown, clicked):
    candidates = tuple(shown.split())
    time = START + timedelta(hours=hour)
    return Impression(str(hour), "U", time, (), candidates, tuple(one in clicked for one in candidates))


LOG = [impression(0, f"{STALE} {READ}", "N1"), impression(90, YOUNG, YOUNG), impression(100, READ, READ)]


@pytest.fixture(scope="module")
def served(models, tmp_path_factory):
    """MODELS with a version without an age limit, as of hour 100."""
    folder = tmp_path_factory.mktemp("expiry")
    table, counters = ArticleTable([article(number) for number in range(1, 13)]), Counters()
    for one in LOG:
        counters.observe(one)
    as_of = counters.newest + timedelta(seconds=1)
    catalogue = build_catalogue(ServedModels(*models), table, Pool.of(table, counters).counters)
    rules = Rules(exploration=0)
    servable = recommender_servable(
        ServedModels(*models), catalogue, folder, **SIZES, rules=rules, as_of=as_of
    )
    with staged(folder / "models" / servable.name) as version:
        write_version(servable, version, {}, (1,))
        publish(version)
    return folder / "models"


@pytest.fixture(scope="module")
def expired(served):
    """The second version: an age limit of 48 hours, and N10 withdrawn."""
    changes = Changes(expire=48.0, withdraw=frozenset(["N10", "nobody"]))
    return refresh(served, changes, print, fresh=NoProcess())


@pytest.fixture(scope="module")
def later(served, expired, tmp_path_factory):
    """The third version, of hour 111: an hour after the embargo of N11 has ended."""
    log = tmp_path_factory.mktemp("later") / "behaviors.tsv"
    log.write_text(f"1\tU\t{START + timedelta(hours=111):%m/%d/%Y %I:%M:%S %p}\t\tN7-1 N8-0\n")
    return refresh(served, Changes(behaviors=log), print, fresh=NoProcess())


@pytest.fixture(scope="module")
def asks(served, expired, later, open_session):
    """Ask the versions 1, 2 and 3."""
    folder = served / "genre_recommender"
    return [open_session(folder / name) for name in ("1", "2", "3")]


def recommended(ask):
    return set(ask("recommend", history=[""])["news_id"][0].astype(str)) - {""}


def test_what_expires_leaves_the_pool(asks):
    assert recommended(asks[0]) == set(f"{STALE} {READ} {YOUNG} {TIMELESS}".split())
    assert recommended(asks[1]) == set(f"{READ} {YOUNG}".split()) - {"N10"}


@pytest.mark.parametrize("signature", KNOWING)
def test_no_history_and_no_score_changes(asks, signature):
    before, *after = (ask(signature, history=HISTORIES, **KNOWING[signature]) for ask in asks)
    for answer in after:
        for name, values in before.items():
            np.testing.assert_array_equal(answer[name], values, err_msg=name)


def test_what_is_old_and_still_read_stays_recommendable(asks, expired):
    assert set(READ.split()) <= recommended(asks[1])
    assert (expired.expired, expired.articles, expired.recommendable) == (6, 12, 5)


def test_what_was_withdrawn_never_comes_again(asks, served):
    everyone_else = " ".join(f"N{number}" for number in range(1, 13) if number != 10)
    for ask in asks[1:]:
        assert set(ask("recommend", history=[everyone_else])["news_id"][0]) == {b""}
        burst = {name: ["900"] for name in COUNTERS} | {"age_hours": ["1"]}
        answer = ask("recommend_live", history=[""], news_id=["N10"], **burst)
        assert b"N10" not in answer["news_id"]


def test_what_is_under_embargo_comes_after_a_refresh_past_its_time(asks):
    assert EMBARGOED not in recommended(asks[0]) | recommended(asks[1])
    assert recommended(asks[2]) == {*READ.split(), "N7", "N8", "N9", EMBARGOED}


def test_an_article_without_any_time_is_recommended_only_without_a_limit(asks):
    assert [TIMELESS in recommended(ask) for ask in asks] == [True, False, False]


def test_the_limit_stays_in_the_contract_of_later_versions(served, later):
    sizes = [read_contract(served / "genre_recommender" / name)["sizes"] for name in "123"]
    assert [one.get("max_age_hours") for one in sizes] == [None, 48.0, 48.0]
    assert {one["articles"] for one in sizes} == {12}


def test_what_was_withdrawn_does_not_return_with_another_title(catalogue):
    gone = without(catalogue, ["N1", "N2"])
    same, other = (
        Article(f"N{row}", "", "", title, "", withdrawn=True)
        for row, title in ((1, catalogue.titles[1]), (2, "corrected"))
    )
    assert new_articles(gone, {"N1": same, "N2": other}) == [other]
    assert new_articles(catalogue, {"N1": same}) == [same]
    other = replace(other, withdrawn=False)
    vectors = [part[2:3] for part in (catalogue.retrieval_vectors, catalogue.ranking_vectors)]
    after = with_articles(gone, [other], vectors)
    assert after.titles[2] == "corrected" and np.flatnonzero(after.withdrawn).tolist() == [1, 2]


def test_an_embargo_that_ends_at_the_very_moment_of_the_counters_is_over():
    at_once = START + timedelta(seconds=1)
    published = np.array([int((at_once - datetime(1970, 1, 1)).total_seconds())])
    nothing = np.zeros((1, len(COUNTERS)), np.float32)
    assert with_published_ages(nothing, published, at_once)[0, 2] > 0
    assert with_published_ages(nothing, published, START)[0, 2] == pytest.approx(-1 / 3600)


def test_an_embargo_that_ends_at_the_very_end_of_a_log_is_over(catalogue):
    counters = catalogue.counters.copy()
    counters[1] = 0
    counters[1, 2] = -2
    waiting = replace(catalogue, counters=counters)
    log = Counters()
    log.observe(impression(7, "N5 N6", "N5"))
    after, now = with_counts(waiting, START + timedelta(hours=5, seconds=1), log, [])
    assert now == START + timedelta(hours=7, seconds=1) and after.counters[1, 2] > 0
