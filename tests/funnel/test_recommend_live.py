"""`recommend_live` of an exported recommender, by a session: it answers as a refreshed version does."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.contract import MOST_LIVE
from genre_tf.data.counters import COUNTERS
from genre_tf.export import replay
from genre_tf.export.servables import new_recommender
from genre_tf.funnel.rules import Rules
from genre_tf.funnel.served_models import ServedModels

from ..export.conftest import ask_directly

SIZES = {"max_history": 50, "k": 10, "retrieve": 30}
LIMITED = Rules(max_age_hours=100, exploration=0.5)
HISTORIES = ["N1 N2 N3", "", "N9", "N40 N50 N60 nobody", *(f"N{one} N{one + 1}" for one in range(20, 50))]
# Some that are shown before and not after, or after and not before; N7 goes under no embargo: ages are not
# negative here.
NOW = {
    "N5": (900, 1000, 2, 300, 400, 500, 300, 450, 600),
    "N7": (0, 3, 0.5, 0, 0, 0, 3, 3, 3),
    "N8": (0, 0, 0, 0, 0, 0, 0, 0, 0),
    "N33": (50, 4000, 3000, 0, 0, 0.25, 0, 0, 1),
    "N60": (50, 4000, 3000, 0, 0, 0.75, 0, 0, 1),
    "N96": (20, 200, 90, 1, 2, 3, 4, 5, 6),
}


def columns(now):
    """The inputs that tell these counters: one row."""
    numbers = zip(*now.values(), strict=True) if now else [()] * len(COUNTERS)
    joined = {name: " ".join(map(str, column)) for name, column in zip(COUNTERS, numbers, strict=True)}
    return {"news_id": " ".join(now), **joined}


def live(ask, histories, *rows):
    """Ask with one row of counters for all histories, or one for each."""
    rows = rows if len(rows) > 1 else rows * len(histories)
    answer = ask(
        "recommend_live", history=histories, **{name: [row[name] for row in rows] for name in rows[0]}
    )
    assert replay.compare({}, answer)[1] == []  # all finite, all UTF-8
    return answer


def same(answer, expected):
    for name in ("news_id", "title"):
        assert answer[name].tolist() == expected[name].tolist()
    np.testing.assert_allclose(answer["score"], expected["score"], rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def refreshed(catalogue):
    """The catalogue with the counters of `NOW`."""
    counters = catalogue.counters.copy()
    for news_id, numbers in NOW.items():
        counters[catalogue.news_ids.index(news_id)] = numbers
    return dataclasses.replace(catalogue, counters=counters)


@pytest.fixture(scope="module")
def ask_limited(models, catalogue, tmp_path_factory):
    folder = tmp_path_factory.mktemp("limited")
    return ask_directly(new_recommender(ServedModels(*models), catalogue, folder, **SIZES, rules=LIMITED))


@pytest.mark.parametrize("rules", [Rules(), LIMITED])
def test_the_answer_is_that_of_a_version_with_these_counters(
    rules, ask, ask_limited, models, refreshed, tmp_path
):
    side = ask if rules.max_age_hours is None else ask_limited
    version = new_recommender(ServedModels(*models), refreshed, tmp_path, **SIZES, rules=rules)
    expected = {name: part.numpy() for name, part in version.recommend(tf.constant(HISTORIES)).items()}
    same(live(side, HISTORIES, columns(NOW)), expected)
    before = side("recommend", history=HISTORIES)
    assert before["news_id"].tolist() != expected["news_id"].tolist()


@pytest.mark.parametrize("rules", [Rules(), LIMITED])
def test_without_counters_the_answer_is_that_of_recommend(rules, ask, ask_limited):
    side = ask if rules.max_age_hours is None else ask_limited
    same(live(side, HISTORIES, columns({})), side("recommend", history=HISTORIES))


def test_the_age_limit_is_that_of_the_moment(ask_limited, catalogue):
    """What was stale is found when it is read again, and what was found is not when it no longer is."""
    everyone = " ".join(news_id for news_id in catalogue.news_ids[1:] if news_id not in ("N33", "N60"))
    for read, found in ((0.75, {b"N33", b"N60"}), (0.25, set())):
        now = dict.fromkeys(("N33", "N60"), (50, 4000, 3000, 0, 0, read, 0, 0, 1))
        shown = set(live(ask_limited, [everyone], columns(now))["news_id"][0]) - {b""}
        assert shown == found


def test_a_burst_of_clicks_brings_an_article_into_the_first_ten(ask):
    histories = ["N1 N2 N3", "", "N9"]
    before = ask("recommend", history=histories)["news_id"]
    late = next(f"N{one}" for one in range(4, 90) if f"N{one}".encode() not in before)
    burst = {late: (60_000, 90_000, 3, 30_000, 40_000, 50_000, 45_000, 60_000, 75_000)}
    after = live(ask, histories, columns(burst))["news_id"]
    assert all(late.encode() in row for row in after)
    read = live(ask, [f"{history} {late}" for history in histories], columns(burst))["news_id"]
    assert late.encode() not in read  # and never one that was read


GOOD = columns(NOW)
ODD = {
    "fewer numbers than ids": {**GOOD, "clicks": "900", "views": ""},
    "more numbers than ids": {**GOOD, "clicks": "1 " * 500, "views_1h": "7 " * 9},
    "letters for numbers": {**GOOD, "clicks": "many x 1e 3 -", "age_hours": "NaN inf -inf nan"},
    "negative numbers": {**GOOD, **dict.fromkeys(COUNTERS, "-5 -1e9 -0.1 -1e30")},
    "huge numbers": {**GOOD, **dict.fromkeys(COUNTERS, "1e30 1e39 1e99 9999999999999999999999")},
    "unknown ids": {**GOOD, "news_id": "nobody N1N2 n1"},
    "an id many times": {**GOOD, "news_id": "N5 " * 50, **dict.fromkeys(COUNTERS, "3 " * 50)},
    "ten thousand ids": {"news_id": "N5 N6 nobody " * 3334, **dict.fromkeys(COUNTERS, "12 " * 10_002)},
    "empty strings": dict.fromkeys(("news_id", *COUNTERS), ""),
    "no ids": {**GOOD, "news_id": " \n\t "},
    "invalid UTF-8": {"news_id": b"\xff\xfe N5 \xc3(", **dict.fromkeys(COUNTERS, b"\xff 3 \xc3( \x00")},
}


@pytest.mark.parametrize("side", ["ask", "ask_limited"])
def test_bad_rows_fail_no_batch_and_change_no_other_answer(side, request):
    ask = request.getfixturevalue(side)
    alone = live(ask, ["N1 N2 N3"], GOOD)
    histories = ["N1 N2 N3", *(f"N{number} N{number + 9}" for number in range(len(ODD)))]
    answer = live(ask, histories, GOOD, *ODD.values())
    same({name: values[:1] for name, values in answer.items()}, alone)
    assert (answer["news_id"] != b"").all() and (answer["score"] >= 0).all()
    for row in answer["news_id"]:
        assert len(set(row.tolist())) == SIZES["k"]


@pytest.mark.parametrize(
    ("odd", "plain"),
    [
        ({"clicks": "900 x -3 nan", "views": "1000"}, {"clicks": "900 0 0 0 0 0", "views": "1000 0 0 0 0 0"}),
        ({"clicks": "1e30 " * 6}, {"clicks": "1000000000 " * 6}),
        ({"clicks": "1 2 3 4 5 6 7 8 9"}, {"clicks": "1 2 3 4 5 6"}),
        ({"news_id": "N5 nobody N8 N5 N60 N96"}, {"news_id": "N5 gone N8 no_one N60 N96"}),
        ({"news_id": b"  N5\t\xff\nN8 N33 N60 N96\r\n"}, {"news_id": "N5 nobody N8 N33 N60 N96"}),
    ],
)
def test_odd_counters_count_as_the_table_says(odd, plain, ask):
    answer = live(ask, ["N1 N2 N3"] * 2, {**GOOD, **odd}, {**GOOD, **plain})
    first, second = ({name: values[row] for name, values in answer.items()} for row in (0, 1))
    same(first, second)


def test_at_most_the_first_2000_ids_count(ask):
    burst = dict.fromkeys(COUNTERS, "60000 " * 2100)
    unknown = ["nobody"] * 2100
    late = "N50"
    answers = []
    for place in (MOST_LIVE - 1, MOST_LIVE):
        ids = [*unknown[:place], late, *unknown[place + 1 :]]
        answers.append(live(ask, ["N1 N2 N3"], {"news_id": " ".join(ids), **burst}))
    known = live(ask, ["N1 N2 N3"], {"news_id": late, **burst})
    same(answers[0], known)
    assert late.encode() in answers[0]["news_id"]
    same(answers[1], ask("recommend", history=["N1 N2 N3"]))
