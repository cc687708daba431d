"""What is learned and what is held out: by time, and never the same words on both sides."""

import pytest

from genre_tf.data.learning_texts import read_corpus, read_unseen
from genre_tf.errors import InputError

NEWS = [
    "N1\tsports\tsoccer\tHome side wins late\tA late goal settled it.\t\t[]\t[]",
    "N2\tnews\tpolitics\tBudget passes\t\t\t[]\t[]",
    "N3\thealth\tfood\tSoup for winter\tFive soups.\t\t[]\t[]",
    "N4\tnews\tworld\tStorm nears\t\t\t[]\t[]",
    "N5\tsports\ttennis\tFive sets\tIt took four hours.\t\t[]\t[]",
    "N6\tnews\tworld\tBudget passes\tA new text.\t\t[]\t[]",
    "N7\tnews\tworld\tNever shown\t\t\t[]\t[]",
]
BEHAVIORS = [
    "4\tU3\t11/10/2019 12:30:00 AM\tN4\tN5-1 N6-0 N1-0 N4-0",  # the newest stands first in the file
    "1\tU1\t11/9/2019 9:00:00 AM\tN1\tN2-1 N3-0",
    "2\tU2\t11/9/2019 10:00:00 AM\tN4\tN3-1",
]


def test_what_only_the_newest_part_of_the_log_shows_is_held_out(write_split):
    data = write_split(news=NEWS, behaviors=BEHAVIORS)
    corpus = read_corpus(data, validation_share=0.3)
    # N4 was in an earlier history, N7 never shown; N6 has the title of an older article.
    assert corpus.held_out.titles == ("Five sets",)
    assert corpus.held_out.abstracts == ("It took four hours.", "A new text.")
    assert corpus.learned.titles == (
        "Home side wins late",
        "Budget passes",
        "Soup for winter",
        "Storm nears",
        "Never shown",
    )
    assert corpus.learned.abstracts == ("A late goal settled it.", "Five soups.")


def test_clicks_that_a_training_does_not_see_hold_nothing_back(write_split):
    """N5 stands in an earlier history, but before its newest two clicks."""
    behaviors = [BEHAVIORS[0], BEHAVIORS[1], "2\tU2\t11/9/2019 10:00:00 AM\tN5 N4 N1\tN3-1"]
    data = write_split(news=NEWS, behaviors=behaviors)
    assert "Five sets" in read_corpus(data, validation_share=0.3, max_history=2).held_out.titles
    with pytest.raises(InputError, match="0 held out of the newest"):
        read_corpus(data, validation_share=0.3, max_history=3)


def test_unseen_articles_have_new_ids_and_new_texts(write_split):
    write_split(news=NEWS, behaviors=BEHAVIORS)
    later = [NEWS[0], "N8\tnews\tworld\tFive sets\t\t\t[]\t[]", "N9\tnews\tworld\tSnow\t \t\t[]\t[]"]
    data = write_split("dev", later, ["1\tU1\t11/11/2019 9:00:00 AM\t\tN1-1 N9-0"])
    corpus = read_corpus(data, validation_share=0.3)
    unseen = read_unseen(data, "dev", corpus)
    assert (unseen.titles, unseen.abstracts, list(unseen.kinds)) == (("Snow",), (), ["titles"])
    both = read_corpus(data, ("train", "dev"), validation_share=0.3)
    assert both.held_out.titles == ("Snow",) and both.fingerprint != corpus.fingerprint
    with pytest.raises(InputError, match="no articles beyond those of the training data"):
        read_unseen(data, "dev", both)


def test_nothing_to_hold_out_is_said(write_split):
    data = write_split(news=NEWS[:2], behaviors=["1\tU1\t11/9/2019 9:00:00 AM\t\tN1-1 N2-0"])
    with pytest.raises(InputError, match="0 held out of the newest"):
        read_corpus(data)
