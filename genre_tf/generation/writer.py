"""Write for a reader: prompt, decode, score and rank, in one graph from raw strings."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from genre_tf.generation.cached_decoder import CachedDecoder
from genre_tf.generation.constraints import NOTHING
from genre_tf.generation.decode import Decoded, DecodeOptions, decode
from genre_tf.generation.grounding import FUNCTION_WORDS, Grounding
from genre_tf.generation.ranking import Written, rank
from genre_tf.generation.writer_options import WriterOptions

Interest = Callable[[Any], Any]
"""texts string [batch, n] -> click probability float32 [batch, n], for the batch's own readers."""
Unsafe = Callable[[Any], Any]
"""texts string [batch, n] -> bool [batch, n]."""
_CONTROL_CHARACTERS = r"[\x00-\x09\x0b-\x1f\x7f-\x{9f}]+"  # all except the line break


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

    def __init__(self, writer: Any, options: WriterOptions = WriterOptions()) -> None:  # noqa: B008  (frozen)
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
        evidence = _readable(tf.where(tf.strings.strip(source) == "", history_text, source))
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
        title_tokens = min(self.options.title_tokens, target_tokens)
        return decode(
            self.model,
            self.model.embed(prompt.token_ids),
            prompt.mask,
            prefix=self.reader_prefix(user_vector, prompt.has_reader),
            seeds=seed,
            limits=tf.where(long, target_tokens, title_tokens),
            forbidden=self._forbidden(self.prompts.may_break_line(kind)),
            required=self._required(tf.size(kind)),
            options=DecodeOptions(
                end_id=self.prompts.end_id,
                max_tokens=target_tokens,
                samples=self.options.samples,
                strategy=self.options.strategy,
                constraints=self.options.constraints,
                draft_tokens=self.options.draft_tokens,
            ),
            copy_from=prompt.source if self.options.draft_tokens else None,
        )

    def _forbidden(self, may_break_line: Any) -> Any:
        newline = tf.where(may_break_line, NOTHING, self._newline)[:, None]  # [batch, 1]
        controls = tf.repeat(tf.constant([self.prompts.control_ids]), tf.shape(newline)[0], axis=0)
        return tf.concat([controls, newline], axis=1)

    def _required(self, batch: Any) -> Any:
        """int32 [batch, words, longest]; None if no words are required."""
        words = self.options.required_words
        if not words:
            return None
        longest = max(map(len, words))
        rows = [[*word, *[NOTHING] * (longest - len(word))] for word in words]
        return tf.ensure_shape(tf.repeat(tf.constant([rows]), batch, axis=0), [None, len(words), longest])

    def _text(self, decoded: Decoded, kind: Any) -> Any:
        shape = tf.shape(decoded.ids)
        ids = tf.where(decoded.ids == NOTHING, self.prompts.end_id, decoded.ids)  # dropped in decoding
        text = self.prompts.tokenizer.decode(tf.reshape(ids, [-1, shape[2]]))  # [batch * samples]
        text = tf.strings.regex_replace(text, _CONTROL_CHARACTERS, " ")
        text = tf.reshape(tf.strings.strip(text), shape[:2])
        one_line = tf.strings.regex_replace(text, r"\s+", " ")
        return tf.where(self.prompts.may_break_line(kind)[:, None], text, one_line)


def _readable(text: Any) -> Any:
    return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
