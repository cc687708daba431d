"""Exact weights of linear models: each click against its alternatives, and each candidate by itself."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

_RIDGE = 6.0  # in clicks; otherwise the weights of similar features would cancel each other
_NEWTON_STEPS = 25
_LOGISTIC_RIDGE = 10.0  # in rows
_LOGISTIC_STEPS = 12
_SMALLEST_SPREAD = 1e-3

Floats = npt.NDArray[np.floating]


class Choices(NamedTuple):
    """Clicks, each with its candidates, of which the click is the first."""

    features: Floats  # [n, F], of all candidates of all choices, one choice after another
    sizes: npt.NDArray[np.integer]  # number of candidates of each choice, [clicks]; they sum to n
    probability: Floats  # [n], that each candidate was drawn; 1 if it was not drawn by chance


def softmax_regression(choices: Choices, prior: Floats | None = None) -> npt.NDArray[np.float32]:
    """Weights that make the clicks most likely, with a ridge, by Newton's method.

    Features are standardised internally, so that the ridge affects all of them equally. A candidate drawn
    with probability p stands for 1 / p candidates.

    The ridge pulls towards `prior` [F], such as weights of an earlier log; None: zero. The result, float32
    [F], is for features that are not standardised.

    Source: McFadden, "Conditional Logit Analysis of Qualitative Choice Behavior", 1974; drawn alternatives as
    in McFadden, "Modelling the Choice of Residential Location", 1978.
    """
    mean = choices.features.mean(axis=0, dtype=np.float64)
    spread = np.maximum(choices.features.std(axis=0, dtype=np.float64), _SMALLEST_SPREAD)
    features = (choices.features - mean) / spread  # [n, F]
    starts = np.concatenate([[0], np.cumsum(choices.sizes)[:-1]])
    offset = -np.log(choices.probability.astype(np.float64))
    centre = np.zeros(features.shape[1]) if prior is None else np.asarray(prior, np.float64) * spread
    weights = centre.copy()
    loss, step = np.inf, np.zeros_like(weights)
    for _ in range(_NEWTON_STEPS):
        logits = features @ weights + offset
        logits -= np.repeat(np.maximum.reduceat(logits, starts), choices.sizes)  # the greatest is 0
        exponentials = np.exp(logits)
        sums = np.add.reduceat(exponentials, starts)
        chances = exponentials / np.repeat(sums, choices.sizes)  # of each candidate to be the click
        found = float(np.log(sums).sum() - logits[starts].sum())
        found += 0.5 * _RIDGE * float((weights - centre) @ (weights - centre))
        if found > loss + 1e-9:  # too far: halve the step
            step /= 2
            weights -= step
            if np.abs(step).max() < 1e-6:
                break
            continue
        loss = found
        weighed = features * chances[:, None]
        means = np.add.reduceat(weighed, starts, axis=0)  # [clicks, F]
        gradient = features[starts].sum(0) - means.sum(0) - _RIDGE * (weights - centre)
        curvature = weighed.T @ features - means.T @ means + _RIDGE * np.eye(len(weights))
        step = np.linalg.solve(curvature, gradient)
        weights = weights + step
        if np.abs(step).max() < 1e-5:
            break
    return (weights / spread).astype(np.float32)


def logistic_regression(
    features: npt.NDArray[np.floating],
    labels: npt.NDArray[np.floating],
    counted: npt.NDArray[np.floating] | None = None,
    offset: npt.NDArray[np.floating] | float = 0.0,
) -> tuple[npt.NDArray[np.float32], float]:
    """Weights and bias with the smallest cross-entropy, with a ridge on the weights, by Newton's method.

    Args:
        features: [n, F], with magnitudes around one.
        labels: [n], 0 or 1.
        counted: [n], weight of each row; None: 1 each.
        offset: [n], added to the logits unchanged.

    Source: Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning", 4.4.1.
    """
    design = np.concatenate([features, np.ones((len(features), 1))], axis=1).astype(np.float64)
    ridge = np.append(np.full(features.shape[1], _LOGISTIC_RIDGE), 1e-3)
    weights = np.zeros(design.shape[1])
    times: Any = 1.0 if counted is None else counted.astype(np.float64)
    for _ in range(_LOGISTIC_STEPS):
        probability = 1.0 / (1.0 + np.exp(-np.clip(design @ weights + offset, -30.0, 30.0)))
        gradient = design.T @ (times * (probability - labels)) + ridge * weights
        curvature = (design * (times * probability * (1 - probability))[:, None]).T @ design + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        weights -= np.clip(step, -3.0, 3.0)
        if np.abs(step).max() < 1e-6:
            break
    return weights[:-1].astype(np.float32), float(weights[-1])
