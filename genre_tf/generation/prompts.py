"""The generator's input: a prompt of token ids, built in the graph from raw strings.

    before  titles, oldest first  between  source  behind  target  end

The pieces around titles, source and target are those of the form (`genre_tf.generation.prompt_form`); a
model from scratch has <|reader|>, <|source|>, <|title|> and <|end|>. Training and the served graph use the
same functions. Prompts to be continued are padded on the left, so that each ends in the last column; rows to
be learned are padded on the right, where causal attention hides the padding.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from genre_tf.contract import KINDS
from genre_tf.generation.prompt_form import PromptForm, chat_form, control_form
from genre_tf.generation.relevance import Relevance, best_first, sentences_of

_MOST_TITLES = 100  # the newest; of these the best are chosen
_READ_CHARACTERS = 20_000  # of a source: a long article has 10,000


@dataclass(frozen=True, kw_only=True)
class PromptSizes:
    """Maximum length of each part, in tokens."""

    history_titles: int = 6  # number of titles: those nearest to the source, without one the newest
    title_tokens: int = 24  # of one title in the history
    history_tokens: int = 80  # of all titles, with a line break after each; only complete titles
    source_tokens: int = 96  # a longer source is cut to the sentences that matter most
    target_tokens: int = 64  # of the text to write, including its end token

    def __post_init__(self) -> None:
        if self.title_tokens + 1 > self.history_tokens:
            raise ValueError(f"history_tokens must be large enough for one title; got {self}")

    @classmethod
    def within(cls, max_tokens: int, fixed: int = 3) -> "PromptSizes":
        """Divide `max_tokens` positions: a quarter for the text, the rest for history and source.

        `fixed` positions belong to the pieces of the prompt's form.
        """
        rest = max_tokens - fixed
        target = rest // 4
        history = (rest - target) * 4 // 10
        if history < 8:
            raise ValueError(f"{max_tokens} tokens leave no room for a prompt")
        return cls(
            title_tokens=min(24, history - 1),
            history_tokens=history,
            source_tokens=rest - target - history,
            target_tokens=target,
        )


class Prompt(NamedTuple):
    """A batch of prompts to be continued."""

    token_ids: Any  # int32 [batch, time], padded on the left
    mask: Any  # bool [batch, time], False for padding
    source: Any  # int32 [batch, source_tokens], the source tokens in the prompt, padded with -1


class Prompts(tf.Module):
    """Lays out prompts.

    The tokenizer is a `BytePair` whose special tokens include those of the form. It never produces a special
    token from a text, so a source cannot smuggle in an instruction.

    Args:
        tokenizer: see above.
        sizes: longest length of each part; None: divided from `max_tokens`.
        chat: the frame of a checkpoint's chat template, see `chat_frame`; None: control tokens.
        max_tokens: longest prompt including its text, if there are no sizes.
        word_weights: how much words say, see `genre_tf.generation.relevance.word_weights`.

    Raises:
        ValueError: `max_tokens` leave no room for a prompt.
        InputError: the vocabulary lacks a special token of the form.
    """

    def __init__(
        self,
        tokenizer: Any,
        sizes: PromptSizes | None = None,
        chat: Mapping[str, str] | None = None,
        max_tokens: int = 256,
        word_weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.relevance = Relevance(word_weights)
        form = chat_form(chat) if chat else control_form()
        self.end_id: int = tokenizer.token_id(form.end)
        self._chat = tuple(sorted((chat or {}).items()))
        self._pieces = _spelled(form, tokenizer)
        self._turn_tokens = len(_ids(chat["between"], tokenizer)) if chat else 0
        self.fixed_tokens = max(sum(map(len, pieces)) for pieces in self._pieces)
        """Length of all pieces of the form, in tokens; of the longest kind of prompt."""
        self.sizes = sizes or PromptSizes.within(max_tokens, self.fixed_tokens)

    @property
    def chat(self) -> dict[str, str] | None:
        """The frame of the checkpoint's chat template; None: control tokens."""
        return dict(self._chat) or None

    @property
    def tokens(self) -> int:
        """Length of the longest prompt including its text."""
        sizes = self.sizes
        return sizes.history_tokens + sizes.source_tokens + sizes.target_tokens + self.fixed_tokens

    @property
    def control_ids(self) -> list[int]:
        """Ids that may never be written: all special tokens except the end."""
        special = (self.tokenizer.token_id(token) for token in self.tokenizer.special_tokens)
        return [token_id for token_id in special if token_id != self.end_id]

    def to_continue(
        self, history_text: Any, source: Any, kind: Any, instruction: Any | None = None
    ) -> Prompt:
        """Prompts for the decode loop; invalid UTF-8 is read as U+FFFD.

        Args:
            history_text: string [batch], titles joined by line breaks, oldest first; "" for a new reader.
            source: string [batch], an article to write from; "" to write from interest alone.
            kind: string [batch], one of KINDS; any other value means title.
            instruction: string [batch], more to say behind the form's own; a form without one ignores it.
        """
        parts = self._prompt(history_text, source, kind)
        if instruction is not None and self._chat:
            parts = self._instructed(parts, instruction)
        prompt, source_ids = tf.concat(parts, axis=1), parts[3]
        length = _lengths(prompt)[:, None]
        dense = prompt.to_tensor()  # [batch, time], padded on the right
        time = tf.shape(dense)[1]
        column = tf.range(time)[None, :] - (time - length)  # negative in the padding
        token_ids = tf.gather(dense, tf.maximum(column, 0), batch_dims=1)
        dense_source = source_ids.to_tensor(-1, shape=[None, self.sizes.source_tokens])
        return Prompt(token_ids, column >= 0, dense_source)

    def to_learn(
        self,
        history_text: Any,
        source: Any,
        kind: Any,
        target: Any,
        *,
        context_weight: float,
        multiple: int = 1,
    ) -> dict[str, Any]:
        """Rows for teacher forcing of a target, string [batch]; the other texts as in `to_continue`.

        The words of history and source have `context_weight` in the loss, those of the target 1. Rows are
        padded to a multiple of so many columns, up to `tokens`, to limit the number of shapes.

        Returns:
            token_ids int32 [batch, time], padded on the right; labels int32 [batch, time], the next token;
            label_weight float32 [batch, time], 0 where nothing is learned.
        """
        parts = self._prompt(history_text, source, kind)
        target_ids = self.tokenizer.encode(readable(target))
        target_ids = tf.concat([target_ids, tf.fill([target_ids.nrows(), 1], self.end_id)], axis=1)
        target_ids = target_ids[:, : self.sizes.target_tokens]  # a truncated text has no end to learn
        parts = [*parts, target_ids]
        token_ids = self._padded(tf.concat(parts, axis=1), multiple)
        weights = zip(parts, (0.0, context_weight, 0.0, context_weight, 0.0, 1.0), strict=True)
        weight = [part.with_values(tf.fill(tf.shape(part.values), weight)) for part, weight in weights]
        weight = self._padded(tf.concat(weight, axis=1), multiple)
        return {
            "token_ids": token_ids,
            "labels": tf.pad(token_ids[:, 1:], [[0, 0], [0, 1]]),
            "label_weight": tf.pad(weight[:, 1:], [[0, 0], [0, 1]]),
        }

    def _titles(self, history_text: Any, source: Any) -> tuple[Any, Any, Any]:
        """All titles, string [batch, n]; the places of the best, int32 [batch, titles], and which exist.

        The best share most with the source; of equal ones, as without a source, the newest come first.
        """
        rows = tf.strings.split(readable(history_text), "\n")  # ragged [batch, titles]
        rows = tf.ragged.map_flat_values(tf.strings.strip, rows)
        rows = tf.ragged.boolean_mask(rows, tf.strings.length(rows) > 0)[:, -_MOST_TITLES:]
        lengths = _lengths(rows)[:, None]
        titles = rows.to_tensor("")  # [batch, n]
        place = tf.range(tf.shape(titles)[1])[None]
        real = place < lengths
        newest_first = tf.where(real, lengths - 1 - place, place)
        scores = tf.gather(self.relevance(titles, readable(source)), newest_first, batch_dims=1)
        order = tf.gather(newest_first, best_first(tf.where(real, scores, -1.0)), batch_dims=1)
        most = self.sizes.history_titles
        return titles, order[:, :most], real[:, :most]

    def _history(self, history_text: Any, source: Any) -> tuple[Any, Any]:
        """Titles in the order of reading as ragged int32 [batch, tokens], and whether there are any."""
        titles, order, real = self._titles(history_text, source)
        best = tf.reshape(tf.gather(titles, order, batch_dims=1), [-1])
        tokens = self.tokenizer.encode(best)[:, : self.sizes.title_tokens]
        newline = self.tokenizer.encode(tf.constant(["\n"])).flat_values  # [1]
        tokens = tf.concat([tokens, tf.repeat(newline[None], tokens.nrows(), axis=0)], axis=1)
        found = _packed(tokens, order, real, self.sizes.history_tokens, whole=True)
        return found, tf.reduce_any(real, axis=1)

    def _source(self, history_text: Any, source: Any) -> Any:
        """The source as ragged int32 [batch, tokens]; of a long one the sentences that matter most.

        The first sentence always stays; the others are chosen by what they share with the reader's titles; of
        equal ones the first.
        """
        source = tf.strings.strip(tf.strings.substr(readable(source), 0, _READ_CHARACTERS, unit="UTF8_CHAR"))
        rows = sentences_of(source)
        sentences = rows.to_tensor("")  # [batch, n]
        scores = self.relevance(sentences, readable(history_text))
        place = tf.range(tf.shape(sentences)[1])[None]
        real = place < _lengths(rows)[:, None]
        order = best_first(tf.where(place == 0, np.inf, tf.where(real, scores, -1.0)))
        tokens = self.tokenizer.encode(tf.reshape(tf.gather(sentences, order, batch_dims=1), [-1]))
        in_order = tf.gather(tf.broadcast_to(real, tf.shape(order)), order, batch_dims=1)
        return _packed(tokens, order, in_order, self.sizes.source_tokens, whole=False)

    def kind_index(self, kind: Any) -> Any:
        """Position of each kind in KINDS: string [batch] -> int64 [batch]; 0 (title) for any other value."""
        known = tf.strings.strip(tf.strings.lower(kind))[:, None] == tf.constant(KINDS)
        return tf.argmax(tf.cast(known, tf.int32), axis=1)

    def may_break_line(self, kind: Any) -> Any:
        """Whether a text of this kind may have several lines: string [batch] -> bool [batch]."""
        return self.kind_index(kind) == KINDS.index("body")

    def _padded(self, rows: Any, multiple: int) -> Any:
        """Dense rows, padded to a multiple of this many columns, but never beyond the model's positions."""
        dense: Any = rows.to_tensor()  # [batch, time]
        time: Any = tf.shape(dense)[1]
        more = tf.maximum(tf.minimum(-time % multiple, self.tokens - time), 0)
        return tf.pad(dense, [[0, 0], [0, more]])

    def _prompt(self, history_text: Any, source: Any, kind: Any) -> list[Any]:
        """The parts of a prompt, 5 x ragged int32 [batch, tokens].

        They are a piece of the form, the history, another piece, the source, and the last piece.
        """
        history, has_reader = self._history(history_text, source)
        source_ids = self._source(history_text, source)
        has_source = source_ids.row_lengths() > 0
        which = 4 * self.kind_index(kind)
        which += 2 * tf.cast(has_reader, which.dtype) + tf.cast(has_source, which.dtype)
        pieces = zip(*self._pieces, strict=True)
        before, between, behind = (tf.gather(tf.ragged.constant(rows, tf.int32), which) for rows in pieces)
        return [before, history, between, source_ids, behind]

    def _instructed(self, parts: list[Any], instruction: Any) -> list[Any]:
        """The parts of a prompt with an instruction, whose room is taken from the source's end."""
        *others, source_ids, behind = parts
        said = tf.where(instruction == "", "", tf.strings.join([" ", readable(instruction)]))
        told = self.tokenizer.encode(said)[:, : self.sizes.source_tokens // 2]
        room = self.sizes.source_tokens - told.row_lengths()
        place = tf.ragged.range(source_ids.row_lengths())
        fits = place.with_values(place.values < tf.gather(room, place.value_rowids()))
        task, turn = behind[:, : -self._turn_tokens], behind[:, -self._turn_tokens :]
        return [*others, tf.ragged.boolean_mask(source_ids, fits), task, told, turn]


def _spelled(form: PromptForm, tokenizer: Any) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Token ids of the pieces of each kind of prompt."""
    known = {piece: _ids(piece, tokenizer) for pieces in form.pieces for piece in pieces}
    return tuple(tuple(known[piece] for piece in pieces) for pieces in form.pieces)


def _packed(tokens: Any, order: Any, real: Any, most: int, *, whole: bool) -> Any:
    """Texts side by side, in the order of reading, as many of the best as fit: ragged int32 [batch, tokens].

    Args:
        tokens: ragged int32 [batch * n, tokens], of the n best texts of each row, best first.
        order: int32 [batch, n], their places in the order of reading.
        real: bool [batch, n], False for padding.
        most: number of tokens that fit.
        whole: whether a text that does not fit is left out, with all that follow, instead of cut.
    """
    batch, count = tf.unstack(tf.shape(order))
    lengths = tf.reshape(_lengths(tokens), [batch, count])
    needed = tf.cumsum(tf.where(real, lengths, most + 1), axis=1)  # with all better texts
    cut = 0 if whole else tf.clip_by_value(most - needed + lengths, 0, lengths)
    taken = tf.where(needed <= most, lengths, cut)
    reading = tf.reshape(tf.range(batch)[:, None] * count + tf.argsort(order, axis=1), [-1])
    tokens, taken = tf.gather(tokens, reading), tf.gather(tf.reshape(taken, [-1]), reading)
    text = tokens.value_rowids()
    place = tf.ragged.range(_lengths(tokens)).flat_values
    kept = place < tf.gather(taken, text)
    rows = tf.boolean_mask(text, kept) // tf.cast(tf.maximum(count, 1), text.dtype)
    ragged: Any = tf.RaggedTensor
    return ragged.from_value_rowids(
        tf.boolean_mask(tokens.flat_values, kept), rows, tf.cast(batch, tf.int64), validate=False
    )


def _ids(piece: str, tokenizer: Any) -> tuple[int, ...]:
    """Token ids of a text in which special tokens are spelled out."""
    special = sorted(tokenizer.special_tokens, key=len, reverse=True)
    found: list[int] = []
    for part in filter(None, re.split("(" + "|".join(map(re.escape, special)) + ")", piece)):
        if part in special:
            found.append(tokenizer.token_id(part))
        else:
            found += tokenizer.encode(tf.constant([part])).flat_values.numpy().tolist()
    return tuple(found)


def readable(text: Any) -> Any:
    """Replace invalid UTF-8 by U+FFFD."""
    return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")


def _lengths(rows: Any) -> Any:
    return tf.cast(rows.row_lengths(), tf.int32)
