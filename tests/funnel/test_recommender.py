"""The recommender over tiny random models, answered by a session."""

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.contract import RECOMMENDER, SIGNATURES
from genre_tf.data.counters import COUNTERS
from genre_tf.export import replay
from genre_tf.export.gate import portability_violations
from genre_tf.export.requests import recorded_requests
from genre_tf.export.servables import new_recommender
from genre_tf.funnel import parsing
from genre_tf.funnel.index import Catalogue
from genre_tf.funnel.served_models import ServedModels

from ..export.reference import RecommenderReference

SIZES = {"max_history": 50, "k": 10, "retrieve": 30}  # as in conftest.py


def test_the_graph_is_portable(exported):
    assert [str(violation) for violation in portability_violations(exported)] == []


@pytest.mark.parametrize("signature", list(SIGNATURES[RECOMMENDER]))
def test_every_signature_answers_as_the_models_do_row_by_row(signature, ask, models, catalogue, bias):
    reference = RecommenderReference(ServedModels(*models), catalogue, **SIZES)
    for request in recorded_requests(RECOMMENDER, catalogue):
        if request.signature == signature:
            expected = reference.answer(request).outputs
            actual = ask(signature, **{name: list(rows) for name, rows in request.inputs.items()})
            difference, faults = replay.compare(expected, actual)
            assert faults == [], request.case
            assert difference <= 1e-5


def test_nothing_that_was_read_is_recommended_however_long_the_history(ask, catalogue):
    history = [" ".join(catalogue.news_ids[1:60] * 170), "N1", ""]
    answer = ask("recommend", history=history)
    shown = [set(row.tolist()) for row in answer["news_id"]]
    assert not shown[0] & {f"N{number}".encode() for number in range(1, 60)}
    assert b"N1" not in shown[1]
    assert all(len(row) == SIZES["k"] for row in shown)
    assert (np.diff(answer["score"]) <= 0).all() and (answer["score"] > 0).all()


def test_another_article_of_a_read_title_counts_as_read(ask, catalogue):
    twins = [row for row, title in enumerate(catalogue.titles) if title == "rates fall"]
    read, twin = (catalogue.news_ids[row] for row in twins)
    others = [news_id for news_id in catalogue.news_ids[1:] if news_id not in (read, twin)]
    all_but_twin = " ".join([*others[:-2], read])
    for signature, name in (("recommend", "history"), ("recommend_text", "history_text")):
        row = all_but_twin if name == "history" else "rates fall"
        assert twin.encode() not in ask(signature, **{name: [row]})["news_id"]


def test_an_answer_is_padded_where_the_pool_is_exhausted(ask, catalogue):
    left = catalogue.news_ids[4:7]
    history = " ".join(news_id for news_id in catalogue.news_ids[1:] if news_id not in left)
    answer = ask("recommend", history=[history])
    found = answer["news_id"][0].tolist()
    padding = found.index(b"")
    assert set(found[:padding]) <= {news_id.encode() for news_id in left} and padding > 0
    assert answer["news_id"].shape == (1, SIZES["k"])
    assert set(found[padding:]) == {b""} == set(answer["title"][0, padding:].tolist())
    assert (answer["score"][0, padding:] == -1).all()


def test_unknown_candidates_are_answered_as_such(ask):
    answer = ask("score", history=["N1 N2", "N3"], candidates=["N4 nobody N4", "N5"])
    assert answer["known"].tolist() == [[True, False, True], [True, False, False]]
    first, second = answer["click_probability"]
    assert first[1] == 0 and first[0] == first[2] > 0
    assert second[0] > 0 and second[1:].tolist() == [-1, -1]


def test_missing_numbers_are_zero_and_others_change_the_probability(ask):
    def probability(clicks, views, age_hours):
        columns = {"clicks": [clicks], "views": [views], "age_hours": [age_hours]}
        return ask("score_counters", history=["N1"], candidates=["N2 N3"], **columns)["click_probability"]

    np.testing.assert_allclose(probability("", "", ""), probability("0 0", "0 0 7", "x nan"))
    swapped = probability("9 0", "10 10", "1 1") / probability("0 9", "10 10", "1 1")
    assert abs(np.log(swapped)).max() > 0.01  # of random weights, so the probabilities may be tiny


def test_a_batch_without_candidates_has_no_columns(ask):
    assert ask("score", history=["N1", ""], candidates=["", " "])["click_probability"].shape == (2, 0)
    assert ask("score_text", history_text=["", "a"], candidates_text=["", ""])["click_probability"].shape == (
        2,
        0,
    )


def test_a_batch_of_new_readers_alone_is_answered(ask):
    for signature, name in (("recommend", "history"), ("recommend_text", "history_text")):
        answer = ask(signature, **{name: ["", ""]})
        assert (answer["score"] > 0).all() and answer["news_id"][0].tolist() == answer["news_id"][1].tolist()
    assert ask("embed_user", history=[""])["embedding"].shape[0] == 1


def test_more_titles_than_one_chunk_are_scored_in_their_order(ask):
    titles = [f"title number {number}" for number in range(600)]
    many = ask("score_text", history_text=["rates rise"], candidates_text=["\n".join(titles)])
    last = ask("score_text", history_text=["rates rise"], candidates_text=[titles[-1]])
    assert many["click_probability"].shape == (1, 600)
    np.testing.assert_allclose(many["click_probability"][0, -1], last["click_probability"][0, 0], atol=1e-6)


def test_a_pool_smaller_than_the_answer_is_answered(models, tmp_path):
    vectors = [np.eye(3, model.news.dimension, dtype=np.float32) for model in models]
    counters = np.zeros((3, len(COUNTERS)), np.float32)
    small = Catalogue(["", "N1", "N2"], ["", "a", "b"], ["", "a", "b"], *vectors, counters)
    recommender = new_recommender(ServedModels(*models), small, tmp_path, **SIZES)
    answer = recommender.recommend(tf.constant(["", "N1", "N1 N2"]))
    found = [sum(value != b"" for value in row) for row in answer["news_id"].numpy()]
    assert found == [2, 1, 0]


def test_parsing_to_dense_pads_and_cuts():
    rows = tf.ragged.constant([[1.0, 2.0], [], [3.0]])
    values, own = parsing.to_dense(rows)
    assert values.numpy().tolist() == [[1, 2], [0, 0], [3, 0]]
    assert own.numpy().tolist() == [[True, True], [False, False], [True, False]]
    assert parsing.to_dense(rows, tf.constant(1, tf.int64))[0].numpy().tolist() == [[1], [0], [3]]
    assert parsing.to_dense(tf.ragged.constant([[], []]))[0].shape == (2, 0)
