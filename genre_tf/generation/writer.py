"""Write for a reader: prompt, decode, score and rank, in one graph from raw strings."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from genre_tf.config import WritingConfig
from genre_tf.errors import InputError
from genre_tf.generation.beam import Beam
from genre_tf.generation.cached_decoder import CachedDecoder
from genre_tf.generation.constraints import NOTHING, Constraints
from genre_tf.generation.decode import Decoded, DecodeOptions, Greedy, Sample, Strategy, decode
from genre_tf.generation.grounding import FUNCTION_WORDS, Grounding
from genre_tf.generation.prompts import Prompts, readable
from genre_tf.generation.ranking import RankingWeights, Written, rank
from genre_tf.generation.safety import SafetyList
from genre_tf.text.byte_pair import BytePair

Tokens = tuple[int, ...]
Interest = Callable[[Any], Any]
"""texts string [batch, n] -> click probability float32 [batch, n], for the batch's own readers."""
Unsafe = Callable[[Any], Any]
"""texts string [batch, n] -> bool [batch, n]."""
_CONTROL_CHARACTERS = r"[\x00-\x09\x0b-\x1f\x7f-\x{9f}]+"  # all except the line break


@dataclass(frozen=True, kw_only=True)
class WriterOptions(DecodeOptions):
    """Options of a writer: those of decoding, and more.

    The defaults are those of `WritingConfig`; `writer_options` converts any settings.
    """

    samples: int = 4
    strategy: Strategy | Beam = field(default_factory=lambda: Sample(temperature=0.7, top_k=40, top_p=0.9))
    constraints: Constraints = field(default_factory=lambda: Constraints(min_tokens=4, no_repeat_ngram=3))
    title_tokens: int = 32  # longest title, with its end; other texts may fill the prompt's target room
    required_words: tuple[Tokens, ...] = ()  # every text must contain them
    weights: RankingWeights = field(default_factory=RankingWeights)
    safety: SafetyList = field(default_factory=SafetyList)


def writer_options(
    settings: WritingConfig,
    prompts: Prompts,
    *,
    samples: int | None = None,
    safety: SafetyList = SafetyList(),  # noqa: B008  (frozen)
) -> WriterOptions:
    """Convert a run's settings, for the vocabulary of its prompts.

    `samples` overrides the settings; a beam is widened accordingly. With greedy decoding there is one text.
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
    strategy: Strategy | Beam = Sample(
        temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p
    )
    if settings.strategy == "greedy":
        strategy = Greedy()
    elif settings.strategy == "beam":
        groups = settings.beam_groups
        strategy = Beam(
            width=max(settings.beam_width, groups * math.ceil(wanted / groups)),
            length_penalty=settings.length_penalty,
            groups=groups,
            diversity=settings.diversity,
        )
    return WriterOptions(
        samples=1 if settings.strategy == "greedy" else wanted,
        title_tokens=settings.title_tokens,
        strategy=strategy,
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


def nothing_unsafe(texts: Any) -> Any:
    """No classifier: string [batch, n] -> bool [batch, n], always False."""
    return tf.zeros(tf.shape(texts), tf.bool)


class WritingGraph(tf.Module):
    """Writes texts for readers and ranks them. It uses portable operations only, so that it can be served.

    It holds a copy of the writer's weights in decoding layout; `refresh` updates the copy.

    Args:
        writer: a `Writer`.
        options: how to write.
    """

    def __init__(self, writer: Any, options: WriterOptions = WriterOptions()) -> None:
        super().__init__()
        self.model = CachedDecoder(writer.language_model)
        self.reader_prefix = writer.reader_prefix
        self.prompts = prompts = writer.prompts
        self.grounding = Grounding(writer.common_words or FUNCTION_WORDS)
        self.options = options
        self._newline: int = int(prompts.tokenizer.encode(tf.constant(["\n"])).flat_values[0])
        needed = prompts.sizes.tokens
        if needed > self.model.max_positions:
            raise ValueError(
                f"prompts of {needed} tokens do not fit into {self.model.max_positions} positions"
            )

    def refresh(self) -> None:
        """Update to the current weights of the writer."""
        self.model.refresh()

    def __call__(
        self,
        history_text: Any,
        source: Any,
        kind: Any,
        seed: Any,
        user_vector: Any,
        interest: Interest,
        unsafe: Unsafe = nothing_unsafe,
    ) -> Written:
        """Write, score and rank texts.

        Args:
            history_text: string [batch], titles joined by line breaks, oldest first; "" for a new reader.
            source: string [batch]; "" to write from interest alone.
            kind: string [batch]: title, summary, body, answer; any other value means title.
            seed: int64 [batch]; the same request with the same seed gives the same text in any batch.
            user_vector: float32 [batch, user_dimension], vector of the reader with this history_text.
            interest: the click model.
            unsafe: a trained classifier, in addition to the lists of the options.

        Returns:
            Texts and scores, best first, unsafe last; valid UTF-8 and finite numbers. The grounding is
            relative to the source, or to the reader's titles if the source is empty: to whatever the writer
            was given.
        """
        decoded = self.decode(history_text, source, kind, seed, user_vector)
        text = self._text(decoded, kind)
        evidence = readable(tf.where(tf.strings.strip(source) == "", history_text, source))
        written = Written(
            text=text,
            interest=interest(text),
            log_probability=decoded.log_probability,
            grounding=self.grounding(text, evidence),
            safe=self.options.safety.is_safe(text) & ~unsafe(text),
            unsupported=self.grounding.unsupported(text, evidence),
        )
        return rank(written, self.options.weights, self.read_titles(history_text))

    def read_titles(self, history_text: Any) -> Any:
        """Titles that a text must not repeat: string [batch] -> string [batch, titles], padded with ""."""
        return self.prompts.newest_titles(history_text).to_tensor("")

    def decode(self, history_text: Any, source: Any, kind: Any, seed: Any, user_vector: Any) -> Decoded:
        """Write token ids without ranking. Arguments as in `__call__`."""
        prompt = self.prompts.to_continue(history_text, source, kind)
        target_tokens = self.prompts.sizes.target_tokens
        long = self.prompts.kind_index(kind) > 0
        newline = tf.where(self.prompts.may_break_line(kind), NOTHING, self._newline)[:, None]  # [batch, 1]
        controls = tf.repeat(tf.constant([self.prompts.control_ids]), tf.size(kind), axis=0)
        required = None
        if words := self.options.required_words:
            longest = max(map(len, words))
            rows = tf.constant([[[*word, *[NOTHING] * (longest - len(word))] for word in words]])
            required = tf.ensure_shape(tf.repeat(rows, tf.size(kind), axis=0), [None, *rows.shape[1:]])
        return decode(
            self.model,
            self.model.embed(prompt.token_ids),
            prompt.mask,
            prefix=self.reader_prefix(user_vector, prompt.has_reader),
            seeds=seed,
            limits=tf.where(long, target_tokens, self.options.title_tokens),
            forbidden=tf.concat([controls, newline], axis=1),
            required=required,
            end_id=self.prompts.end_id,
            max_tokens=target_tokens,
            options=self.options,
            copy_from=prompt.source,
        )

    def _text(self, decoded: Decoded, kind: Any) -> Any:
        shape = tf.shape(decoded.ids)
        ids = tf.where(decoded.ids == NOTHING, self.prompts.end_id, decoded.ids)  # dropped in decoding
        text = self.prompts.tokenizer.decode(tf.reshape(ids, [-1, shape[2]]))  # [batch * samples]
        text = tf.strings.regex_replace(text, _CONTROL_CHARACTERS, " ")
        text = tf.reshape(tf.strings.strip(text), shape[:2])
        one_line = tf.strings.regex_replace(text, r"\s+", " ")
        return tf.where(self.prompts.may_break_line(kind)[:, None], text, one_line)
