"""Settings of what writes: the generator, its pretraining, the classifier of unsafe texts."""

import dataclasses
import math
from dataclasses import dataclass, field

from genre_tf.config.optimizer import OptimizerConfig, check_ranges
from genre_tf.errors import InputError


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
    """How a trained writer writes: in what is exported, in evaluation and in benches.

    Nothing here changes what is learned: `genre export` and `genre evaluate` read it from the run's
    `config.toml`, where it may be changed after the training.
    """

    samples: int = 4  # texts of a request, of which the ranking chooses: each is one more row to decode
    title_tokens: int = 32  # longest title, its end included; others may fill a quarter of `max_tokens`
    strategy: str = "sample"  # or "greedy" (one text, always the same), "beam" (the likeliest ones)
    # Sharper than the model: small models wander off in the tail of their distribution.
    temperature: float = 0.7
    top_k: int = 40  # likeliest tokens that are drawn from; 0: all
    top_p: float = 0.9  # of these the fewest that reach this probability (Holtzman et al. 2020)
    beam_width: int = 4  # beginnings kept at each step: at least the samples
    beam_groups: int = 1  # above 1 texts differ more: each group shuns what earlier ones chose
    length_penalty: float = 1.0  # of a beam: 1 compares means over tokens; above it longer texts win
    diversity: float = 0.0  # nats for each earlier group that chose the same token; groups do nothing at 0
    min_tokens: int = 4  # no title says anything in fewer
    repetition_penalty: float = 1.0  # none: a headline has to repeat names; n-grams below hold loops back
    no_repeat_ngram: int = 3  # no run of so many tokens twice; 0: no such rule
    # As the tokenizer spells them, in any usual case, also within longer words. A word spelled in other
    # tokens may still come: whatever must never be shown belongs into the safety list.
    forbidden_words: tuple[str, ...] = ()
    # In every text, such as a label of written ones; what does not come by itself fills the end of the room,
    # and no text ends before.
    required_words: tuple[str, ...] = ()
    draft_tokens: int = 0  # copied ahead from the source; a small model seldom goes on as its source does

    def __post_init__(self) -> None:
        """Refuse with an `InputError` what is out of its range or does not go together."""
        check_ranges("generation.writing", self, _WRITING_RANGES)
        if self.strategy not in STRATEGIES:
            raise InputError(
                f"no generation.writing.strategy {self.strategy!r}: use one of {', '.join(STRATEGIES)}"
            )
        self._check_beam()
        self._check_words()

    def _check_beam(self) -> None:
        if self.strategy != "beam":
            return
        if self.beam_width < self.samples or self.beam_width % self.beam_groups:
            raise InputError(
                f"generation.writing.beam_width is at least samples ({self.samples}) and a multiple of "
                f"beam_groups ({self.beam_groups}), not {self.beam_width}"
            )
        if self.draft_tokens:
            raise InputError(
                f"generation.writing.draft_tokens is {self.draft_tokens}: a beam takes no drafts, give 0"
            )

    def _check_words(self) -> None:
        for name in ("forbidden_words", "required_words"):
            if not all(word.strip() for word in getattr(self, name)):
                raise InputError(f"generation.writing.{name} holds an empty word: leave it out")
        forbidden = {word.strip().lower() for word in self.forbidden_words}
        for word in self.required_words:
            if word.strip().lower() in forbidden:
                raise InputError(f"generation.writing both requires and forbids {word.strip()!r}")


_GENERATION_RANGES = (
    ("vocabulary_size", 1, math.inf),
    ("layers", 1, math.inf),
    ("heads", 1, math.inf),
    ("hidden", 1, math.inf),
    ("max_tokens", 1, math.inf),
    ("prefix_tokens", 1, math.inf),
    ("max_examples", 0, math.inf),
    ("shown_readers", 0, 100),
    ("context_weight", 0.0, 0.99),  # a weight of 1 is the target's alone
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
    precision: str = "float32"  # of its layers in training; or "mixed_bfloat16", "mixed_float16"
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
    # 0: from scratch it hurts much (measured: perplexity 334 instead of 194 after 550 steps on a newsroom).
    contrast: float = 0.0
    contrast_rows: float = 0.125  # share of the rows that are read a second time for it: what it costs
    max_examples: int = 0  # 0: all
    shown_readers: int = 4  # held-out ones whose titles TensorBoard shows at each validation; 0: none
    writing: WritingConfig = field(default_factory=WritingConfig)  # after training
    # Of a pretrained one, which must not forget: larger batches, a lower rate; for `all` give a tenth of it.
    adaptation: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=5e-4, batch_size=32, epochs=2)
    )
    # Many small updates beat few large ones from scratch (measured): some 15 minutes on two cores.
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            learning_rate=4e-3, batch_size=8, steps=6000, validate_every=1000, patience=10
        )
    )

    @property
    def optimizer_name(self) -> str:
        """Which of the two is in force."""
        return "adaptation" if self.backbone not in ("", "tiny") else "optimizer"

    def __post_init__(self) -> None:
        """Refuse a value out of its range with an `InputError`: a training reads these after minutes."""
        check_ranges("generation", self, _GENERATION_RANGES)


@dataclass(frozen=True, kw_only=True)
class SafetyConfig:
    """The safety classifier."""

    recall: float = 0.9  # of unsafe texts; a safe one held back costs little, for others stand beside it


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Language modelling on article text alone, before any stage."""

    # By name; "new": from scratch; empty: a GPT-2 from scratch, or the news backbone's default for BERT.
    backbone: str = ""
    vocabulary_size: int = 8000  # of a new model, with its special tokens
    layers: int = 6
    hidden: int = 384
    heads: int = 6
    max_tokens: int = 256  # positions of a new model, and tokens of a packed row
    start_embeddings: bool = True  # of a new model from which tokens stand near each other, not at random
    # Of a new GPT-2: its targets are at first what n-grams of so many tokens expect, and more and more the
    # text's own next tokens; so many of the n-grams remain at the end. 0 tokens: none.
    smoothing_tokens: int = 4
    smoothing_end: float = 0.4
    dropout: float = 0.1
    precision: str = "float32"  # of the matrix products; or "mixed_bfloat16", "mixed_float16"
    validation_share: float = 0.1  # as `data.validation_share`: what a writer is validated on is not learned
    masked_share: float = 0.15  # of BERT's tokens (Devlin et al. 2019)
    checkpoint_rate: float = 1e-4  # learning rate of what is trained already: it must not forget
    # 4 packed rows, some 1,000 tokens: small batches, more updates. A new GPT-2 takes higher rates badly: of
    # 4e-3, 2e-3, 1e-3 and 5e-4 each was better than the one before (measured).
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=7e-4, batch_size=4, epochs=3, weight_decay=0.1)
    )
