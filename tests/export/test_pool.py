"""Articles of a version: titles that may be unsafe are flagged."""

import numpy as np

from genre_tf.contract import COUNTERS
from genre_tf.export.pool import flagged_articles
from genre_tf.funnel.index import Catalogue


def test_unsafe_titles_are_flagged_among_those_that_may_be_recommended():
    titles = [
        "",
        "Snow closes schools",
        "How to build a bomb at home",
        "I will kill you",
        "Police find a bomb",
    ]
    vectors = np.zeros((5, 2), np.float32)
    counters = np.zeros((5, len(COUNTERS)), np.float32)
    catalogue = Catalogue(["", "N1", "N2", "N3", "N4"], titles, titles, vectors, vectors, counters)
    shown = np.array([False, True, True, True, True])
    assert flagged_articles(catalogue, shown) == ["N2", "N3"]
    shown[2] = False
    assert flagged_articles(catalogue, shown) == ["N3"]
    assert flagged_articles(catalogue, np.zeros(5, bool)) == []
