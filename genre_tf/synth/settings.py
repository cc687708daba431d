"""Settings of a synthetic newsroom."""

from dataclasses import dataclass
from datetime import datetime

from genre_tf.errors import InputError

FIRST_DAY = datetime(2025, 3, 3)  # a Monday, so that the weekdays in the texts start with the week
_LEAST = {  # values, and the settings that must not be smaller
    0: ("seed", "earlier_impressions", "anonymous_share", "dwell_noise", "drift", "headline", "wave"),
    1: ("readers", "earlier_days", "window_hours", "history_limit", "dwell_seconds"),
    2: ("days",),
    5: ("pool_size",),
    10: ("largest_pool",),
    100: ("articles",),
}


@dataclass(frozen=True, kw_only=True)
class NewsroomSettings:
    """The size of a newsroom, and how strongly each cause affects a click.

    Effects are in log-odds of a click. With these defaults the oracle's AUC is about 0.86; a ranking by only
    the topics and entities of the history gets 93 to 97 % of the way there from 0.5, and new interests,
    popularity and freshness are the rest. Larger values of `interest`, `followed_entity`, `popularity` or
    `drift` make more of the truth unknowable from the log.

    Example:
        >>> genre_tf.data.NewsroomSettings(articles=300, readers=60).articles
        300
    """

    articles: int = 2_000
    readers: int = 600
    days: int = 6  # logged days; the last one is `dev`, the others are `train`
    impressions: int = 3_600  # of all logged days together
    seed: int = 7

    earlier_days: int = 6  # not logged; give the readers their first histories
    earlier_impressions: float = 16.0  # per reader, on average: some 35 clicks, as in MIND-small
    pool_size: float = 22.0  # median of candidates per impression; MIND-small's is 24
    largest_pool: int = 60
    window_hours: float = 48.0  # how long an article stays in the pools
    history_limit: int = 100  # newest clicks that a log line shows; bounds memory and file size
    anonymous_share: float = 0.01  # readers whose history is never known
    drift: float = 0.02  # chance per reader and day that one interest gives way to another

    bias: float = -3.9
    favourite_category: float = 3.2  # for every article of a favourite category
    interest: float = 0.6  # on top, for an article of a subcategory of present interest
    followed_entity: float = 1.2  # on top, for an article about an entity that the reader follows
    popularity: float = 0.15  # standard deviation of the articles' latent quality
    freshness_decay: float = 0.1  # lost per day of age
    # Standard deviation between wordings of one story; above 0 `headlines.tsv` has them. 0.3 means that the
    # better of two headlines gets a third more clicks.
    headline: float = 0.0

    # Mean over the articles of what the peak of attention adds; 0: popularity neither rises nor falls. At 1 a
    # usual story has three times the odds of a click at its peak, and one in ten more than ten times.
    wave: float = 0.0

    signals: bool = False  # a sixth column of the logs holds how long each click was read
    dwell_seconds: float = 30.0  # median, of a click that was as likely as not
    dwell_pull: float = 0.6  # in log-seconds per log-odds of the click: readers read longer what they like
    dwell_noise: float = 0.8  # standard deviation in log-seconds; titles mislead, and readers are interrupted

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            InputError: a value is out of range.
        """
        for least, names in [*_LEAST.items(), (2 * self.days, ("impressions",))]:
            for name in names:
                if not getattr(self, name) >= least:
                    raise InputError(f"{name} must be at least {least}; got {getattr(self, name)}")
        for name in ("anonymous_share", "drift"):
            if getattr(self, name) > 1:
                raise InputError(f"{name} must be between 0 and 1; got {getattr(self, name)}")
