"""A share of the answers ends with a new article: which requests, which articles, and what stays."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.data.counters import COUNTERS
from genre_tf.export.servables import new_recommender
from genre_tf.funnel.rules import Rules
from genre_tf.funnel.served_models import ServedModels

SIZES = {"max_history": 50, "k": 4, "retrieve": 12}
SHARE = 0.3
AGE, CLICKS, VIEWS = (COUNTERS.index(name) for name in ("age_hours", "clicks", "views"))
NEW = [f"N{number}" for number in range(61, 95)]
HISTORIES = [f"N{one} N{two}" for one in range(1, 41) for two in range(1, 41) if one != two]


@pytest.fixture(scope="module")
def newsroom(catalogue):
    """Old articles, read by many, and new ones that nobody clicked: none of these is retrieved first."""
    counters = catalogue.counters.copy()
    counters[1:] = 5000
    counters[1:, AGE] = 10
    rows = [catalogue.news_ids.index(news_id) for news_id in NEW]
    counters[rows] = 0
    counters[rows, VIEWS], counters[rows, AGE] = 9, 1
    return dataclasses.replace(catalogue, counters=counters)


@pytest.fixture(scope="module")
def recommenders(models, newsroom, tmp_path_factory):
    """Recommenders by their share of exploring answers."""
    folder = tmp_path_factory.mktemp("exploring")

    def of(share):
        rules = Rules(exploration=share, max_age_hours=100)
        return new_recommender(ServedModels(*models), newsroom, folder, **SIZES, rules=rules)

    return {share: of(share) for share in (0.0, SHARE, 1.0)}


@pytest.fixture(scope="module")
def answers(recommenders):
    return {share: recommend(one, HISTORIES) for share, one in recommenders.items()}


def recommend(recommender, histories):
    answer = recommender.recommend(tf.constant(histories))
    return answer["news_id"].numpy().astype(str), answer["score"].numpy()


def test_the_share_of_exploring_requests_is_close_to_the_rule(answers):
    for share, (shown, _) in answers.items():
        exploring = np.isin(shown[:, -1], NEW)
        # 1,560 requests: a standard deviation of 0.012 at 0.3.
        assert exploring.mean() == pytest.approx(share, abs=0.04 if 0 < share < 1 else 0)


def test_only_the_last_place_goes_to_a_new_article(answers):
    plain, plain_score = answers[0.0]
    for shown, score in answers.values():
        assert (shown[:, :-1] == plain[:, :-1]).all() and not np.isin(shown[:, :-1], NEW).any()
        np.testing.assert_allclose(score[:, :-1], plain_score[:, :-1], rtol=1e-5, atol=1e-7)
        kept = ~np.isin(shown[:, -1], NEW)
        assert (shown[kept] == plain[kept]).all()
        assert np.isfinite(score).all() and (score > 0).all() and (score < 1).all()
        assert (np.diff(score[:, :-1]) <= 0).all()


def test_many_different_articles_are_explored(answers):
    explored, times = np.unique(answers[1.0][0][:, -1], return_counts=True)
    assert set(explored) == set(NEW)
    assert times.max() < 0.5 * len(HISTORIES)


def test_the_same_history_explores_the_same_in_any_batch(recommenders, answers):
    for number in (0, 7, 8, 9, 500):
        alone, _ = recommend(recommenders[SHARE], [HISTORIES[number], ""])
        assert alone[0].tolist() == answers[SHARE][0][number].tolist()
    spaced, _ = recommend(recommenders[SHARE], [f" nobody {HISTORIES[n]}\t" for n in range(200)])
    assert spaced.tolist() == answers[SHARE][0][:200].tolist()


def test_what_was_read_is_never_explored(recommenders):
    left = NEW[3:5]
    read = " ".join(news_id for news_id in NEW if news_id not in left)
    shown, _ = recommend(recommenders[1.0], [f"N{one} {read}" for one in range(1, 41)])
    assert set(shown[:, -1]) == set(left)
    histories = [f"N{one} {' '.join(NEW)}" for one in range(1, 41)]
    shown, score = recommend(recommenders[1.0], histories)
    plain, plain_score = recommend(recommenders[0.0], histories)
    assert shown.tolist() == plain.tolist()
    np.testing.assert_allclose(score, plain_score, rtol=1e-5)


def test_nothing_is_recommended_twice(models, newsroom, tmp_path):
    """Where all articles are new, those that are explored are often in the list already."""
    counters = newsroom.counters.copy()
    counters[:, VIEWS] = 5
    rules, new = Rules(exploration=1.0), dataclasses.replace(newsroom, counters=counters)
    shown, _ = recommend(
        new_recommender(ServedModels(*models), new, tmp_path, **SIZES, rules=rules), HISTORIES[:300]
    )
    assert all(len(set(row)) == SIZES["k"] and "" not in row for row in shown.tolist())


def test_what_may_not_be_shown_is_not_explored(models, newsroom, tmp_path):
    row = {news_id: newsroom.news_ids.index(news_id) for news_id in NEW}
    counters, withdrawn = newsroom.counters.copy(), np.zeros(len(newsroom.news_ids), bool)
    counters[row["N61"], AGE] = -1  # under embargo
    counters[row["N62"], AGE] = 101  # stale
    counters[row["N63"]] = 0  # without any time
    withdrawn[row["N64"]] = True
    changed = dataclasses.replace(newsroom, counters=counters, withdrawn=withdrawn)
    rules = Rules(exploration=1.0, max_age_hours=100)
    shown, _ = recommend(
        new_recommender(ServedModels(*models), changed, tmp_path, **SIZES, rules=rules), HISTORIES
    )
    assert set(shown[:, -1]) == set(NEW) - {"N61", "N62", "N63", "N64"}


def test_a_list_that_is_not_full_gets_the_new_article_behind_its_last(models, newsroom, tmp_path):
    rules = Rules(exploration=1.0, max_age_hours=100)
    small = new_recommender(
        ServedModels(*models), newsroom, tmp_path, max_history=50, k=4, retrieve=4, rules=rules
    )
    left = ["N1", "N2", "N90"]
    read = " ".join(news_id for news_id in newsroom.news_ids[1:] if news_id not in left)
    shown, score = recommend(small, [read, read])
    assert shown[0].tolist()[-1] == "" and set(shown[0][:3]) == set(left)
    assert score[0, -1] == -1 and (score[0, :3] > 0).all()


def test_scores_and_vectors_are_the_same_whatever_is_explored(recommenders):
    inputs = {
        "score": ("N1 N2", "N61 N5 nobody"),
        "score_counters": ("N1 N2", "N61 N5", "1 2", "3 4", "5 6"),
        "score_text": ("rates rise", "rain ends\na cure"),
        "explain": ("N1 N2", "N61 N5"),
        "embed_user": ("N1 N2",),
    }
    for signature, row in inputs.items():
        sides = [
            getattr(one, signature)(*(tf.constant([text, text]) for text in row))
            for one in recommenders.values()
        ]
        for name, values in sides[0].items():
            for other in sides[1:]:
                np.testing.assert_array_equal(other[name], values, err_msg=signature)


def test_readers_known_by_titles_are_shown_new_articles_too(recommenders):
    titles = tf.constant([f"story {one}\nrates rise" for one in range(300)])
    found = {
        share: one.recommend_text(titles)["news_id"].numpy().astype(str)[:, -1]
        for share, one in recommenders.items()
    }
    assert np.isin(found[SHARE], NEW).mean() == pytest.approx(SHARE, abs=0.1)
    assert np.isin(found[1.0], NEW).all() and not np.isin(found[0.0], NEW).any()
