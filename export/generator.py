"""The servable `genre_generator`: texts written for a reader, scored by the click model, best first.

Answers are written from evidence: the pool's articles nearest in meaning to the question.
"""

import functools
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.config import WritingConfig
from genre_tf.contract import GENERATOR, PADDING_NUMBER, SIGNATURES
from genre_tf.evaluation.text_measures import topic_floor
from genre_tf.export.requests import RowByRow, recorded_requests, warmup_requests
from genre_tf.export.saved_model import write_servable
from genre_tf.export.servables import Servable
from genre_tf.funnel import parsing
from genre_tf.funnel.index import Catalogue
from genre_tf.funnel.recommender import reader_of_titles
from genre_tf.funnel.search import open_variable
from genre_tf.funnel.served_models import ServedModels, encode_titles
from genre_tf.generation.safety import SafetyClassifier, SafetyList
from genre_tf.generation.tone import closest_half, has_tone, instruction, one_line
from genre_tf.generation.writer import Style, WritingGraph, closeness, nothing_unsafe, writer_options
from genre_tf.models.writer import Writer

_SAMPLE = 1000  # number of articles that the threshold is measured on
_CHUNK_ROWS = 16_384  # rows compared with the sample at a time: 64 MB of similarities for a pool of any size
_LOOSEST = 0.05  # share of articles whose own nearest neighbour is less similar than the threshold

Answer = dict[str, tf.Tensor]


@dataclass(eq=False)
class GeneratorServable:
    """The signatures `generate`, `generate_styled` and `answer`."""

    writer: WritingGraph  # writes texts and ranks them
    models: ServedModels  # compute the reader's vector, and the interest in a text
    evidence: "Evidence"  # the articles that answers are written from
    _: KW_ONLY
    max_history: int  # number of newest titles that represent the reader
    classifier: SafetyClassifier | None = None  # the operator's, in addition to the default one
    show_unsafe: bool = False  # False: "" in place of unsafe texts

    def __post_init__(self) -> None:
        # Each is traced once for both the SavedModel and its reference, and the decode loop once for all
        # signatures, because these are the largest graphs here.
        self._write = tf.function(self._write_for, autograph=False)
        for one in SIGNATURES[GENERATOR].values():
            specs = [tf.TensorSpec([None], of.dtype, of.name) for of in one.inputs]
            setattr(self, one.name, tf.function(getattr(self, one.name), specs, autograph=False))

    def generate(
        self, history_text: tf.Tensor, source: tf.Tensor, kind: tf.Tensor, seed: tf.Tensor
    ) -> Answer:
        """Write texts for readers, best first; arguments as in `WritingGraph.__call__`.

        Unsafe texts come last, as "" with numbers of -1 unless they are to be shown.
        """
        blank = tf.fill(tf.shape(kind), "")
        return self.generate_styled(history_text, source, kind, seed, blank, blank)

    def generate_styled(
        self,
        history_text: tf.Tensor,
        source: tf.Tensor,
        kind: tf.Tensor,
        seed: tf.Tensor,
        tone: tf.Tensor,
        topic: tf.Tensor,
    ) -> Answer:
        """As `generate`, in a tone, string [B], and about a topic, string [B]; "" for any.

        Without a source the topic is the source. Otherwise it is, like the tone, an instruction, if the
        writer follows instructions; and of the samples those that follow both come first.
        """
        history_text, source, kind, tone, topic = map(
            parsing.clean_text, (history_text, source, kind, tone, topic)
        )
        topic = one_line(topic)
        alone = tf.equal(tf.strings.strip(source), "")
        source, topic = tf.where(alone, topic, source), tf.where(alone, "", topic)
        written = self._write(history_text, source, kind, seed, tone, topic)
        if self.show_unsafe:
            return written
        safe = written.pop("safe")
        nothing = {name: "" if name == "text" else PADDING_NUMBER for name in written}
        kept = {name: tf.where(safe, column, nothing[name]) for name, column in written.items()}
        return {**kept, "safe": safe}

    def answer(self, question: tf.Tensor, history_text: tf.Tensor, seed: tf.Tensor) -> Answer:
        """Answer questions from the nearest articles: best texts and nearest evidence first.

        A blank question, or a question without a close article, has no answer: its texts are "", its interest
        is -1 and its evidence is "".
        """
        question = tf.strings.strip(parsing.clean_text(question))
        (vectors,) = encode_titles(question, self.models.encoders()[0])
        rows, close = self.evidence.search(vectors)  # [B, E]
        close &= tf.not_equal(question, "")[:, None]
        ids, titles, texts = self.evidence.columns(rows, close)
        source = tf.strings.reduce_join(tf.concat([question[:, None], texts], 1), 1, separator="\n")
        kind, blank = tf.fill(tf.shape(question), "answer"), tf.fill(tf.shape(question), "")
        written = self._write(parsing.clean_text(history_text), source, kind, seed, blank, blank)
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
        self,
        history_text: tf.Tensor,
        source: tf.Tensor,
        kind: tf.Tensor,
        seed: tf.Tensor,
        tone: tf.Tensor,
        about: tf.Tensor,
    ) -> Answer:
        titles = parsing.newest(parsing.split_history_titles(history_text), self.max_history)
        reader, clicks, mask = reader_of_titles(self.models, titles)
        encoder = self.models.encoders()[1]

        @functools.cache  # interest, topic and safety need the same vectors
        def encoded(texts: Any) -> tf.Tensor:
            flat = tf.reshape(texts.deref(), [-1])
            (vectors,) = encode_titles(flat, encoder)
            return tf.reshape(vectors, [*tf.unstack(tf.shape(texts.deref())), encoder.dimension])

        def interest(texts: tf.Tensor) -> tf.Tensor:
            shown = encoded(texts.ref())  # [B, N, R]; tensors are not hashable, their references are
            everything = tf.ones(tf.shape(texts), tf.bool)
            return tf.sigmoid(self.models.click_logits(clicks, mask, shown, everything))

        def unsafe(texts: tf.Tensor) -> tf.Tensor:
            if self.classifier is None:
                return nothing_unsafe(texts)
            return self.classifier.is_unsafe(encoded(texts.ref()))

        def topic(texts: tf.Tensor) -> tf.Tensor:
            parts = (encoded(texts.ref()), encoded(source[:, None].ref()), clicks)
            written, origin, read = map(encoder.topic_part, parts)
            return closeness(written, origin, read, mask)

        def styled(texts: tf.Tensor) -> tf.Tensor:
            (vectors,) = encode_titles(about, encoder)
            near = closest_half(*map(encoder.topic_part, (encoded(texts.ref()), vectors)))
            return has_tone(texts, tone) & (near | tf.equal(about, "")[:, None])

        style = Style(instruction(tone, about), styled)
        return self.writer(history_text, source, kind, seed, reader, interest, unsafe, topic, style).served()


def generator_servable(
    writer: Writer,
    models: ServedModels,
    catalogue: Catalogue,
    *,
    max_history: int,
    writing: WritingConfig = WritingConfig(),  # noqa: B008  (frozen)
    safety: SafetyList = SafetyList(),  # noqa: B008  (frozen)
    classifier: SafetyClassifier | None = None,
    show_unsafe: bool = False,
) -> Servable:
    """Build `genre_generator`; the catalogue supplies evidence for answers, and titles for verification."""
    abstracts = [
        text.removeprefix(title) for title, text in zip(catalogue.titles, catalogue.texts, strict=True)
    ]
    floor = topic_floor(models.encoders()[1], catalogue.titles, abstracts, writing.topic_share)
    options = writer_options(writing, writer.prompts, safety=safety, topic_floor=floor)
    evidence, graph = Evidence(catalogue), WritingGraph(writer, options)
    functions = GeneratorServable(
        graph, models, evidence, max_history=max_history, classifier=classifier, show_unsafe=show_unsafe
    )
    reference = RowByRow(GENERATOR, functions)
    return Servable(
        GENERATOR,
        functions.write,
        [reference.answer(request) for request in recorded_requests(GENERATOR, catalogue)],
        warmup_requests(GENERATOR, catalogue),
        {
            "max_history": max_history,
            "texts": options.samples,
            "evidence": evidence.articles,
            "show_unsafe": show_unsafe,
            "writing": asdict(writing),
        },
    )


class Evidence(tf.Module):
    """Finds the articles that a question is about, by the cosine similarity of the two-tower model's vectors.

    Articles without a title and repeated titles are left out. The lowest similarity that counts is
    `threshold`; None: measure it with `closeness_threshold`.
    """

    def __init__(self, catalogue: Catalogue, articles: int = 3, threshold: float | None = None) -> None:
        super().__init__(name="evidence")
        self.articles = articles
        first: dict[str, int] = {}
        for row, title in enumerate(catalogue.titles):
            if title.strip():
                first.setdefault(title.strip().casefold(), row)
        rows = list(first.values()) or [0]  # no titles at all: the row of the unknown article
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
        """Rows int64 [B, E], nearest first, and which are close enough, bool [B, E].

        The questions are vectors of the news tower, float32 [B, D].
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
    article than that, no article is about it. So the threshold is the 5 % quantile of the articles'
    similarities to their nearest neighbours; 0 for fewer than two articles. The vectors, float32 [N, D], have
    length 1.
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
