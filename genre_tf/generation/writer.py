"""Write for a reader: prompt, decode, score and rank, in one graph from raw strings."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import tensorflow as tf

from genre_tf.config import WritingConfig
from genre_tf.errors import InputError
from genre_tf.generation.beam import Beam
from genre_tf.generation.cached_decoder import CachedDecoder
from genre_tf.generation.constraints import NOTHING, Constraints
from genre_tf.generation.decode import Decoded, DecodeOptions, Greedy, Sample, Strategy, decode
from genre_tf.generation.grounding import FUNCTION_WORDS, Grounding
from genre_tf.generation.prompts import Prompts, readable
from genre_tf.generation.relevance import words_of
from genre_tf.generation.safety import SafetyList
from genre_tf.generation.unsafe_language import default_unsafe_language
from genre_tf.text.byte_pair import BytePair

Tokens = tuple[int, ...]
Interest = Callable[[Any], Any]
"""texts string [batch, n] -> click probability float32 [batch, n], for the batch's own readers."""
Topic = Callable[[Any], Any]
"""texts string [batch, n] -> closeness to what each row should be about, float32 [batch, n]; at most 1."""
Unsafe = Callable[[Any], Any]
"""texts string [batch, n] -> bool [batch, n]."""
_EMPTY, _UNSAFE = 8, 9  # places behind every text that fails only some of the floors
_READ_TITLES = 50  # newest titles of a history that a text must not repeat
_CONTROL_CHARACTERS = r"[\x00-\x09\x0b-\x1f\x7f-\x{9f}]+"  # all except the line break


class Style(NamedTuple):
    """The tone and topic that texts should have."""

    instruction: Any  # string [batch], for writers that follow instructions; "" for none
    fits: Callable[[Any], Any]  # texts string [batch, n] -> bool [batch, n]


class Written(NamedTuple):
    """Texts for a batch of readers, each column a candidate."""

    text: Any  # string [batch, n], UTF-8
    interest: Any  # float32 [batch, n], click probability for this reader according to the click model
    log_probability: Any  # float32 [batch, n], according to the language model, mean per token
    grounding: Any  # float32 [batch, n], share of the claims that the evidence supports
    safe: Any  # bool [batch, n]
    unsupported: Any  # string [batch, n], the other claims, joined by line breaks; for reports, not served
    topic: Any  # float32 [batch, n], closeness to the source, or to the reader's titles; not served either

    def served(self) -> dict[str, Any]:
        """What a server answers, by name."""
        hidden = ("unsupported", "topic")
        return {name: column for name, column in self._asdict().items() if name not in hidden}


@dataclass(frozen=True, kw_only=True)
class Floors:
    """What a text must reach before the interest of the reader counts; the settings give the reasons."""

    likelihood_gap: float = 2.0  # nats per token below the likeliest text that passes everything else
    topic: float = -1.0  # least closeness, as `topic_floor` measures it; -1: every topic passes
    grounding: float = 0.75
    # Shared part of the distinct words of two texts (Jaccard index) from which the worse one counts as a
    # repetition: two words changed in a title of eight.
    near_duplicate: float = 0.6


@dataclass(frozen=True, kw_only=True)
class WriterOptions(DecodeOptions):
    """Options of a writer: those of decoding, and more.

    The defaults are those of `WritingConfig`; `writer_options` converts any settings.
    """

    samples: int = 8
    strategy: Strategy | Beam = field(default_factory=lambda: Sample(temperature=0.7, top_k=40, top_p=0.9))
    constraints: Constraints = field(default_factory=lambda: Constraints(min_tokens=4, no_repeat_ngram=3))
    title_tokens: int = 32  # longest title, with its end; other texts may fill the prompt's target room
    required_words: tuple[Tokens, ...] = ()  # every text must contain them
    floors: Floors = field(default_factory=Floors)
    safety: SafetyList = field(default_factory=SafetyList)


def writer_options(
    settings: WritingConfig,
    prompts: Prompts,
    *,
    samples: int | None = None,
    safety: SafetyList = SafetyList(),  # noqa: B008  (frozen)
    topic_floor: float = -1.0,
) -> WriterOptions:
    """Convert a run's settings, for the vocabulary of its prompts.

    `samples` overrides the settings; a beam is widened accordingly. With greedy decoding there is one text.
    `topic_floor` is measured for the settings' `topic_share`; -1: every topic passes.
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
        floors=Floors(
            likelihood_gap=settings.likelihood_gap,
            topic=topic_floor,
            grounding=settings.least_grounding,
        ),
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


def any_topic(texts: Any) -> Any:
    """Nothing to compare with: string [batch, n] -> float32 [batch, n], always 1."""
    return tf.ones(tf.shape(texts))


def closeness(texts: Any, source: Any, clicks: Any, mask: Any) -> Any:
    """How close texts are to their source, or if it has no vector, to the closest of the reader's titles.

    Args:
        texts: float32 [batch, n, D], vectors that tell the topic; see `NewsEncoder.topic_part`.
        source: float32 [batch, 1, D]; zeros without a source.
        clicks: float32 [batch, H, D].
        mask: bool [batch, H].

    Returns:
        Cosines, float32 [batch, n]; 1 if there is neither a source nor a title.
    """
    texts, source, clicks = (tf.math.l2_normalize(each, axis=-1) for each in (texts, source, clicks))
    to_source = tf.matmul(texts, source, transpose_b=True)[..., 0]
    to_clicks = tf.where(mask[:, None, :], tf.matmul(texts, clicks, transpose_b=True), -1.0)
    to_clicks = tf.reduce_max(tf.concat([to_clicks, -tf.ones_like(to_source)[..., None]], 2), axis=2)
    without = tf.where(tf.reduce_any(mask, axis=1, keepdims=True), to_clicks, 1.0)
    return tf.where(tf.reduce_any(source != 0.0, axis=-1), to_source, without)


class WritingGraph(tf.Module):
    """Writes texts for readers and ranks them. It uses portable operations only, so that it can be served.

    It holds a copy of the writer's weights in decoding layout; `refresh` updates the copy.
    """

    def __init__(
        self, writer: Any, options: WriterOptions = WriterOptions(), fixed_shapes: bool = False
    ) -> None:
        super().__init__()
        if fixed_shapes and (options.draft_tokens or isinstance(options.strategy, Beam)):
            raise InputError(
                "a writer for TPUs writes token by token: set generation.writing.strategy to sample or "
                "greedy, and draft_tokens to 0"
            )
        self.model = CachedDecoder(writer.language_model, fixed_shapes)
        self.prompts = prompts = writer.prompts
        self.grounding = Grounding(writer.common_words or FUNCTION_WORDS)
        self.options = options
        self._newline: int = int(prompts.tokenizer.encode(tf.constant(["\n"])).flat_values[0])
        needed = prompts.tokens
        if needed > self.model.max_positions:
            raise ValueError(
                f"prompts of {needed} tokens do not fit into {self.model.max_positions} positions"
            )
        self._prompt_tokens = needed - prompts.sizes.target_tokens
        self.compiled: Callable[..., Any] | None = None  # `_write_tokens` with fixed shapes
        if fixed_shapes:
            prompt = [None, self._prompt_tokens]
            specs = {
                "token_ids": (prompt, tf.int32),
                "mask": (prompt, tf.bool),
                "seed": ([None], tf.int64),
                "limits": ([None], tf.int32),
                "newline": ([None, 1], tf.int32),
            }
            signature = [tf.TensorSpec(shape, dtype, name) for name, (shape, dtype) in specs.items()]
            self.compiled = tf.function(self._write_tokens, signature, autograph=False)

    def refresh(self) -> None:
        """Update to the current weights of the writer."""
        self.model.refresh()

    def __call__(
        self,
        history_text: Any,
        source: Any,
        kind: Any,
        seed: Any,
        interest: Interest,
        unsafe: Unsafe = nothing_unsafe,
        topic: Topic = any_topic,
        style: Style | None = None,
    ) -> Written:
        """Write, score and rank texts.

        Args:
            history_text: string [batch], titles joined by line breaks, oldest first; "" for a new reader.
            source: string [batch]; "" to write from interest alone.
            kind: string [batch]: title, summary, body; any other value means title.
            seed: int64 [batch]; the same request with the same seed gives the same text in any batch.
            interest: the click model.
            unsafe: a classifier trained by the operator, in addition to the lists and the default classifier.
            topic: tells which texts are about something else than the source.
            style: the tone and topic that texts should have; None: any.

        Returns:
            Texts and scores in the order of `rank`; valid UTF-8 and finite numbers. The grounding is
            relative to the source, or to the reader's titles if the source is empty: to whatever the writer
            was given.
        """
        told = None if style is None else style.instruction
        drawn = self.draw(history_text, source, kind, seed, interest, unsafe, topic, told)
        fits = None if style is None else style.fits(drawn.text)
        return rank(drawn, self.options.floors, self.read_titles(history_text), fits)

    def draw(
        self,
        history_text: Any,
        source: Any,
        kind: Any,
        seed: Any,
        interest: Interest,
        unsafe: Unsafe = nothing_unsafe,
        topic: Topic = any_topic,
        instruction: Any | None = None,
    ) -> Written:
        """Write and score texts, in the order in which they were drawn; arguments as in `decode`."""
        decoded = self.decode(history_text, source, kind, seed, instruction)
        text = self._text(decoded, kind)
        evidence = readable(tf.where(tf.strings.strip(source) == "", history_text, source))
        return Written(
            text=text,
            interest=interest(text),
            log_probability=decoded.log_probability,
            grounding=self.grounding(text, evidence),
            safe=self.is_safe(text) & ~unsafe(text),
            unsupported=self.grounding.unsupported(text, evidence),
            topic=topic(text),
        )

    def is_safe(self, texts: Any) -> Any:
        """Whether neither the lists nor the default classifier objects: string [...] -> bool [...]."""
        return self.options.safety.is_safe(texts) & ~default_unsafe_language().is_unsafe(texts)

    def read_titles(self, history_text: Any) -> Any:
        """Titles that a text must not repeat: string [batch] -> string [batch, titles], padded with ""."""
        return tf.strings.split(readable(history_text), "\n")[:, -_READ_TITLES:].to_tensor("")

    def decode(
        self, history_text: Any, source: Any, kind: Any, seed: Any, instruction: Any | None = None
    ) -> Decoded:
        """Write token ids without ranking. Arguments as in `__call__`; the instruction is that of a style."""
        prompt = self.prompts.to_continue(history_text, source, kind, instruction)
        token_ids, mask = prompt.token_ids, prompt.mask
        if self.model.fixed_shapes:
            missing = [[0, 0], [self._prompt_tokens - tf.shape(mask)[1], 0]]
            token_ids, mask = (
                tf.ensure_shape(tf.pad(rows, missing), [None, self._prompt_tokens])
                for rows in (token_ids, mask)
            )
        long = self.prompts.kind_index(kind) > 0
        limits = tf.where(long, self.prompts.sizes.target_tokens, self.options.title_tokens)
        newline = tf.where(self.prompts.may_break_line(kind), NOTHING, self._newline)[:, None]  # [batch, 1]
        copied = (prompt.source,) if self.options.draft_tokens else ()
        write_tokens = self.compiled or self._write_tokens
        return Decoded(*write_tokens(token_ids, mask, seed, limits, newline, *copied))

    def device_functions(self) -> dict[str, Any]:
        """The functions that XLA can compile, for `function_aliases` of a SavedModel; none by default."""
        return {} if self.compiled is None else {"write_tokens": self.compiled}

    def _write_tokens(
        self, token_ids: Any, mask: Any, seed: Any, limits: Any, newline: Any, source: Any | None = None
    ) -> tuple[Any, Any]:
        """The part of `decode` without strings and tables."""
        batch, target_tokens = tf.shape(token_ids)[0], self.prompts.sizes.target_tokens
        controls = tf.repeat(tf.constant([self.prompts.control_ids]), batch, axis=0)
        required = None
        if words := self.options.required_words:
            longest = max(map(len, words))
            rows = tf.constant([[[*word, *[NOTHING] * (longest - len(word))] for word in words]])
            required = tf.ensure_shape(tf.repeat(rows, batch, axis=0), [None, *rows.shape[1:]])
        decoded = decode(
            self.model,
            self.model.embed(token_ids),
            mask,
            seeds=seed,
            limits=limits,
            forbidden=tf.concat([controls, newline], axis=1),
            required=required,
            end_id=self.prompts.end_id,
            max_tokens=target_tokens,
            options=self.options,
            copy_from=source,
        )
        return tuple(decoded)

    def _text(self, decoded: Decoded, kind: Any) -> Any:
        shape = tf.shape(decoded.ids)
        ids = tf.where(decoded.ids == NOTHING, self.prompts.end_id, decoded.ids)  # dropped in decoding
        text = self.prompts.tokenizer.decode(tf.reshape(ids, [-1, shape[2]]))  # [batch * samples]
        text = tf.strings.regex_replace(text, _CONTROL_CHARACTERS, " ")
        text = tf.reshape(tf.strings.strip(text), shape[:2])
        one_line = tf.strings.regex_replace(text, r"\s+", " ")
        return tf.where(self.prompts.may_break_line(kind)[:, None], text, one_line)


def rank(written: Written, floors: Floors, read: Any | None = None, fits: Any | None = None) -> Written:
    """Sort each row, best first; numbers that were not finite become 0.

    A text passes if it is grounded, on topic, no copy of a title that the reader has already `read`, string
    [batch, m], fluent beside the likeliest of the others, of the style asked for (`fits`, bool [batch, n]),
    and no repetition of a text in front of it. Among texts that pass, the reader's interest decides, or for
    a reader who has read nothing `agreement`; they come first. Then come texts that fail once, twice and so
    on, likelier ones first: a click model is never asked about what should not be read. Empty texts and at
    the very end unsafe ones come last, whatever their values.
    """
    scores = {name: getattr(written, name) for name in ("interest", "log_probability", "grounding", "topic")}
    written = written._replace(
        **{name: tf.where(tf.math.is_finite(score), score, 0.0) for name, score in scores.items()}
    )
    place = _places(written, floors, read)
    if fits is not None:
        place += tf.cast(~fits & (place < _EMPTY), tf.int32)
    likelier = tf.argsort(written.log_probability, 1, "DESCENDING", stable=True)
    written, place = _sorted(written, place, likelier)
    better = written.interest
    if read is not None:
        better = tf.where(tf.reduce_any(read != "", axis=1, keepdims=True), better, agreement(written))
    counted = tf.where(place == 0, better, 0.0)
    written, place = _sorted(written, place, tf.argsort(counted, 1, "DESCENDING", stable=True))
    written, place = _sorted(written, place, tf.argsort(place, 1, stable=True))
    repeated = _repeated(_alike(written.text, written.text, floors.near_duplicate)) & (place < _EMPTY)
    place += tf.cast(repeated, tf.int32)
    return _sorted(written, place, tf.argsort(place, 1, stable=True))[0]


def agreement(written: Written) -> Any:
    """How much each text says what the other samples say, float32 [batch, n]; higher is better.

    The mean F1 of its distinct words and those of each other text, plus a tenth of its log probability per
    token, which decides between texts that agree alike. What most samples say is rarely invented.

    Source: Eikema and Aziz, "Is MAP Decoding All You Need?", 2020 (minimum Bayes risk), with F1 as the gain.
    """
    both, size, theirs = _shared_words(written.text, written.text)
    f1 = 2 * both / tf.maximum(size[:, :, None] + theirs[:, None, :], 1.0)
    others = tf.maximum(tf.cast(tf.shape(f1)[1], tf.float32) - 1, 1.0)
    return (tf.reduce_sum(f1, axis=2) - tf.linalg.diag_part(f1)) / others + 0.1 * written.log_probability


def passing(written: Written, floors: Floors, read: Any | None = None) -> Any:
    """Which texts pass everything that `rank` asks of a text by itself, bool [batch, n]."""
    return _places(written, floors, read) == 0


def _places(written: Written, floors: Floors, read: Any | None) -> Any:
    """How many floors each text fails, int32 [batch, n]; empty and unsafe texts have places of their own."""
    said = tf.strings.regex_full_match(written.text, r"(?s).*[\p{L}\p{N}].*")
    failed = [written.grounding < floors.grounding, written.topic < floors.topic]
    if read is not None:
        failed.append(tf.reduce_any(_alike(written.text, read, floors.near_duplicate), axis=2))
    failures = tf.add_n([tf.cast(each, tf.int32) for each in failed])
    fit = written.safe & said & (failures == 0)
    likeliest = tf.reduce_max(tf.where(fit, written.log_probability, -math.inf), 1, keepdims=True)
    failures += tf.cast(written.log_probability < likeliest - floors.likelihood_gap, tf.int32)
    return tf.where(written.safe, tf.where(said, failures, _EMPTY), _UNSAFE)


def _sorted(written: Written, kind: Any, order: Any) -> tuple[Written, Any]:
    columns = [tf.gather(column, order, batch_dims=1) for column in (*written, kind)]
    return Written(*columns[:-1]), columns[-1]


def _words(text: Any) -> Any:
    """Fingerprints of the words of texts, string [batch, n] -> int64 [batch, n, words], padded with -1.

    Case and punctuation are ignored, see `words_of`.
    """
    words = words_of(tf.reshape(text, [-1]))
    numbers = words.with_values(tf.strings.to_hash_bucket_fast(words.values, 2**62)).to_tensor(-1)
    return tf.reshape(numbers, tf.concat([tf.shape(text), tf.shape(numbers)[1:]], 0))


def _shared_words(texts: Any, others: Any) -> tuple[Any, Any, Any]:
    """Distinct words that texts share, and that each has: string [batch, n], [batch, m] -> float32
    [batch, n, m], [batch, n], [batch, m].
    """
    words, theirs = _words(texts), _words(others)
    distinct = _first_ones(words)
    found = tf.reduce_any(words[:, :, :, None, None] == theirs[:, None, None], axis=4)  # [batch, n, words, m]
    both = tf.reduce_sum(tf.cast(found & distinct[..., None], tf.float32), axis=2)
    size, their_size = (
        tf.reduce_sum(tf.cast(each, tf.float32), axis=2) for each in (distinct, _first_ones(theirs))
    )
    return both, size, their_size


def _alike(texts: Any, others: Any, near_duplicate: float) -> Any:
    """Which texts are almost the same as others: string [batch, n], [batch, m] -> bool [batch, n, m]."""
    both, size, their_size = _shared_words(texts, others)
    either = size[:, :, None] + their_size[:, None, :] - both
    return both + 1e-4 >= near_duplicate * tf.maximum(either, 1.0)  # tolerance for the rounded share


def _first_ones(words: Any) -> Any:
    """Where each distinct word of a text occurs first: int64 [batch, n, words] -> bool of the same shape."""
    same = words[:, :, :, None] == words[:, :, None, :]  # [batch, n, words, words]
    place = tf.range(tf.shape(words)[2])
    return (words >= 0) & ~tf.reduce_any(same & (place < place[:, None]), axis=3)


def _repeated(alike: Any) -> Any:
    """Whether a text is similar to an earlier one that is no repetition: bool [batch, n, n] -> [batch, n]."""
    texts = tf.shape(alike)[1]

    def judge(at: Any, kept: Any) -> tuple[Any, Any]:
        repeats = tf.reduce_any(alike[:, at] & kept, axis=1)  # kept only has entries before it
        now = kept | (~repeats[:, None] & (tf.range(texts) == at))
        return at + 1, tf.ensure_shape(now, kept.shape)

    _, kept = tf.while_loop(lambda at, _: at < texts, judge, [tf.constant(0), tf.zeros_like(alike[:, 0])])
    return ~kept
