"""An export with the partitioned index answers as one with the exact index where it looks everywhere."""

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.contract import RECOMMENDER, SIGNATURES
from genre_tf.errors import InputError
from genre_tf.export.replay import compare
from genre_tf.export.requests import Exchange, as_bytes, recorded_requests
from genre_tf.export.servables import new_recommender, recommender_servable
from genre_tf.funnel.index import ArticleIndex, may_be_found, read_catalogue
from genre_tf.funnel.rules import Rules
from genre_tf.funnel.search import (
    ExactIndex,
    PartitionedIndex,
    PartitionedOptions,
    options_of,
    variable_values,
)
from genre_tf.funnel.served_models import ServedModels

from .conftest import ask_directly
from .reference import RecommenderReference

SIZES = {"max_history": 50, "k": 10, "retrieve": 30}
FEW = PartitionedOptions(block=8, probes=4)
ALL = PartitionedOptions(block=8, probes=1000)
INDEXED = ("recommend", "recommend_live", "recommend_text", "score", "embed_user", "explain")


@pytest.fixture(scope="module")
def ask_few(models, catalogue, tmp_path_factory):
    """Ask a recommender that looks into 4 of some 14 blocks; `test_refreshed_partitions.py` exports one."""
    folder = tmp_path_factory.mktemp("partitioned")
    return ask_directly(new_recommender(ServedModels(*models), catalogue, folder, **SIZES, partitioned=FEW))


def asked(recommender, request):
    inputs = [
        tf.constant(request.inputs[name]) for name in SIGNATURES[RECOMMENDER][request.signature].input_names
    ]
    answer = getattr(recommender, request.signature)(*inputs)
    return {name: tensor.numpy() for name, tensor in answer.items()}


def test_where_all_blocks_are_looked_into_the_funnel_answers_as_with_the_exact_index(
    models, catalogue, tmp_path
):
    sides = [
        new_recommender(ServedModels(*models), catalogue, tmp_path, **SIZES, partitioned=partitioned)
        for partitioned in (None, ALL)
    ]
    assert [type(side.index.nearest) for side in sides] == [ExactIndex, PartitionedIndex]
    requests = [one for one in recorded_requests(RECOMMENDER, catalogue) if one.signature in INDEXED]
    assert {one.signature for one in requests} == set(INDEXED)
    for request in requests:
        exact, parted = (asked(side, request) for side in sides)
        assert compare(exact, parted)[1] == [], (request.signature, request.case)


def test_a_search_in_few_blocks_answers_as_the_reference(ask_few, models, catalogue, bias, tmp_path):
    index = ArticleIndex(catalogue, bias, tmp_path / "ids.txt", partitioned=FEW)
    reference = RecommenderReference(ServedModels(*models), catalogue, **SIZES, searched=index.nearest)
    everywhere = RecommenderReference(ServedModels(*models), catalogue, **SIZES)
    rows = {"history": as_bytes([f"N{one} N{one + 7}" for one in range(1, 60, 3)])}
    answer = ask_few("recommend", **{name: list(values) for name, values in rows.items()})
    expected, exact = (
        side.answer(Exchange("recommend", "", rows)).outputs for side in (reference, everywhere)
    )
    assert compare(expected, answer)[1] == []
    assert compare(exact, answer)[1] != []  # 32 of 99 articles at most were looked at


def test_what_was_read_is_never_recommended(ask_few, catalogue):
    everyone = [f"N{one}" for one in range(1, len(catalogue.news_ids))]
    for read in (everyone[:40], everyone[30:], everyone):
        shown = ask_few("recommend", history=[" ".join(read), ""])["news_id"]
        assert not {one.decode() for one in shown[0]} & set(read)
        assert (shown[1] != b"").all()


def test_of_one_who_read_all_of_his_blocks_nothing_is_recommended(models, catalogue, tmp_path):
    one_block = PartitionedOptions(block=8, probes=1)
    recommender = new_recommender(ServedModels(*models), catalogue, tmp_path, **SIZES, partitioned=one_block)
    history = " ".join(catalogue.news_ids[1:])
    answer = recommender.recommend(tf.constant([history]))
    assert set(answer["news_id"].numpy()[0]) == {b""} and (answer["score"].numpy() == -1).all()


def test_what_is_too_old_is_known_and_never_found(models, catalogue, tmp_path):
    rules = Rules(max_age_hours=100)
    old = ~may_be_found(catalogue, 100)
    assert 10 < old.sum() < len(old) - 10
    for partitioned in (None, ALL):
        sizes = {**SIZES, "k": 99, "retrieve": 99}
        recommender = new_recommender(
            ServedModels(*models), catalogue, tmp_path, **sizes, rules=rules, partitioned=partitioned
        )
        readers = tf.constant(["", "N1 N2"])  # Keras warns at attention to a lone click
        shown = recommender.recommend(readers)["news_id"].numpy()[0]
        found = {one.decode() for one in shown} - {""}
        assert found == {catalogue.news_ids[row] for row in np.flatnonzero(~old)} - {""}
        everyone = tf.constant([" ".join(catalogue.news_ids[1:])] * 2)
        assert recommender.score(readers, everyone)["known"].numpy().all()


def test_where_all_are_too_old_nothing_is_found(catalogue):
    index = PartitionedIndex(catalogue.retrieval_vectors, FEW, np.zeros(len(catalogue.news_ids), bool))
    _, found = index.ask(tf.ones([2, index.means.shape[0]])).best(tf.zeros([0, 2], tf.int64), 10)
    assert found.shape == (2, 8) and not found.numpy().any()


@pytest.mark.parametrize("partitioned", [None, FEW, ALL])
def test_the_vectors_are_held_once_and_read_back(catalogue, bias, tmp_path, partitioned):
    index = ArticleIndex(catalogue, bias, tmp_path / "ids.txt", partitioned=partitioned)
    back = read_catalogue(variable_values(index))
    np.testing.assert_array_equal(back.retrieval_vectors, catalogue.retrieval_vectors)
    assert back.news_ids == catalogue.news_ids
    rows = np.array([[3, 0], [98, 3]])
    np.testing.assert_array_equal(index.retrieval_vectors(rows), catalogue.retrieval_vectors[rows])
    size = catalogue.retrieval_vectors.size
    held = [name for name, value in variable_values(index.nearest).items() if np.size(value) >= size]
    assert held == ["matrix" if partitioned is None else "blocks"]


def test_the_contract_tells_the_kind_of_index(models, catalogue, bias, tmp_path):
    servable = recommender_servable(ServedModels(*models), catalogue, tmp_path, **SIZES, partitioned=FEW)
    sizes = servable.sizes
    assert {name: sizes[name] for name in ("index", "probes", "block")} == {
        "index": "partitioned",
        "probes": 4,
        "block": 8,
    }
    assert options_of(sizes) == FEW
    exact = ArticleIndex(catalogue, bias, tmp_path / "ids.txt").nearest.as_sizes()
    assert exact == {"index": "exact"} and options_of(exact) is None


def test_a_wrong_index_is_wrong_input(tmp_path):
    from genre_tf.cli.export import export

    with pytest.raises(InputError, match=r"probes .* must be at least 1; got 0"):
        export(tmp_path / "run", tmp_path / "models", index="partitioned", probes=0)
