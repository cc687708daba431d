"""Which text of an article is shown: by what its readers clicked, and before that by the click model."""

import numpy as np
import pytest

from genre_tf.errors import InputError
from genre_tf.serving.live_choice import ChoiceOptions, best_probabilities, choose_text
from genre_tf.synth.catalogue import write_catalogue
from genre_tf.synth.readers import Readers
from genre_tf.synth.settings import NewsroomSettings

NEW = {"clicks": [0, 0, 0], "views": [0, 0, 0]}


def test_the_probabilities_are_those_of_drawing_from_the_beta_distributions():
    rng = np.random.default_rng(0)
    for texts, most in ((2, 10), (3, 500), (4, 100_000), (6, 2_000)):
        views = rng.integers(0, most, texts)
        hits = rng.binomial(views, 0.1) + rng.uniform(0.5, 3, texts)
        misses = views + 20.0
        best = rng.beta(hits, misses, (100_000, texts)).argmax(axis=1)
        drawn = np.bincount(best, minlength=texts) / len(best)
        np.testing.assert_allclose(best_probabilities(hits, misses), drawn, atol=0.008)


def test_equal_texts_are_shown_equally():
    assert choose_text([3, 3], [50, 50], [0.1, 0.1], 0).probabilities == pytest.approx([0.5, 0.5])
    alone = choose_text([0], [0], [0.2], 0)
    assert (alone.index, alone.probabilities.tolist()) == (0, pytest.approx([1.0]))


def test_before_any_view_the_model_decides_and_later_the_readers():
    first = choose_text(**NEW, interest=[0.1, 0.3, 0.1], seed=0).probabilities
    assert first.argmax() == 1 and first[0] == pytest.approx(first[2]) and first[0] > 0.002
    later = choose_text([400, 200, 200], [4000, 4000, 4000], [0.1, 0.3, 0.1], 0).probabilities
    assert later[0] > 0.99
    trusting = choose_text(**NEW, interest=[0.1, 0.3, 0.1], seed=0, options=ChoiceOptions(prior_views=300))
    assert trusting.probabilities[1] > first[1]


def test_a_text_that_the_model_gives_no_chance_is_tried_all_the_same():
    shown = {"clicks": [0, 5, 0], "views": [0, 100, 0], "interest": [0.001, 0.9, 0.1]}
    blind = choose_text(**shown, seed=0, options=ChoiceOptions(most_odds=1e6)).probabilities
    assert choose_text(**shown, seed=0).probabilities[0] > 0.05 > blind[0]


def test_texts_are_drawn_with_the_probabilities_that_the_log_gets():
    rng = np.random.default_rng(4)
    choices = [choose_text([9, 12, 3], [100, 100, 50], [0.1, 0.1, 0.2], rng) for _ in range(1_000)]
    shown = np.bincount([choice.index for choice in choices], minlength=3) / len(choices)
    np.testing.assert_allclose(shown, choices[0].probabilities, atol=0.05)
    again = [choose_text(**NEW, interest=[0.1, 0.1, 0.1], seed=8).index for _ in range(5)]
    assert len(set(again)) == 1


def test_a_model_whose_level_is_wrong_does_not_favour_texts_that_were_shown_less():
    counters = {"clicks": [50, 1], "views": [1000, 20]}  # both 0.05
    right, high = (
        choose_text(**counters, interest=[level, level], seed=0).probabilities for level in (0.05, 0.6)
    )
    np.testing.assert_allclose(right, high, atol=0.05)


@pytest.mark.parametrize("clicks", [[0, 0], [10**7, 10**7], [0, 10**7]])
@pytest.mark.parametrize("interest", [[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1e-30, 0.5]])
def test_extreme_counters_and_probabilities_give_probabilities(clicks, interest):
    for options in (ChoiceOptions(), ChoiceOptions(prior_views=0)):
        for views in ([10**7, 10**7], [10**9, 10**7]):
            chance = choose_text(clicks, views, interest, 0, options).probabilities
            assert np.isfinite(chance).all() and chance.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"clicks": [1, -1, 0]}, "clicks must be finite numbers of at least 0; got -1"),
        ({"views": [1, float("nan"), 0]}, "views must be finite numbers of at least 0; got nan"),
        ({"clicks": [0, 3, 0], "views": [9, 2, 9]}, "text 2 has 3 clicks, but only 2 views"),
        ({"interest": [0.1, 1.2, 0.1]}, "interest must be between 0 and 1; got 1.2"),
        ({"interest": [0.1, 0.2]}, "must have one number for each text; got 3, 3, 2"),
        ({"clicks": [], "views": [], "interest": []}, "one number for each text; got 0, 0, 0"),
        ({"clicks": "many"}, "clicks must be a list of numbers; got 'many'"),
        ({"clicks": 3}, "clicks must be a list of numbers, one for each text; got 3"),
        ({"options": ChoiceOptions(sharpness=0)}, "sharpness above 0"),
        ({"options": ChoiceOptions(prior_views=-1)}, "prior_views must be at least 0"),
        ({"options": ChoiceOptions(most_odds=float("nan"))}, "most_odds at least 1"),
    ],
)
def test_bad_input_is_refused_in_plain_words(given, says):
    with pytest.raises(InputError, match=says):
        choose_text(**{**NEW, "interest": [0.1, 0.1, 0.1], "seed": 0, **given})


ARTICLES, VIEWS, AT_ONCE = 60, 1_000, 40


@pytest.fixture(scope="module")
def newsroom():
    """For each article the click probability of each reader for each of its four wordings."""
    settings, rng = (
        NewsroomSettings(articles=ARTICLES + 40, readers=200, headline=0.3),
        np.random.default_rng(5),
    )
    catalogue = write_catalogue(settings, rng)
    tastes = Readers(settings, catalogue, rng)
    articles = np.flatnonzero([len(texts) == 4 for texts in catalogue.headlines])[:ARTICLES]
    effects = np.array([list(catalogue.headlines[article].values()) for article in articles])
    taste = tastes.taste(np.arange(settings.readers), np.tile(articles, (settings.readers, 1)))
    logits = settings.bias + taste + settings.popularity * catalogue.quality[articles]
    return 1 / (1 + np.exp(-(logits.T[:, :, None] + effects[:, None, :]))), effects


def regret_of(probabilities, interest, rng):
    """Clicks lost to the best text in `VIEWS` views, over those that an even split loses."""
    rates = probabilities.mean(axis=0)  # [texts]
    clicks, views = np.zeros((2, len(rates)))
    for _ in range(VIEWS // AT_ONCE):  # counters are a moment old
        shown = rng.choice(len(rates), AT_ONCE, p=choose_text(clicks, views, interest, rng).probabilities)
        readers = rng.integers(len(probabilities), size=AT_ONCE)
        np.add.at(views, shown, 1)
        np.add.at(clicks, shown, rng.random(AT_ONCE) < probabilities[readers, shown])
    return (views * (rates.max() - rates)).sum(), VIEWS * (rates.max() - rates.mean())


@pytest.mark.parametrize(("skill", "most"), [(0.5, 0.6), (0.0, 0.7), (-0.5, 0.9)])
def test_regret_is_a_part_of_that_of_an_even_split(newsroom, skill, most):
    """`skill` is the correlation of the click model with the effects: of use, useless, and wrong."""
    probabilities, effects = newsroom
    rng = np.random.default_rng(6)
    noise = np.sqrt(1 - skill**2) * rng.normal(0, 0.3, effects.shape)
    expected = 1 / (1 + np.exp(2.5 - skill * effects - noise))
    ours, even = np.transpose([regret_of(*row, rng) for row in zip(probabilities, expected, strict=True)])
    assert ours.sum() <= most * even.sum()
