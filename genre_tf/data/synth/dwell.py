"""Reading times of clicks: longer if the click was likely, with noise."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from genre_tf.data.synth.settings import NewsroomSettings

_LONGEST_SECONDS = 3600


class Dwell:
    """Draws dwell times, and remembers them for the histories.

    It has its own random generator, so that the rest of the newsroom is the same with and without it.

    Args:
        settings: seed, and distribution of the times.
    """

    def __init__(self, settings: NewsroomSettings) -> None:
        self._settings = settings
        self._rng = np.random.Generator(np.random.PCG64([settings.seed, 1]))
        self._seconds: list[dict[str, int]] = [{} for _ in range(settings.readers)]

    def read(self, reader: int, news_ids: list[str], probabilities: NDArray[np.float64]) -> None:
        """Draw the reading times of a reader's clicks.

        Args:
            reader: the reader's number.
            news_ids: n clicked articles.
            probabilities: float64 [n], how likely each click was.
        """
        likely = probabilities.clip(1e-3, 1 - 1e-3)
        pull = self._settings.dwell_pull * np.log(likely / (1 - likely))
        noise = self._rng.normal(0.0, self._settings.dwell_noise, len(likely))
        seconds = (self._settings.dwell_seconds * np.exp(pull + noise)).round().clip(1, _LONGEST_SECONDS)
        self._seconds[reader].update(zip(news_ids, seconds.astype(int).tolist(), strict=True))

    def column(self, reader: int, news_ids: Iterable[str]) -> str:
        """The log's column for those of the articles that the reader has read, in the order given."""
        seconds, once = self._seconds[reader], dict.fromkeys(news_ids)
        return " ".join(f"{news_id}:dwell={seconds[news_id]}" for news_id in once if news_id in seconds)
