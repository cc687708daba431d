"""Signals of readers besides clicks (dwell time, comments, shares), and the weight that they give a click."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from genre_tf.config import SignalsConfig
from genre_tf.data.lines import shown

KEYS = ("dwell", "comments", "shares")
DEFAULTS = SignalsConfig()

_NUMBER = re.compile(r"\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)


class Signal(NamedTuple):
    """The signals of one reader for one article."""

    news_id: str
    dwell: float | None = None  # seconds that it was read; None if unknown
    comments: float = 0.0  # number of comments that the reader wrote
    shares: float = 0.0  # how often the reader shared it


Signals = tuple[Signal, ...]


def parse_signals(text: str, news_ids: Mapping[str, str] | None) -> tuple[Signals, list[str]]:
    """Reads a log's column of signals, such as `N1:dwell=35 N3:dwell=120,shares=1`.

    Args:
        text: the column; may be empty.
        news_ids: ids of the row's history and candidates, each mapped to itself, so that signals share the
            strings; None: any id is allowed.

    Returns:
        One signal per article, and the faults of the column.
    """
    found: dict[str, Signal] = {}
    wrong = []
    for token in text.split():
        # An id may hold a colon, a number may not.
        news_id, colon, pairs = token.rpartition(":")
        if not colon:
            wrong.append(f"{shown(token)} is not a signal; write it as N1:dwell=35,shares=1")
        elif news_ids is not None and news_id not in news_ids:
            wrong.append(f"{shown(news_id)} is neither in the row's history nor among its candidates")
        elif news_id in found:
            wrong.append(f"{shown(news_id)} is listed twice; list its signals once, joined by commas")
        else:
            values, faults = _values(pairs)
            wrong += [f"{shown(news_id)}: {fault}" for fault in faults]
            found[news_id] = Signal(news_ids[news_id] if news_ids else news_id, **values)
    return tuple(found.values()), wrong


def _values(pairs: str) -> tuple[dict[str, float], list[str]]:
    values: dict[str, float] = {}
    wrong = []
    for pair in pairs.split(","):
        key, _, number = pair.partition("=")
        if key not in KEYS:
            wrong.append(f"unknown signal {shown(key)}; known signals: {', '.join(KEYS)}")
        elif key in values:
            wrong.append(f"{key} is given twice; give it once")
        elif not _NUMBER.fullmatch(number) or not math.isfinite(float(number)):
            wrong.append(f"{key}={shown(number)} is not a finite number of at least 0, such as 35")
        else:
            values[key] = float(number)
    return values, wrong


def click_weight(signal: Signal, settings: SignalsConfig = DEFAULTS) -> float:
    """Weight of a click with these signals; a click without any weighs 1.

        clip(log(1 + dwell) / log(1 + satisfied_seconds)
             + comment_bonus log2(1 + comments) + share_bonus log2(1 + shares), least, most)

    The first term is 1 if the dwell time is unknown; it uses the logarithm, as dwell times are about
    log-normal. With the defaults 5 s weigh 0.52, 30 s 1, 300 s 1.66.

    Source: Fox et al., "Evaluating Implicit Measures to Improve Web Search", 2005 (30 s: a satisfied click);
    Yi et al., "Beyond Clicks: Dwell Time for Personalization", RecSys 2014 (the logarithm of it).
    """
    known = signal.dwell is not None
    read = math.log1p(signal.dwell or 0.0) / math.log1p(settings.satisfied_seconds) if known else 1.0
    read += settings.comment_bonus * math.log2(1 + signal.comments)
    read += settings.share_bonus * math.log2(1 + signal.shares)
    return min(max(read, settings.least), settings.most)


def click_weights(
    news_ids: Sequence[str], signals: Signals, settings: SignalsConfig = DEFAULTS
) -> npt.NDArray[np.float32]:
    """Weights of n articles of one row: float32 [n], 1 if no signals are known."""
    weights = {signal.news_id: click_weight(signal, settings) for signal in signals}
    return np.asarray([weights.get(news_id, 1.0) for news_id in news_ids], np.float32)
