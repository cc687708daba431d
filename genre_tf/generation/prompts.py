"""The generator's input: a prompt of token ids, built in the graph from raw strings.

    <|reader|> titles, oldest first <|source|> source <|title|> target <|end|>

The reader's vector enters separately, as keys and values before the prompt; see `reader_prefix.py`. Training
and the served graph use the same functions. Prompts to be continued are padded on the left, so that each ends
in the last column; rows to be learned are padded on the right, where causal attention hides the padding.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

from genre_tf.contract import KINDS as WRITTEN_KINDS

KINDS = (*WRITTEN_KINDS, "answer")
END, READER, SOURCE = "<|end|>", "<|reader|>", "<|source|>"
CONTROL_TOKENS = (END, READER, SOURCE, *(f"<|{kind}|>" for kind in KINDS))
"""The special tokens that a generator's vocabulary must have."""


@dataclass(frozen=True, kw_only=True)
class PromptSizes:
    """Maximum length of each part, in tokens.

    Args:
        history_titles: maximum number of titles (the newest).
        title_tokens: maximum length of one title in the history.
        history_tokens: maximum length of all titles, with a line break after each; only complete titles.
        source_tokens: maximum length of the source, which is cut at its end.
        target_tokens: maximum length of the text to write, including its end token.
    """

    history_titles: int = 6
    title_tokens: int = 24
    history_tokens: int = 80
    source_tokens: int = 96
    target_tokens: int = 64

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
    """A batch of prompts to be continued.

    Args:
        token_ids: int32 [batch, time], padded on the left.
        mask: bool [batch, time], False for padding.
        has_reader: bool [batch], whether the history has any titles.
        source: int32 [batch, source_tokens], the source tokens in the prompt, padded with -1.
    """

    token_ids: Any
    mask: Any
    has_reader: Any
    source: Any


class Prompts(tf.Module):
    """Lays out prompts.

    Args:
        tokenizer: a `BytePair` whose special tokens include CONTROL_TOKENS. It never produces a special token
            from a text, so a source cannot smuggle in an instruction.
        sizes: maximum length of each part.
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
        """Prompts for the decode loop.

        Args:
            history_text: string [batch], titles joined by line breaks, oldest first; "" for a new reader.
            source: string [batch], an article to write from; "" to write from interest alone.
            kind: string [batch], one of KINDS; any other value means title.

        Returns:
            The prompts. Invalid UTF-8 is read as U+FFFD.
        """
        history, has_reader = self._history(history_text)
        source_ids = self._source_ids(source)
        prompt = self._join(history, source_ids, kind)
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
        """Rows for teacher forcing.

        Args:
            history_text: string [batch], as in `to_continue`.
            source: string [batch].
            kind: string [batch].
            target: string [batch], the text to learn.
            context_weight: loss weight of the words of history and source; the target's words have weight 1.
            multiple: pad to a multiple of this many columns, up to `sizes.tokens`, to limit the number of
                shapes.

        Returns:
            token_ids int32 [batch, time], padded on the right; labels int32 [batch, time], the next token;
            label_weight float32 [batch, time], 0 where nothing is learned; has_reader bool [batch].
        """
        history, has_reader = self._history(history_text)
        source_ids = self._source_ids(source)
        prompt = self._join(history, source_ids, kind)
        target_ids = self._with_end(target)
        token_ids = _padded(tf.concat([prompt, target_ids], axis=1), multiple, self.sizes.tokens)
        context = _context_weight(history, source_ids, context_weight)
        weight = _padded(
            tf.concat([context, tf.ones_like(target_ids, tf.float32)], axis=1), multiple, self.sizes.tokens
        )
        return {
            "token_ids": token_ids,
            "labels": tf.pad(token_ids[:, 1:], [[0, 0], [0, 1]]),
            "label_weight": tf.pad(weight[:, 1:], [[0, 0], [0, 1]]),
            "has_reader": has_reader,
        }

    def newest_titles(self, history_text: Any) -> Any:
        """The titles that may enter the prompt: string [batch] -> ragged string [batch, titles]."""
        titles = tf.strings.split(_readable(history_text), "\n")  # ragged [batch, titles]
        titles = tf.ragged.map_flat_values(tf.strings.strip, titles)
        titles = tf.ragged.boolean_mask(titles, tf.strings.length(titles) > 0)
        return titles[:, -self.sizes.history_titles :]

    def _history(self, text: Any) -> tuple[Any, Any]:
        """Newest titles as ragged int32 [batch, tokens], and whether there are any."""
        titles = self.newest_titles(text)
        tokens = self.tokenizer.encode(titles.flat_values)[:, : self.sizes.title_tokens]
        newline = self.tokenizer.encode(tf.constant(["\n"])).flat_values  # [1]
        tokens = tf.concat([tokens, tf.repeat(newline[None], tokens.nrows(), axis=0)], axis=1)
        fits = _fits(titles.with_flat_values(_lengths(tokens)), self.sizes.history_tokens)  # [all titles]
        title_of_token = tokens.value_rowids()
        kept = tf.gather(fits, title_of_token)
        rows = tf.boolean_mask(tf.gather(titles.value_rowids(), title_of_token), kept)
        ids = tf.boolean_mask(tokens.flat_values, kept)
        ragged: Any = tf.RaggedTensor
        return ragged.from_value_rowids(ids, rows, titles.nrows()), titles.row_lengths() > 0

    def _source_ids(self, source: Any) -> Any:
        # No token of a vocabulary has more than a few dozen letters, so reading further is useless.
        beginning = tf.strings.substr(_readable(source), 0, 24 * self.sizes.source_tokens, unit="UTF8_CHAR")
        return self.tokenizer.encode(tf.strings.strip(beginning))[:, : self.sizes.source_tokens]

    def _with_end(self, target: Any) -> Any:
        ids = self.tokenizer.encode(_readable(target))
        end = tf.fill([ids.nrows(), 1], self.end_id)
        return tf.concat([ids, end], axis=1)[
            :, : self.sizes.target_tokens
        ]  # a truncated text has no end to learn

    def kind_index(self, kind: Any) -> Any:
        """Position of each kind in KINDS: string [batch] -> int64 [batch]; 0 (title) for any other value."""
        known = tf.strings.strip(tf.strings.lower(kind))[:, None] == tf.constant(KINDS)
        return tf.argmax(tf.cast(known, tf.int32), axis=1)

    def may_break_line(self, kind: Any) -> Any:
        """Whether a text of this kind may have several lines: string [batch] -> bool [batch]."""
        return self.kind_index(kind) == KINDS.index("body")

    def _join(self, history: Any, source_ids: Any, kind: Any) -> Any:
        column = tf.fill([source_ids.nrows(), 1], 1)
        kinds = tf.gather(self._kinds, self.kind_index(kind))[:, None]
        return tf.concat([column * self._reader, history, column * self._source, source_ids, kinds], axis=1)


def _readable(text: Any) -> Any:
    return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")


def _fits(lengths: Any, room: int) -> Any:
    """Whether a title and all newer ones fit: ragged int32 [batch, titles] -> bool [all titles]."""
    dense = lengths.to_tensor()  # [batch, titles]
    used = tf.cumsum(dense, axis=1, reverse=True)
    return (
        tf.ragged.boolean_mask(used, tf.sequence_mask(lengths.row_lengths(), tf.shape(dense)[1])).flat_values
        <= room
    )


def _context_weight(history: Any, source_ids: Any, weight: float) -> Any:
    """0 for control tokens, `weight` for words: ragged float32 like the prompt."""
    control = tf.zeros([source_ids.nrows(), 1])
    words = [tf.ones_like(part, tf.float32) * weight for part in (history, source_ids)]
    return tf.concat([control, words[0], control, words[1], control], axis=1)


def _lengths(rows: Any) -> Any:
    return tf.cast(rows.row_lengths(), tf.int32)


def _padded(rows: Any, multiple: int, most: int) -> Any:
    """Dense rows, padded to a multiple of this many columns, but never beyond the model's positions."""
    dense: Any = rows.to_tensor()  # [batch, time]
    time: Any = tf.shape(dense)[1]
    return tf.pad(dense, [[0, 0], [0, tf.maximum(tf.minimum(-time % multiple, most - time), 0)]])
