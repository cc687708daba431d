"""Settings of the writer, its pretraining and the safety classifier."""

import dataclasses
import math
from dataclasses import dataclass, field

from genre_tf.config.optimizer import OptimizerConfig, Range, check_ranges
from genre_tf.config.recommending import Precision
from genre_tf.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TaskSharesConfig:
    """Share of each task in what the writer learns; relative to each other, 0 leaves a task out."""

    title: float = 0.3  # a title from an abstract, with or without a reader: requested most
    interest: float = 0.2  # a title from the reader alone: histories hold most of all clicks
    plain: float = 0.25  # a title from nothing: short rows, the cheapest way to learn how news is worded
    summary: float = 0.1  # an abstract from title and category
    body: float = 0.1  # title and abstract: long, and half of it is the summary's task again
    answer: float = 0.05  # few titles are questions; a larger share would only repeat them

    def __post_init__(self) -> None:
        """Refuse a share below 0 with an `InputError`."""
        names = [each.name for each in dataclasses.fields(self)]
        check_ranges("generation.tasks", self, [(name, 0.0, math.inf) for name in names])


STRATEGIES = ("sample", "greedy", "beam")
_WRITING_RANGES = (
    ("samples", 1, 64),
    ("title_tokens", 4, 512),
    ("temperature", 0.01, 10.0),
    ("top_k", 0, 100_000),
    ("top_p", 0.01, 1.0),
    ("beam_width", 1, 64),
    ("beam_groups", 1, 64),
    ("length_penalty", -10.0, 10.0),
    ("diversity", 0.0, 100.0),
    ("min_tokens", 0, 512),
    ("repetition_penalty", 1.0, 10.0),
    ("no_repeat_ngram", 0, 512),
    ("draft_tokens", 0, 64),
)


@dataclass(frozen=True, kw_only=True)
class WritingConfig:
    """How a trained writer writes: in exports, evaluation and benchmarks.

    Nothing here changes what is learned: `genre export` and `genre evaluate` read it from the run's
    `config.toml`, where it may be changed after training.
    """

    samples: int = 4  # texts per request, which are then ranked; each is one more row to decode
    title_tokens: int = 32  # longest title, end token included; other kinds may use a quarter of `max_tokens`
    strategy: str = "sample"  # or "greedy" (one text, always the same), "beam" (the likeliest ones)
    # Below 1, since small models wander off in the tail of their distribution.
    temperature: float = 0.7
    top_k: int = 40  # draws from the most likely tokens only; 0: from all
    top_p: float = 0.9  # of these, only the fewest that reach this probability in sum (Holtzman et al. 2020)
    beam_width: int = 4  # hypotheses kept at each step; at least `samples`
    beam_groups: int = 1  # above 1 texts differ more: each group avoids what earlier groups chose
    length_penalty: float = 1.0  # beam only: 1 compares means over tokens; higher values favour longer texts
    diversity: float = 0.0  # penalty in nats for each earlier group that chose the same token; 0: none
    min_tokens: int = 4  # a shorter title says nothing
    repetition_penalty: float = 1.0  # 1: no penalty, as headlines repeat names; `no_repeat_ngram` stops loops
    no_repeat_ngram: int = 3  # no n-gram of this many tokens appears twice; 0: no limit
    # Words that must not appear: as the tokenizer spells them, in any usual case, also within longer words. A
    # word spelled with other tokens may still appear; the safety list is for words that must never be shown.
    forbidden_words: tuple[str, ...] = ()
    # Words that must appear in every text, for example to mark it as generated. Words that the model does not
    # write by itself are put at the end of the longest text; no text ends without them.
    required_words: tuple[str, ...] = ()
    draft_tokens: int = 0  # tokens drafted from the source; a small model rarely continues as its source does

    def __post_init__(self) -> None:
        """Raise an `InputError` for values that are out of range or in conflict."""
        check_ranges("generation.writing", self, _WRITING_RANGES)
        if self.strategy not in STRATEGIES:
            raise InputError(
                f"generation.writing.strategy must be one of {', '.join(STRATEGIES)}; got {self.strategy!r}"
            )
        self._check_beam()
        self._check_words()

    def _check_beam(self) -> None:
        if self.strategy != "beam":
            return
        if self.beam_width < self.samples or self.beam_width % self.beam_groups:
            raise InputError(
                f"generation.writing.beam_width must be at least samples ({self.samples}) and a multiple of "
                f"beam_groups ({self.beam_groups}); got {self.beam_width}"
            )
        if self.draft_tokens:
            raise InputError(
                f"generation.writing.draft_tokens must be 0 for strategy beam; got {self.draft_tokens}"
            )

    def _check_words(self) -> None:
        for name in ("forbidden_words", "required_words"):
            if not all(word.strip() for word in getattr(self, name)):
                raise InputError(f"generation.writing.{name} holds an empty word: leave it out")
        forbidden = {word.strip().lower() for word in self.forbidden_words}
        for word in self.required_words:
            if word.strip().lower() in forbidden:
                raise InputError(f"generation.writing both requires and forbids {word.strip()!r}: keep one")


GENERATION_RANGES: tuple[Range, ...] = (
    ("vocabulary_size", 1, math.inf),
    ("layers", 1, math.inf),
    ("heads", 1, math.inf),
    ("hidden", 1, math.inf),
    ("max_tokens", 1, math.inf),
    ("prefix_tokens", 1, math.inf),
    ("max_examples", 0, math.inf),
    ("validation_texts", 1, math.inf),
    ("shown_readers", 0, 100),
    ("context_weight", 0.0, 0.99),  # only the words of the target weigh 1
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
    trainable: str = "all"  # its trained part: none, lora R or all; a model from scratch needs all
    precision: Precision = "float32"  # for its layers in training
    # From scratch: a small model that sees much learns more in the same minutes than a larger one (measured).
    vocabulary_size: int = 4000
    layers: int = 3
    heads: int = 6
    hidden: int = 192
    max_tokens: int = 256  # prompt and text together
    prefix_tokens: int = 4  # keys and values made from the reader, in every layer
    dropout: float = 0.1  # for a model from scratch; other backbones have their own
    tasks: TaskSharesConfig = field(default_factory=TaskSharesConfig)
    context_weight: float = 0.2  # weight of the words of history and source in the loss: they are news too
    drop_source: float = 0.2  # share of rows with a reader that lose their source; many others have none
    drop_reader: float = 0.1  # share of rows with a reader that lose it: requests come without a reader too
    # Weight of the loss that makes a title more likely for its own reader than for another one. 0, since it
    # hurts a model from scratch (measured: perplexity 334 instead of 194 after 550 steps on a newsroom).
    contrast: float = 0.0
    contrast_rows: float = 0.125  # share of the rows that this loss reads a second time: its cost
    max_examples: int = 0  # 0: all
    validation_texts: int = 400  # the most; takes a small writer seconds, and is stable to a few percent
    shown_readers: int = 4  # held-out readers whose titles TensorBoard shows at each validation; 0: none
    writing: WritingConfig = field(default_factory=WritingConfig)  # after training
    # For a pretrained backbone, which must not forget: larger batches, a lower rate; for `all` a tenth of it.
    adaptation: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=5e-4, batch_size=32, epochs=2)
    )
    # From scratch, many small updates beat few large ones (measured). A small corpus is known by heart after
    # about a dozen epochs (of 6,000 steps on 2,708 texts the 4,000th was best, in about epoch 11); a
    # large one gets about 15 minutes on two cores. Patience is a quarter of the training.
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            learning_rate=4e-3, batch_size=8, epochs=12, most_steps=6000, patience=3
        )
    )

    @property
    def optimizer_name(self) -> str:
        """Which of the two optimizer settings applies: `adaptation` or `optimizer`."""
        return "adaptation" if self.backbone not in ("", "tiny") else "optimizer"

    def __post_init__(self) -> None:
        """Refuse a value out of its range with an `InputError`: training reads these only after minutes."""
        check_ranges("generation", self, GENERATION_RANGES)


@dataclass(frozen=True, kw_only=True)
class SafetyConfig:
    """The safety classifier."""

    recall: float = 0.9  # share of unsafe texts caught; a safe one held back costs little, others remain


PRETRAIN_RANGES: tuple[Range, ...] = (
    ("dropout", 0.0, 0.9),
    ("validation_share", 0.001, 0.9),
    ("masked_share", 0.01, 0.9),
    ("smoothing_tokens", 0, 8),
    ("smoothing_end", 0.0, 1.0),
    ("max_tokens", 8, 32768),
    ("layers", 1, 1000),
    ("hidden", 1, 65536),
    ("heads", 1, 1024),
)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Language modelling on article text alone, before any stage."""

    # By name; "new": from scratch; empty: a GPT-2 from scratch, or the news backbone's default for BERT.
    backbone: str = ""
    vocabulary_size: int = 8000  # for a new model, special tokens included
    layers: int = 6
    hidden: int = 384
    heads: int = 6
    max_tokens: int = 256  # positions of a new model, and tokens of a packed row
    start_embeddings: bool = True  # new model: from co-occurrence of tokens instead of at random
    # New GPT-2 only: its targets begin as the predictions of n-grams of this many tokens and move towards the
    # text's own next tokens; `smoothing_end` is the share of the n-grams at the end. 0 tokens: no smoothing.
    smoothing_tokens: int = 4
    smoothing_end: float = 0.4
    dropout: float = 0.1
    precision: Precision = "float32"
    validation_share: float = 0.1  # as `data.validation_share`: a writer's validation texts are not learned
    masked_share: float = 0.15  # share of BERT's tokens to mask (Devlin et al. 2019)
    checkpoint_rate: float = 1e-4  # learning rate of a pretrained checkpoint, which must not forget
    # 4 packed rows, about 1,000 tokens: small batches, more updates. High rates suit a new GPT-2 badly: of
    # 4e-3, 2e-3, 1e-3 and 5e-4 each was better than the one before (measured).
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=7e-4, batch_size=4, epochs=3, weight_decay=0.1)
    )

    def __post_init__(self) -> None:
        """Refuse a value out of its range with an `InputError`."""
        check_ranges("pretrain", self, PRETRAIN_RANGES)
