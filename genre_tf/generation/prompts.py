"""The generator's input: a prompt of token ids, built in the graph from raw strings.

    <|reader|> titles, oldest first <|source|> source <|title|> target <|end|>

The reader's vector enters separately, as keys and values before the prompt. Training and the served graph use
the same functions. Prompts to be continued are padded on the left, so that each ends
in the last column; rows to be learned are padded on the right, where causal attention hides the padding.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import ops

from genre_tf.contract import KINDS as WRITTEN_KINDS
from genre_tf.layers.attention import Prefix

KINDS = (*WRITTEN_KINDS, "answer")
END, READER, SOURCE = "<|end|>", "<|reader|>", "<|source|>"
CONTROL_TOKENS = (END, READER, SOURCE, *(f"<|{kind}|>" for kind in KINDS))
"""The special tokens that a generator's vocabulary must have."""

UNSEEN = -4.0
"""Initial bias of a prefix for a pretrained model: about a fiftieth of a word's attention goes to it."""
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
    def within(cls, max_tokens: int) -> "PromptSizes":
        """Divide `max_tokens` positions: a quarter for the text, the rest for history and source."""
        rest = max_tokens - 3  # three control tokens
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

    @property
    def tokens(self) -> int:
        """Length of the longest prompt including its text."""
        return self.history_tokens + self.source_tokens + self.target_tokens + 3


class Prompt(NamedTuple):
    """A batch of prompts to be continued."""

    token_ids: Any  # int32 [batch, time], padded on the left
    mask: Any  # bool [batch, time], False for padding
    has_reader: Any  # bool [batch], whether the history has any titles
    source: Any  # int32 [batch, source_tokens], the source tokens in the prompt, padded with -1


class Prompts(tf.Module):
    """Lays out prompts.

    The tokenizer is a `BytePair` whose special tokens include CONTROL_TOKENS. It never produces a special
    token from a text, so a source cannot smuggle in an instruction.
    """

    def __init__(self, tokenizer: Any, sizes: PromptSizes) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.sizes = sizes
        self.end_id: int = tokenizer.token_id(END)
        self._reader: int = tokenizer.token_id(READER)
        self._source: int = tokenizer.token_id(SOURCE)
        self._kinds: list[int] = [tokenizer.token_id(f"<|{kind}|>") for kind in KINDS]

    @property
    def control_ids(self) -> list[int]:
        """Ids that may never be written: all special tokens except the end."""
        return [self.tokenizer.token_id(token) for token in self.tokenizer.special_tokens if token != END]

    def to_continue(self, history_text: Any, source: Any, kind: Any) -> Prompt:
        """Prompts for the decode loop; invalid UTF-8 is read as U+FFFD.

        Args:
            history_text: string [batch], titles joined by line breaks, oldest first; "" for a new reader.
            source: string [batch], an article to write from; "" to write from interest alone.
            kind: string [batch], one of KINDS; any other value means title.
        """
        prompt, _, source_ids, has_reader = self._prompt(history_text, source, kind)
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
        padded to a multiple of so many columns, up to `sizes.tokens`, to limit the number of shapes.

        Returns:
            token_ids int32 [batch, time], padded on the right; labels int32 [batch, time], the next token;
            label_weight float32 [batch, time], 0 where nothing is learned; has_reader bool [batch].
        """
        prompt, history, source_ids, has_reader = self._prompt(history_text, source, kind)
        target_ids = self.tokenizer.encode(readable(target))
        target_ids = tf.concat([target_ids, tf.fill([target_ids.nrows(), 1], self.end_id)], axis=1)
        target_ids = target_ids[:, : self.sizes.target_tokens]  # a truncated text has no end to learn
        token_ids = self._padded(tf.concat([prompt, target_ids], axis=1), multiple)
        control = tf.zeros([source_ids.nrows(), 1])
        words = [tf.ones_like(part, tf.float32) * context_weight for part in (history, source_ids)]
        target_weight = tf.ones_like(target_ids, tf.float32)
        weight = [control, words[0], control, words[1], control, target_weight]
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
        more = tf.maximum(tf.minimum(-time % multiple, self.sizes.tokens - time), 0)
        return tf.pad(dense, [[0, 0], [0, more]])

    def _prompt(self, history_text: Any, source: Any, kind: Any) -> tuple[Any, Any, Any, Any]:
        """Prompt, history and source, 3 x ragged int32 [batch, tokens], and whether there is a history."""
        history, has_reader = self._history(history_text)
        # No token of a vocabulary has more than a few dozen letters, so reading further is useless.
        beginning = tf.strings.substr(readable(source), 0, 24 * self.sizes.source_tokens, unit="UTF8_CHAR")
        source_ids = self.tokenizer.encode(tf.strings.strip(beginning))[:, : self.sizes.source_tokens]
        column = tf.fill([source_ids.nrows(), 1], 1)
        kinds = tf.gather(self._kinds, self.kind_index(kind))[:, None]
        parts = [column * self._reader, history, column * self._source, source_ids, kinds]
        return tf.concat(parts, axis=1), history, source_ids, has_reader


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
