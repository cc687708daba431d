"""The servable `genre_generator`: texts written for a reader, scored by the click model, best first.

Answers are written from evidence: the pool's articles nearest in meaning to the question.
"""

import functools
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.config import WritingConfig
from genre_tf.contract import GENERATOR, PADDING_NUMBER, SIGNATURES, Signature
from genre_tf.export.requests import Exchange, recorded_requests, warmup_requests
from genre_tf.export.saved_model import write_servable
from genre_tf.export.servables import Servable
from genre_tf.funnel import parsing
from genre_tf.funnel.exact_search import open_variable
from genre_tf.funnel.index import Catalogue
from genre_tf.funnel.served_models import ServedModels, encode_titles
from genre_tf.generation.safety import SafetyClassifier, SafetyList
from genre_tf.generation.writer import WritingGraph, nothing_unsafe, writer_options
from genre_tf.models.writer import Writer

_SAMPLE = 1000  # number of articles that the threshold is measured on
_CHUNK_ROWS = 16_384  # rows compared with the sample at a time: 64 MB of similarities for a pool of any size
_LOOSEST = 0.05  # share of articles whose own nearest neighbour is less similar than the threshold

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
        writer: writes texts and ranks them.
        models: compute the reader's vector, and the interest in a text.
        evidence: the articles that answers are written from.
        max_history: number of newest titles that represent the reader.
        classifier: finds unsafe texts from the ranker's vectors; None: only lists and patterns are used.
    """

    def __init__(
        self,
        writer: WritingGraph,
        models: ServedModels,
        evidence: "Evidence",
        *,
        max_history: int,
        classifier: SafetyClassifier | None = None,
    ) -> None:
        self.writer = writer
        self.models = models
        self.evidence = evidence
        self.max_history = max_history
        self.classifier = classifier
        # Each is traced once for both the SavedModel and its reference, and the decode loop once for both
        # signatures, because these are the largest graphs here.
        self._write = tf.function(self._write_for, autograph=False)
        for one in SIGNATURES[GENERATOR].values():
            specs = [tf.TensorSpec([None], of.dtype, of.name) for of in one.inputs]
            setattr(self, one.name, tf.function(getattr(self, one.name), specs, autograph=False))

    def generate(
        self, history_text: tf.Tensor, source: tf.Tensor, kind: tf.Tensor, seed: tf.Tensor
    ) -> Answer:
        """Write texts for readers.

        Args:
            history_text: string [B], titles joined by newlines, oldest first; "" for a new reader.
            source: string [B], an article to write from; "" to write from interest alone.
            kind: string [B], one of `KINDS`; any other value means title.
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
        (vectors,) = encode_titles(question, self.models.encoders()[0])
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
        write_servable(folder, GENERATOR, self, self.writer, self.evidence, *self.models.tokenizers())

    def _write_for(
        self, history_text: tf.Tensor, source: tf.Tensor, kind: tf.Tensor, seed: tf.Tensor
    ) -> Answer:
        reader = self._read(history_text)
        encoder = self.models.encoders()[1]

        @functools.cache  # interest and safety need the same vectors
        def encoded(texts: Any) -> tf.Tensor:
            flat = tf.reshape(texts.deref(), [-1])
            (vectors,) = encode_titles(flat, encoder)
            return tf.reshape(vectors, [*tf.unstack(tf.shape(texts.deref())), encoder.dimension])

        def interest(texts: tf.Tensor) -> tf.Tensor:
            shown = encoded(texts.ref())  # [B, N, R]; tensors are not hashable, their references are
            everything = tf.ones(tf.shape(texts), tf.bool)
            return tf.sigmoid(self.models.click_logits(reader.clicks, reader.mask, shown, everything))

        def unsafe(texts: tf.Tensor) -> tf.Tensor:
            if self.classifier is None:
                return nothing_unsafe(texts)
            return self.classifier.is_unsafe(encoded(texts.ref()))

        return self.writer(history_text, source, kind, seed, reader.vector, interest, unsafe).served()

    def _read(self, history_text: tf.Tensor) -> _Reader:
        titles = parsing.newest(parsing.split_history_titles(history_text), self.max_history)
        for_tower, for_ranker = encode_titles(titles.flat_values, *self.models.encoders())
        width = tf.maximum(parsing.widest(titles), 1)
        clicks, mask = parsing.to_dense(titles.with_flat_values(for_tower), width)  # [B, H, D]
        vector = self.models.user_vector(clicks, mask)
        clicks, _ = parsing.to_dense(titles.with_flat_values(for_ranker), width)  # [B, H, R]
        return _Reader(vector, clicks, mask)


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
            self._answered[name, *row] = getattr(self.servable, name)(*inputs)
        return self._answered[name, *row]


def generator_servable(
    writer: Writer,
    models: ServedModels,
    catalogue: Catalogue,
    *,
    max_history: int,
    writing: WritingConfig = WritingConfig(),  # noqa: B008  (frozen)
    safety: SafetyList = SafetyList(),  # noqa: B008  (frozen)
    classifier: SafetyClassifier | None = None,
) -> Servable:
    """Build `genre_generator`; the catalogue supplies evidence for answers, and titles for verification.

    Raises:
        InputError: the settings of `writing` do not fit the writer.
    """
    options = writer_options(writing, writer.prompts, safety=safety)
    evidence, graph = Evidence(catalogue), WritingGraph(writer, options)
    functions = GeneratorServable(graph, models, evidence, max_history=max_history, classifier=classifier)
    reference = GeneratorReference(functions)
    return Servable(
        GENERATOR,
        functions.write,
        [reference.answer(request) for request in recorded_requests(GENERATOR, catalogue)],
        warmup_requests(GENERATOR, catalogue),
        {
            "max_history": max_history,
            "texts": options.samples,
            "evidence": evidence.articles,
            "writing": asdict(writing),
        },
    )


class Evidence(tf.Module):
    """Finds the articles that a question is about, by the cosine similarity of the two-tower model's vectors.

    Args:
        catalogue: the articles; articles without a title and repeated titles are left out.
        articles: maximum number of articles for one question.
        threshold: lowest cosine similarity; None: measure it with `closeness_threshold`.
    """

    def __init__(self, catalogue: Catalogue, articles: int = 3, threshold: float | None = None) -> None:
        super().__init__(name="evidence")
        self.articles = articles
        rows = _different_titles(catalogue.titles)
        vectors = catalogue.retrieval_vectors[rows]  # [N, D]
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        threshold = closeness_threshold(vectors) if threshold is None else threshold
        self.threshold = tf.Variable(threshold, trainable=False, name="threshold", dtype=tf.float32)
        self.matrix = open_variable(np.ascontiguousarray(vectors.T), "matrix", open_axis=1)  # [D, N]
        self.news_ids, self.titles, self.texts = (
            open_variable(parsing.clean_text(tf.constant([column[row] for row in rows], tf.string)), name)
            for name, column in (
                ("news_ids", catalogue.news_ids),
                ("titles", catalogue.titles),
                ("texts", catalogue.texts),
            )
        )

    def search(self, questions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Exact search.

        Args:
            questions: float32 [B, D], vectors from the two-tower model's news tower.

        Returns:
            Rows int64 [B, E], nearest first, and bool [B, E], True for those that are close enough; E is
            `articles`.
        """
        similarity = tf.matmul(tf.math.l2_normalize(questions, axis=1), self.matrix)  # [B, N]
        found = tf.minimum(self.articles, tf.shape(similarity)[1])
        best, rows = tf.math.top_k(similarity, found)
        missing = tf.stack([[0, 0], [0, self.articles - found]])
        close = tf.pad(best >= self.threshold, missing)
        return tf.cast(tf.pad(rows, missing), tf.int64), tf.ensure_shape(close, [None, self.articles])

    def columns(self, rows: tf.Tensor, close: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Ids, titles and texts of the rows that `search` found, 3 x string [B, E]; "" where not close."""
        ids, titles, texts = (
            tf.where(close, tf.gather(column, rows), "")
            for column in (self.news_ids, self.titles, self.texts)
        )
        return ids, titles, texts


def closeness_threshold(vectors: npt.NDArray[np.float32], seed: int = 0) -> float:
    """How similar a question must be to an article, measured on the articles themselves.

    Nearly all articles of a pool have a neighbour about related news. If a question is farther from every
    article than that, no article is about it.

    Args:
        vectors: float32 [N, D], of length 1.
        seed: seed of the sample.

    Returns:
        The 5 % quantile of the articles' similarities to their nearest neighbours; 0 for fewer than two
        articles.
    """
    if len(vectors) < 2:
        return 0.0
    sample = np.random.default_rng(seed).permutation(len(vectors))[:_SAMPLE]
    nearest = np.full(len(sample), -1.0, np.float32)
    for start in range(0, len(vectors), _CHUNK_ROWS):
        similarity = vectors[sample] @ vectors[start : start + _CHUNK_ROWS].T  # [sample, chunk]
        (itself,) = np.nonzero((sample >= start) & (sample < start + _CHUNK_ROWS))
        similarity[itself, sample[itself] - start] = -1.0
        nearest = np.maximum(nearest, similarity.max(axis=1))
    return float(np.quantile(nearest, _LOOSEST))


def _different_titles(titles: list[str]) -> list[int]:
    first: dict[str, int] = {}
    for row, title in enumerate(titles):
        if title.strip():
            first.setdefault(title.strip().casefold(), row)
    return list(first.values()) or [0]  # no titles at all: the row of the unknown article
