"""Which of an article's approved texts to show next: Thompson sampling on live counters, in NumPy alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genre_tf.errors import InputError

_LEVEL_VIEWS = 3.0  # the model's level counts as so many views, until the article has some of its own
_LEAST = 1e-6  # a click model's probability may be rounded to 0 or 1
# Each beta distribution is integrated at these places between its centre and its far tails, densely near the
# centre. The probabilities are then exact to about 0.001.
_PLACES = np.linspace(-1, 1, 49) * np.abs(np.linspace(-1, 1, 49))
_LEAST_COUNT = 0.5  # as in Jeffreys' prior; below it a beta distribution is nearly all at 0 or 1


@dataclass(frozen=True, kw_only=True)
class ChoiceOptions:
    """How much `choose_text` trusts the click model, and how soon it settles."""

    # Views that the click model's probability counts as. More help a good model and hurt a bad one, and
    # models judge wordings hardly better than chance (Ye et al.): with 15 the regret of a model that knows
    # nothing stays under 0.6 of an even split's, with 30 it does not (measured).
    prior_views: float = 15.0
    # Every view counts as so many: texts that are probably worse are dropped sooner. 2 halves the variance,
    # as in Chapelle and Li; without it the regret at 1,000 views is an eighth higher (measured).
    sharpness: float = 2.0
    # The model may give a text at most so many times the odds of the article, or one part of so many: models
    # differ more about wordings than readers do, and a model that does is then soon overruled (measured).
    most_odds: float = 2.0


@dataclass(frozen=True, eq=False)
class TextChoice:
    """The text to show, and the probability that each one had of being shown, for the log."""

    index: int
    probabilities: NDArray[np.float64]  # [texts], sum 1


def choose_text(
    clicks: ArrayLike,
    views: ArrayLike,
    interest: ArrayLike,
    seed: int | np.random.Generator,
    options: ChoiceOptions = ChoiceOptions(),
) -> TextChoice:
    """Choose the text of an article to show now.

    A text is shown with the probability that it is the best one, given its clicks and views and what the
    click model expects. Only differences between the texts are believed of the model: its level moves to the
    click rate of the article, which depends on places and readers that the model does not know.

    Args:
        clicks: [texts], clicks on each text.
        views: [texts], how often each was shown.
        interest: [texts], the click model's probability for each, for this reader or on average.
        seed: of the draw: an int, or a generator, which a server keeps.
        options: how much the model is trusted.

    Raises:
        InputError: the arrays do not describe the same texts, a counter is negative, not finite, or above its
            views, or a probability is not between 0 and 1.

    Source: Ye et al. 2024, "LOLA: LLM-assisted online learning algorithm for content experiments" (a model as
    prior of a bandit); Chapelle and Li 2011, "An Empirical Evaluation of Thompson Sampling".

    Example:
        >>> from genre_tf.serving import choose_text
        >>> choice = choose_text(clicks=[5, 40], views=[200, 300], interest=[0.06, 0.05], seed=1)
        >>> choice.index, choice.probabilities.round(2).tolist()
        (1, [0.0, 1.0])
    """
    counts = [_numbers(name, values) for name, values in (("clicks", clicks), ("views", views))]
    expected = _numbers("interest", interest)
    if not (counts[0].shape == counts[1].shape == expected.shape and expected.size):
        sizes = ", ".join(str(len(values)) for values in (*counts, expected))
        raise InputError(f"clicks, views and interest must have one number for each text; got {sizes}")
    if expected.max() > 1:
        raise InputError(f"interest must be between 0 and 1; got {expected.max():g}")
    over = np.flatnonzero(counts[0] > counts[1])
    if over.size:
        clicked, shown = (float(count[over[0]]) for count in counts)
        raise InputError(f"text {over[0] + 1} has {clicked:g} clicks, but only {shown:g} views")
    if not (options.prior_views >= 0 and options.sharpness > 0 and options.most_odds >= 1):
        wrong = "prior_views must be at least 0, sharpness above 0 and most_odds at least 1"
        raise InputError(f"{wrong}; got {options}")
    chance = best_probabilities(*_posterior(counts[0], counts[1], expected, options))
    return TextChoice(int(np.random.default_rng(seed).choice(chance.size, p=chance)), chance)


def _numbers(name: str, values: ArrayLike) -> NDArray[np.float64]:
    try:
        numbers = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be a list of numbers; got {values!r}") from None
    if numbers.ndim != 1:
        raise InputError(f"{name} must be a list of numbers, one for each text; got {values!r}")
    wrong = numbers[~(np.isfinite(numbers) & (numbers >= 0))]
    if wrong.size:
        raise InputError(f"{name} must be finite numbers of at least 0; got {wrong[0]:g}")
    return numbers


def _posterior(
    clicks: NDArray[np.float64],
    views: NDArray[np.float64],
    expected: NDArray[np.float64],
    options: ChoiceOptions,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The beta distributions of the texts' click rates, 2 x [..., texts]."""
    expected = expected.clip(_LEAST, 1 - _LEAST)
    level = expected.mean(axis=-1, keepdims=True)
    clicked, shown = (count.sum(axis=-1, keepdims=True) for count in (clicks, views))
    seen = (clicked + _LEVEL_VIEWS * level) / (shown + _LEVEL_VIEWS)
    most = np.log(options.most_odds)
    better = np.clip(_log_odds(expected) - _log_odds(level), -most, most)
    prior = options.prior_views / (1 + np.exp(-better - _log_odds(np.clip(seen, _LEAST, 1 - _LEAST))))
    hits, misses = clicks + prior, views - clicks + options.prior_views - prior
    hits, misses = (np.maximum(options.sharpness * count, _LEAST_COUNT) for count in (hits, misses))
    return hits, misses


def _log_odds(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(probability) - np.log1p(-probability)


def best_probabilities(hits: NDArray[np.float64], misses: NDArray[np.float64]) -> NDArray[np.float64]:
    """The probability that each of several beta distributed rates is the greatest, [texts] -> [texts]."""
    # In log odds, where the densities have no poles: hits * x - (hits + misses) * log(1 + exp(x)).
    centre, width = np.log(hits / misses), 8 * np.sqrt(1 / hits + 1 / misses)
    reach = width[:, None] + 12 / np.where(
        _PLACES < 0, hits[:, None], misses[:, None]
    )  # tails are exponential
    places = np.sort((centre[:, None] + reach * _PLACES).ravel())  # [points]
    exponent = hits[:, None] * places - (hits + misses)[:, None] * np.logaddexp(0, places)
    density = np.exp(exponent - exponent.max(axis=1, keepdims=True))  # [texts, points]
    mass = (density[:, 1:] + density[:, :-1]) * np.diff(places)  # [texts, points - 1]
    mass /= mass.sum(axis=1, keepdims=True)
    below = mass.cumsum(axis=1) - mass / 2
    others = np.where(np.eye(len(hits), dtype=bool)[:, :, None], 1.0, below).prod(axis=1)
    chance: NDArray[np.float64] = (mass * others).sum(axis=1)
    return chance / chance.sum()
