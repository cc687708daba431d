"""Articles encoded by the function that an export carries: in exports and refreshes alike."""

import numpy as np

from genre_tf.data.articles import Article, ArticleTable
from genre_tf.export.gate import read_saved_model
from genre_tf.funnel.served_models import ServedModels, encode_table

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
