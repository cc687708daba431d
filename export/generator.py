"""The servable `genre_generator`: texts written for a reader, scored by the click model, best first."""

from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from genre_tf.contract import GENERATOR, PADDING_NUMBER, SIGNATURES, Signature
from genre_tf.export.evidence import Evidence
from genre_tf.export.exchanges import Exchange
from genre_tf.export.saved_model import write_saved_model
from genre_tf.funnel import parsing
from genre_tf.funnel.encoding import encode_once, encode_titles
from genre_tf.generation.safety_classifier import SafetyClassifier
from genre_tf.generation.writer import nothing_unsafe

Answer = dict[str, tf.Tensor]


class _Reader(NamedTuple):
    """A reader, encoded for both click models.

    Args:
        vector: float32 [B, D], the reader's vector for the two-tower model.
        clicks: float32 [B, H, R], vectors of the clicks for the ranker.
        mask: bool [B, H], True for real clicks.
    """

    vector: tf.Tensor
    clicks: tf.Tensor
    mask: tf.Tensor


class GeneratorServable:
    """The signatures `generate` and `answer`.

    Args:
        writer: a `generation.writer.Writer`.
        two_tower: computes the reader's vector; has `user_vector` and `encoder`.
        ranker: computes the interest; has `click_logits` and `encoder`.
        evidence: the articles that answers are written from.
        max_history: number of newest titles that represent the reader.
        classifier: finds unsafe texts from the ranker's vectors; None: only lists and patterns are used.
    """

    def __init__(
        self,
        writer: Any,
        two_tower: Any,
        ranker: Any,
        evidence: Evidence,
        *,
        max_history: int,
        classifier: SafetyClassifier | None = None,
    ) -> None:
        self.writer = writer
        self.two_tower = two_tower
        self.ranker = ranker
        self.evidence = evidence
        self.max_history = max_history
        self.classifier = classifier
        # Each is traced once for both the SavedModel and its reference, and the decode loop once for both
        # signatures, because these are the largest graphs here.
        self._write = tf.function(self._write_for, autograph=False)
        self.traced = {
            one.name: tf.function(
                getattr(self, one.name),
                input_signature=[tf.TensorSpec([None], of.dtype, of.name) for of in one.inputs],
                autograph=False,
            )
            for one in SIGNATURES[GENERATOR].values()
        }

    def generate(
        self, history_text: tf.Tensor, source: tf.Tensor, kind: tf.Tensor, seed: tf.Tensor
    ) -> Answer:
        """Write texts for readers.

        Args:
            history_text: string [B], titles joined by newlines, oldest first; "" for a new reader.
            source: string [B], an article to write from; "" to write from interest alone.
            kind: string [B]: title, summary or body; any other value means title.
            seed: int64 [B]; equal requests with equal seeds get equal texts in any batch.

        Returns:
            text string [B, N], interest, log_probability and grounding float32 [B, N], safe bool [B, N]; best
            first, unsafe last.
        """
        source, kind = parsing.clean_text(source), parsing.clean_text(kind)
        return self._write(parsing.clean_text(history_text), source, kind, seed)

    def answer(self, question: tf.Tensor, history_text: tf.Tensor, seed: tf.Tensor) -> Answer:
        """Answer questions from the nearest articles.

        Args:
            question: string [B].
            history_text: string [B], titles joined by newlines, oldest first; "" for a new reader.
            seed: int64 [B]; as in `generate`.

        Returns:
            text string [B, N], interest float32 [B, N], best first; evidence_id and evidence_title string
            [B, E], nearest first. A blank question, or a question without a close article, has no answer: its
            texts are "", its interest is -1 and its evidence is "".
        """
        question = tf.strings.strip(parsing.clean_text(question))
        (vectors,) = encode_titles(question, self.two_tower.news)
        rows, close = self.evidence.search(vectors)  # [B, E]
        close &= tf.not_equal(question, "")[:, None]
        ids, titles, texts = self.evidence.columns(rows, close)
        source = tf.strings.reduce_join(tf.concat([question[:, None], texts], 1), 1, separator="\n")
        kind = tf.fill(tf.shape(question), "answer")
        written = self._write(parsing.clean_text(history_text), source, kind, seed)
        answered = tf.reduce_any(close, axis=1, keepdims=True) & written["safe"]  # [B, N]
        return {
            "text": tf.where(answered, written["text"], ""),
            "interest": tf.where(answered, written["interest"], PADDING_NUMBER),
            "evidence_id": ids,
            "evidence_title": titles,
        }

    def write(self, folder: Path) -> None:
        """Write the SavedModel."""
        tokenizer = self.ranker.news.bert.tokenizer
        signatures = {
            one.name: (self.traced[one.name], {of.name: tf.as_dtype(of.dtype) for of in one.inputs})
            for one in SIGNATURES[GENERATOR].values()
        }
        write_saved_model(folder, [self.writer, self.evidence, tokenizer], signatures)

    def _write_for(
        self, history_text: tf.Tensor, source: tf.Tensor, kind: tf.Tensor, seed: tf.Tensor
    ) -> Answer:
        reader = self._read(history_text)
        vectors = encode_once(self.ranker.news)

        def interest(texts: tf.Tensor) -> tf.Tensor:
            return self._interest(vectors(texts), reader)

        def unsafe(texts: tf.Tensor) -> tf.Tensor:
            return self.classifier.is_unsafe(vectors(texts)) if self.classifier else nothing_unsafe(texts)

        return self.writer(history_text, source, kind, seed, reader.vector, interest, unsafe).served()

    def _read(self, history_text: tf.Tensor) -> _Reader:
        titles = parsing.newest(parsing.split_history_titles(history_text), self.max_history)
        for_tower, for_ranker = encode_titles(titles.flat_values, self.two_tower.news, self.ranker.news)
        width = tf.maximum(parsing.widest(titles), 1)
        clicks, mask = parsing.to_dense(titles.with_flat_values(for_tower), width)  # [B, H, D]
        vector = self.two_tower.user_vector(clicks, mask)
        clicks, _ = parsing.to_dense(titles.with_flat_values(for_ranker), width)  # [B, H, R]
        return _Reader(vector, clicks, mask)

    def _interest(self, shown: tf.Tensor, reader: _Reader) -> tf.Tensor:
        """Click probabilities of texts: vectors float32 [B, N, R] -> float32 [B, N]."""
        everything = tf.ones(tf.shape(shown)[:2], tf.bool)
        return tf.sigmoid(self.ranker.click_logits(reader.clicks, reader.mask, shown, everything, None))


class GeneratorReference:
    """Computes the expected answers with the same writer and models in this process, one row at a time."""

    def __init__(self, servable: GeneratorServable) -> None:
        self.servable = servable
        # The default signature gets the same requests as `generate`, and writing a text is slow.
        self._answered: dict[tuple[Any, ...], Answer] = {}

    def answer(self, request: Exchange) -> Exchange:
        """Return the request with its answer."""
        signature = SIGNATURES[GENERATOR][request.signature]
        columns = (request.inputs[name].tolist() for name in signature.input_names)
        rows = [self._row(signature, row) for row in zip(*columns, strict=True)]
        outputs = {key: tf.concat([row[key] for row in rows], 0).numpy() for key in rows[0]}
        return Exchange(request.signature, request.case, request.inputs, outputs)

    def _row(self, signature: Signature, row: tuple[Any, ...]) -> Answer:
        name = signature.name
        if (name, *row) not in self._answered:
            values = zip(row, signature.inputs, strict=True)
            inputs = (tf.constant([value], one.dtype) for value, one in values)
            self._answered[name, *row] = self.servable.traced[name](*inputs)
        return self._answered[name, *row]
