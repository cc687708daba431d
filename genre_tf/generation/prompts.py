"""The generator's input: a prompt of token ids, built in the graph from raw strings.

    before  titles, oldest first  between  source  behind  target  end

The pieces around titles, source and target are those of the form (`genre_tf.generation.prompt_form`); a
model from scratch has <|reader|>, <|source|>, <|title|> and <|end|>. The reader's vector enters separately,
as keys and values before the prompt. Training and the served graph use the same functions. Prompts to be
continued are padded on the left, so that each ends in the last column; rows to be learned are padded on the
right, where causal attention hides the padding.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import ops

from genre_tf.generation.prompt_form import KINDS, PromptForm, chat_form, control_form
from genre_tf.layers.attention import Prefix

UNSEEN = -4.0
"""Initial bias of a prefix for a pretrained model: about a fiftieth of a word's attention goes to it."""
HIDDEN = -30.0
"""Initial bias of a prefix that nothing attends to, for a model that is not trained."""
_NOBODY = 16  # width of the learned vector where readers have none
_KEY_SPREAD = 0.05  # keys then have about the size of those of a new GPT-2


@dataclass(frozen=True, kw_only=True)
class PromptSizes:
    """Maximum length of each part, in tokens."""

    history_titles: int = 6  # number of titles, the newest
    title_tokens: int = 24  # of one title in the history
    history_tokens: int = 80  # of all titles, with a line break after each; only complete titles
    source_tokens: int = 96  # the source is cut at its end
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
    has_reader: Any  # bool [batch], whether the history has any titles
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
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        form = chat_form(chat) if chat else control_form()
        self.end_id: int = tokenizer.token_id(form.end)
        self._chat = tuple(sorted((chat or {}).items()))
        self._pieces = _spelled(form, tokenizer)
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

    def to_continue(self, history_text: Any, source: Any, kind: Any) -> Prompt:
        """Prompts for the decode loop; invalid UTF-8 is read as U+FFFD.

        Args:
            history_text: string [batch], titles joined by line breaks, oldest first; "" for a new reader.
            source: string [batch], an article to write from; "" to write from interest alone.
            kind: string [batch], one of KINDS; any other value means title.
        """
        parts, has_reader = self._prompt(history_text, source, kind)
        prompt, source_ids = tf.concat(parts, axis=1), parts[3]
        length = _lengths(prompt)[:, None]
        dense = prompt.to_tensor()  # [batch, time], padded on the right
        time = tf.shape(dense)[1]
        column = tf.range(time)[None, :] - (time - length)  # negative in the padding
        token_ids = tf.gather(dense, tf.maximum(column, 0), batch_dims=1)
        dense_source = source_ids.to_tensor(-1, shape=[None, self.sizes.source_tokens])
        return Prompt(token_ids, column >= 0, has_reader, dense_source)

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
            label_weight float32 [batch, time], 0 where nothing is learned; has_reader bool [batch].
        """
        parts, has_reader = self._prompt(history_text, source, kind)
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
            "has_reader": has_reader,
        }

    def newest_titles(self, history_text: Any) -> Any:
        """The titles that may enter the prompt: string [batch] -> ragged string [batch, titles]."""
        titles = tf.strings.split(readable(history_text), "\n")  # ragged [batch, titles]
        titles = tf.ragged.map_flat_values(tf.strings.strip, titles)
        titles = tf.ragged.boolean_mask(titles, tf.strings.length(titles) > 0)
        return titles[:, -self.sizes.history_titles :]

    def _history(self, text: Any) -> tuple[Any, Any]:
        """Newest titles as ragged int32 [batch, tokens], and whether there are any."""
        titles = self.newest_titles(text)
        tokens = self.tokenizer.encode(titles.flat_values)[:, : self.sizes.title_tokens]
        newline = self.tokenizer.encode(tf.constant(["\n"])).flat_values  # [1]
        tokens = tf.concat([tokens, tf.repeat(newline[None], tokens.nrows(), axis=0)], axis=1)
        lengths = titles.with_flat_values(_lengths(tokens)).to_tensor()  # [batch, titles]
        fits = tf.cumsum(lengths, axis=1, reverse=True) <= self.sizes.history_tokens  # with all newer ones
        real = tf.sequence_mask(titles.row_lengths(), tf.shape(lengths)[1])
        fits = tf.boolean_mask(fits, real)  # [all titles]
        title_of_token = tokens.value_rowids()
        kept = tf.gather(fits, title_of_token)
        rows = tf.boolean_mask(tf.gather(titles.value_rowids(), title_of_token), kept)
        ids = tf.boolean_mask(tokens.flat_values, kept)
        ragged: Any = tf.RaggedTensor
        return ragged.from_value_rowids(ids, rows, titles.nrows()), titles.row_lengths() > 0

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

    def _prompt(self, history_text: Any, source: Any, kind: Any) -> tuple[list[Any], Any]:
        """The parts of a prompt, 5 x ragged int32 [batch, tokens], and whether there is a history.

        They are a piece of the form, the history, another piece, the source, and the last piece.
        """
        history, has_reader = self._history(history_text)
        # No token of a vocabulary has more than a few dozen letters, so reading further is useless.
        beginning = tf.strings.substr(readable(source), 0, 24 * self.sizes.source_tokens, unit="UTF8_CHAR")
        source_ids = self.tokenizer.encode(tf.strings.strip(beginning))[:, : self.sizes.source_tokens]
        has_source = source_ids.row_lengths() > 0
        which = 4 * self.kind_index(kind)
        which += 2 * tf.cast(has_reader, which.dtype) + tf.cast(has_source, which.dtype)
        pieces = zip(*self._pieces, strict=True)
        before, between, behind = (tf.gather(tf.ragged.constant(rows, tf.int32), which) for rows in pieces)
        return [before, history, between, source_ids, behind], has_reader


def _spelled(form: PromptForm, tokenizer: Any) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Token ids of the pieces of each kind of prompt."""
    special = sorted(tokenizer.special_tokens, key=len, reverse=True)
    parts = re.compile("(" + "|".join(map(re.escape, special)) + ")")

    def ids(piece: str) -> tuple[int, ...]:
        found: list[int] = []
        for part in filter(None, parts.split(piece)):
            if part in special:
                found.append(tokenizer.token_id(part))
            else:
                found += tokenizer.encode(tf.constant([part])).flat_values.numpy().tolist()
        return tuple(found)

    known = {piece: ids(piece) for pieces in form.pieces for piece in pieces}
    return tuple(tuple(known[piece] for piece in pieces) for pieces in form.pieces)


def readable(text: Any) -> Any:
    """Replace invalid UTF-8 by U+FFFD."""
    return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")


def _lengths(rows: Any) -> Any:
    return tf.cast(rows.row_lengths(), tf.int32)


class ReaderPrefix(keras.layers.Layer):
    """Makes keys and values from a reader's vector, or from a learned one if `user_dimension` is 0.

    A narrow layer between vector and keys, `width`, limits the number of parameters, compared with a large
    language model. `bias` is the initial value of the trained bias that is added to the scores of the prefix.

    Source: Li and Liang, "Prefix-Tuning", 2021, equation 3 and section 4.3 (a network makes the prefix);
    there the prefix belongs to a task, here it is a function of the reader.
    """

    def __init__(
        self,
        *,
        user_dimension: int,
        prefix_tokens: int,
        layers: int,
        key_heads: int,
        depth: int,
        bias: float = 0.0,
        width: int = 64,
    ) -> None:
        super().__init__(name="reader_prefix")
        self.user_dimension = user_dimension
        self.prefix_tokens = prefix_tokens
        self.shape_of_row = (layers, 2, key_heads, prefix_tokens, depth)
        self.norm = keras.layers.LayerNormalization(name="norm") if user_dimension else None
        self.narrow = keras.layers.Dense(width, activation="tanh", name="narrow")
        small = keras.initializers.RandomNormal(stddev=_KEY_SPREAD)
        wide = layers * 2 * key_heads * prefix_tokens * depth
        self.wide = keras.layers.Dense(wide, kernel_initializer=small, name="wide")
        self.no_reader = self.add_weight(
            shape=[user_dimension or _NOBODY],
            initializer=keras.initializers.RandomNormal(stddev=1.0),
            name="no_reader",
        )
        start = keras.initializers.Constant(bias)
        self.bias = self.add_weight(shape=[], initializer=start, name="bias")
        if self.norm is not None:
            self.norm.build([None, user_dimension])
        self.narrow.build([None, user_dimension or _NOBODY])
        self.wide.build([None, width])
        self.built = True

    def call(self, user_vector: Any, has_reader: Any) -> Prefix:
        """The prefix: float32 [batch, user_dimension], ignored if there is no reader; bool [batch]."""
        reader = self.no_reader[None]
        if self.norm is not None:
            reader = ops.where(has_reader[:, None], self.norm(user_vector), reader)
        else:
            reader = ops.repeat(reader, ops.shape(has_reader)[0], axis=0)
        made = ops.reshape(self.wide(self.narrow(reader)), [-1, *self.shape_of_row])
        layers = range(self.shape_of_row[0])
        keys, values = ([made[:, layer, part] for layer in layers] for part in (0, 1))
        return Prefix(keys, values, ops.convert_to_tensor(self.bias))
