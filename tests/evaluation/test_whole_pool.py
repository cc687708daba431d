"""The whole pool: evaluated answers are a server's, counters are of the past, and stale articles stay out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.config import read_config
from genre_tf.data.articles import PUBLISHED_UNKNOWN
from genre_tf.data.counters import COUNTERS
from genre_tf.errors import InputError
from genre_tf.evaluation.scored_log import read_log, slice_masks
from genre_tf.evaluation.scoring import load_scorers
from genre_tf.evaluation.whole_pool import POOL_RULES, Moments, PoolAnswers, pool_report
from genre_tf.export.servables import new_recommender, write_recommender
from genre_tf.funnel.rules import Rules
from genre_tf.funnel.served_models import ServedModels

RULES = Rules(max_age_hours=1000.0)


@pytest.fixture(scope="module")
def world(tiny_run: Path, tiny_data: Path):
    config = read_config(tiny_run / "config.toml")
    log = read_log(tiny_run, config, tiny_data, "dev")
    scorers = load_scorers(tiny_run, ("two_tower", "ranker"), log.table)
    return tiny_run, log, scorers["two_tower"], scorers["ranker"]


def test_the_evaluated_answer_is_that_of_an_export_with_the_same_counters(world, tmp_path):
    run, log, towers, ranker = world
    moments = Moments(run, log, log.examples)
    answers = PoolAnswers((towers, ranker), log.table, log.max_history, RULES)
    counters, in_pool = moments.at(17)
    answers.set_moment(counters, in_pool)
    catalogue = replace(answers.catalogue, counters=counters, withdrawn=~in_pool)
    recommender = new_recommender(
        ServedModels(towers.two_tower, ranker.ranker),
        catalogue,
        tmp_path,
        max_history=log.max_history,
        k=10,
        retrieve=300,
        rules=RULES,
    )
    write_recommender(recommender, tmp_path / "1")
    histories = [" ".join(impression.history) for impression in log.split.impressions[:12]]
    evaluated = list(zip(*answers.served(histories), strict=True))
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(tmp_path / "1"))
        signature = graph.signature_def["recommend"]
        outputs = {name: info.name for name, info in signature.outputs.items()}
        for history, (rows, scores) in zip(histories, evaluated, strict=True):
            served = session.run(outputs, {signature.inputs["history"].name: [history.encode()]})
            ids = [log.table.news_ids[row] if row >= 0 else "" for row in rows]
            assert ids == [one.decode() for one in served["news_id"][0]]
            np.testing.assert_allclose(scores, served["score"][0], atol=1e-5)


@pytest.fixture(scope="module")
def found(world):
    """The pool of the log, with the same models as "before" and two impressions whose answers are kept."""
    run, log, towers, ranker = world
    moments, stages = Moments(run, log, log.examples), (towers, ranker)
    slices = slice_masks(log.split.impressions, None)
    return pool_report(moments, stages, stages, slices, RULES.max_age_hours, lambda line: None, kept=[17, 3])


def test_models_before_training_are_measured_on_the_same_impressions(found):
    assert found["before"]["retrieval"]["all"] == found["retrieval"]["all"]
    assert set(found["before"]["recommend"]["all"]) <= set(found["recommend"]["all"])


def test_the_answers_of_some_impressions_are_kept_as_the_server_gives_them(world, found):
    run, log, towers, ranker = world
    examples = log.examples
    moments = Moments(run, log, examples)
    answers = PoolAnswers((towers, ranker), log.table, log.max_history, RULES)
    for number, kept in zip((17, 3), found["kept"], strict=True):
        answers.set_moment(*moments.at(number))
        [rows], [scores] = answers.served([" ".join(log.split.impressions[number].history)])
        clicked = examples[number].candidates[examples[number].labels > 0]
        assert [each["title"] for each in kept] == [log.table.titles[row] for row in rows[:5]]
        assert [each["score"] for each in kept] == pytest.approx(scores[:5].tolist())
        assert [each["clicked"] for each in kept] == [row in clicked for row in rows[:5]]


def test_the_report_has_the_pool_with_baselines_intervals_and_calibration(found):
    everyone = found["recommend"]["all"]
    assert {"recall@10", "recall@300", "ndcg@10", "mrr", "fresh", "coverage", "diversity", "novelty"} <= {
        *everyone
    }
    assert 0 < everyone["recall@10"] <= found["recommend"]["all"]["recall@300"] <= 1
    assert {"clicks_1h", "clicks_6h", "clicks_of_categories", "chance"} <= {*found["baselines"]}
    assert found["pool"]["articles"] == 39 and found["pool"]["rule"] == "split"
    low, high = found["intervals"]["recommend"]["all"]["recall@10"]
    assert low <= everyone["recall@10"] <= high
    assert found["calibration"]["bins"]


def test_counters_of_a_moment_know_only_what_happened_before(world):
    run, log, *_ = world
    examples = log.examples
    before = Moments(run, log, examples)
    number = 11
    now = before.seconds[number]
    for example, seconds in zip(examples, before.seconds, strict=True):
        if seconds >= now:
            example.labels = 1 - example.labels
    after = Moments(run, log, examples)
    assert before.at(number)[0][:, COUNTERS.index("clicks")].any()
    np.testing.assert_array_equal(before.at(number)[0], after.at(number)[0])


def test_a_refreshed_server_knows_what_was_counted_up_to_the_last_full_period(world):
    run, log, *_ = world
    examples = log.examples
    live, daily = (Moments(run, log, examples, refresh_hours=hours).at(29)[0] for hours in (0.0, 24.0))
    clicks = COUNTERS.index("clicks")
    assert live[:, clicks].sum() > daily[:, clicks].sum()


def test_before_a_first_showing_an_article_is_in_no_pool_of_what_was_seen(world):
    run, log, *_ = world
    first_seen = Moments(run, log, log.examples, "first_seen")
    sizes = [int(first_seen.at(number)[1].sum()) for number in range(30)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    for number, example in enumerate(log.examples):
        assert first_seen.at(number)[1][example.candidates].all()


def test_a_published_article_is_in_the_pool_from_then_on_and_one_that_is_shown_always(world, monkeypatch):
    run, log, *_ = world
    examples = log.examples
    shown_first = examples[0].candidates
    published = np.full(len(log.table), PUBLISHED_UNKNOWN)
    published[shown_first[0]] = np.iinfo(np.int64).max  # after all moments, though it is shown
    late = np.setdiff1d(np.arange(1, len(log.table)), shown_first)[0]
    published[late] = 0
    monkeypatch.setitem(log.table.__dict__, "published", published)
    moments = Moments(run, log, examples, "published")
    assert moments.at(0)[1][shown_first].all() and moments.at(0)[1][late]
    hidden = next(at for at, each in enumerate(examples) if shown_first[0] not in each.candidates)
    assert not moments.at(hidden)[1][shown_first[0]]
    assert set(POOL_RULES) == {"split", "first_seen", "published"}
    with pytest.raises(InputError, match="one of split, first_seen, published; got 'all'"):
        Moments(run, log, examples, "all")
