"""The models inside an export: articles encoded as in training, and functions for other devices."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.counters import COUNTERS
from genre_tf.export.gate import read_saved_model
from genre_tf.funnel.served_models import DEVICE_FUNCTIONS, ServedModels, encode_table

TOPICS = ("rates", "match", "storm", "cure", "vote")
CATEGORIES = ("sports", "finance", "unheard of", "")
OLD = [
    Article(f"N{number}", CATEGORIES[number % 4], "", f"{TOPICS[number % 5]} story {number}", abstract)
    for number, abstract in enumerate(["", "what it means for readers", "more on that"] * 13, 1)
]


def test_articles_are_encoded_as_in_training_but_for_its_rounding(models):
    """The road of exports and refreshes beside that of training, which keeps states as float16."""
    table = ArticleTable([*OLD, Article("N0", "", "", "", ""), Article("N1x", "sports", "", " ", "")])
    served = encode_table(ServedModels(*models), table)
    for model, vectors in zip(models, served, strict=True):
        np.testing.assert_allclose(vectors, model.news.embed(model.news.features(table)), atol=2e-3)


def test_an_article_has_the_same_vectors_whatever_it_is_encoded_with(models):
    served = ServedModels(*models)
    together = encode_table(served, ArticleTable(OLD))
    alone = encode_table(served, ArticleTable(OLD[6:7]))
    for many, one in zip(together, alone, strict=True):
        np.testing.assert_allclose(one[1], many[7], atol=1e-6)


def test_the_default_signature_is_a_second_name_of_recommend(exported):
    definitions = read_saved_model(exported).meta_graphs[0].signature_def
    assert definitions["serving_default"] == definitions["recommend"]


ROWS, CLICKS, SHOWN = 2, 5, 3
CALLED = {
    "recommend": {"user_vector", "query", "pool_logits"},
    "recommend_text": {"user_vector", "query", "pool_logits"},
    "recommend_live": {"user_vector", "query", "moment_bias", "pool_logits"},
    "score": {"click_logits"},
    "score_text": {"click_logits"},
    "score_counters": {"click_logits_with_counters"},
    "embed_user": {"user_vector"},
    "explain": {"attention"},
    "regress": {"click_logits"},
}


@pytest.fixture(scope="module")
def graph(exported):
    """The MetaGraph of an exported recommender."""
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((exported / "saved_model.pb").read_bytes())
    return saved.meta_graphs[0]


def called_by(graph, name):
    """Names of all functions that a function or signature reaches."""
    functions = {function.signature.name: function for function in graph.graph_def.library.function}
    found, left = set(), [name]
    while left:
        for node in functions[left.pop()].node_def:
            for attribute in node.attr.values():
                names = {attribute.func.name, *(function.name for function in attribute.list.func)} - {""}
                left += names - found
                found |= names
    return found


def aliases(graph):
    """Name of each aliased function that a signature calls -> its alias.

    Saving traces the functions of attached modules a second time, for refreshes.
    """
    ends = {one.name.split(":")[0] for each in graph.signature_def.values() for one in each.outputs.values()}
    nodes = [node for node in graph.graph_def.node if node.name in ends and "f" in node.attr]
    callers = [node.attr["f"].func.name for node in nodes]
    called = {name for caller in callers for name in called_by(graph, caller)}
    return {name: alias for name, alias in graph.meta_info_def.function_aliases.items() if name in called}


def test_every_device_function_has_an_alias(graph):
    assert sorted(aliases(graph).values()) == sorted(DEVICE_FUNCTIONS)


@pytest.mark.parametrize("signature", CALLED)
def test_a_signature_computes_by_the_aliased_functions(graph, signature):
    node = next(iter(graph.signature_def[signature].outputs.values())).name.split(":")[0]
    (caller,) = [one for one in graph.graph_def.node if one.name == node]
    named = aliases(graph)
    reached = {named[name] for name in called_by(graph, caller.attr["f"].func.name) if name in named}
    assert reached == CALLED[signature]


def test_no_device_function_holds_text_or_tables(graph):
    functions = {function.signature.name: function for function in graph.graph_def.library.function}
    for name in aliases(graph):
        reached = {name, *called_by(graph, name)}
        operations = {node.op for inner in reached for node in functions[inner].node_def}
        assert not [one for one in operations if "String" in one or "Lookup" in one or one == "Where"], name


def test_xla_compiles_each_to_the_same_numbers(models):
    served = ServedModels(*models)
    random = np.random.default_rng(1)
    in_retrieval, in_ranking = (model.news.dimension for model in models)

    def vectors(count, width):
        return tf.constant(random.normal(size=(ROWS, count, width)).astype(np.float32))

    mask = tf.constant([[True] * CLICKS, [False] * (CLICKS - 1) + [True]])
    shown_mask = tf.ones([ROWS, SHOWN], tf.bool)
    history, shown = vectors(CLICKS, in_ranking), vectors(SHOWN, in_ranking)
    counters = tf.abs(vectors(SHOWN, len(COUNTERS)))
    inputs = {
        "user_vector": (vectors(CLICKS, in_retrieval), mask),
        "query": (vectors(1, in_retrieval)[:, 0],),
        "moment_bias": (counters,),
        "attention": (history, mask, shown),
        "click_logits": (history, mask, shown, shown_mask),
        "click_logits_with_counters": (history, mask, shown, shown_mask, counters),
        "pool_logits": (history, mask, shown, counters),
    }
    for name, function in served.device_functions().items():
        compiled = tf.function(function, jit_compile=True, autograph=False)(*inputs[name])
        for one, other in zip(*map(tf.nest.flatten, (compiled, function(*inputs[name]))), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5, err_msg=name)
