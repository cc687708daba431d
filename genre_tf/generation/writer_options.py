"""Options of a writer, and how they follow from the settings of a run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import tensorflow as tf

from genre_tf.config import WritingConfig
from genre_tf.errors import InputError
from genre_tf.generation.beam import Beam
from genre_tf.generation.constraints import Constraints
from genre_tf.generation.prompts import Prompts
from genre_tf.generation.ranking import RankingWeights
from genre_tf.generation.safety import SafetyList
from genre_tf.generation.sampling import Greedy, Sample, Strategy
from genre_tf.text.byte_pair import BytePair

Tokens = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class WriterOptions:
    """Options of a writer.

    The defaults are those of `WritingConfig`; `writer_options` converts any settings.

    Args:
        samples: number of texts per request row; the best of them comes first.
        title_tokens: longest title, including its end; summaries and bodies may fill the prompt's target
            room.
        strategy: how to choose a token; a `Beam` searches instead.
        constraints: constraints on lengths and repetitions.
        required_words: token sequences that every text must contain.
        draft_tokens: number of tokens to copy ahead from the source and check in one step; the texts stay the
            same. 0: none.
        weights: weights of the ranking.
        safety: what makes a text unsafe.
    """

    samples: int = 4
    title_tokens: int = 32
    strategy: Strategy | Beam = field(default_factory=lambda: Sample(temperature=0.7, top_k=40, top_p=0.9))
    constraints: Constraints = field(default_factory=lambda: Constraints(min_tokens=4, no_repeat_ngram=3))
    required_words: tuple[Tokens, ...] = ()
    draft_tokens: int = 0
    weights: RankingWeights = field(default_factory=RankingWeights)
    safety: SafetyList = field(default_factory=SafetyList)

    @property
    def rows(self) -> int:
        """Number of texts decoded at a time for each request row."""
        return self.strategy.width if isinstance(self.strategy, Beam) else self.samples


def writer_options(
    settings: WritingConfig,
    prompts: Prompts,
    *,
    samples: int | None = None,
    safety: SafetyList = SafetyList(),  # noqa: B008  (frozen)
) -> WriterOptions:
    """Convert a run's settings, for its vocabulary.

    Args:
        settings: writing settings of the run.
        prompts: give the vocabulary and the maximum length of a text.
        samples: overrides the settings; a beam is widened accordingly. With greedy decoding there is one
            text.
        safety: what makes a text unsafe.

    Raises:
        InputError: the required words do not fit into a title.
    """
    wanted = settings.samples if samples is None else samples
    required = _spelled([f" {word.strip()}" for word in settings.required_words], prompts.tokenizer)
    room = min(settings.title_tokens, prompts.sizes.target_tokens) - 1  # the end token takes the last place
    needed = sum(map(len, required))
    if needed > room:
        raise InputError(
            f"generation.writing.required_words take {needed} tokens, but a title of this writer has room "
            f"for {room}; give fewer words, or increase title_tokens or max_tokens"
        )
    return WriterOptions(
        samples=1 if settings.strategy == "greedy" else wanted,
        title_tokens=settings.title_tokens,
        strategy=_strategy(settings, wanted),
        constraints=Constraints(
            min_tokens=settings.min_tokens,
            repetition_penalty=settings.repetition_penalty,
            no_repeat_ngram=settings.no_repeat_ngram,
            forbidden_words=_spelled(_forms(settings.forbidden_words), prompts.tokenizer),
        ),
        required_words=required,
        draft_tokens=settings.draft_tokens,
        safety=safety,
    )


def _strategy(settings: WritingConfig, samples: int) -> Strategy | Beam:
    if settings.strategy == "greedy":
        return Greedy()
    if settings.strategy == "beam":
        groups = settings.beam_groups
        return Beam(
            width=max(settings.beam_width, groups * math.ceil(samples / groups)),
            length_penalty=settings.length_penalty,
            groups=groups,
            diversity=settings.diversity,
        )
    return Sample(temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p)


def _forms(words: Sequence[str]) -> list[str]:
    """Words as they may occur in a text: in any usual case, at its beginning and after a space."""
    forms = []
    for word in map(str.strip, words):
        cases = (word, word.lower(), word.upper(), word[:1].upper() + word[1:])
        forms += [lead + form for form in cases for lead in (" ", "")]
    return list(dict.fromkeys(forms))


def _spelled(texts: Sequence[str], tokenizer: BytePair) -> tuple[Tokens, ...]:
    """The tokens of texts, each spelling once."""
    if not texts:
        return ()
    ids = tokenizer.encode(tf.constant(texts)).to_list()
    return tuple(dict.fromkeys(tuple(row) for row in ids if row))
