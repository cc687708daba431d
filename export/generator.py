"""The servable `genre_generator`: texts written for a reader, scored by the click model, best first.

Answers are spans of the pool's articles that have the question's words; see `genre_tf.funnel.answering`.
"""

import functools
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from genre_tf.config import WritingConfig
from genre_tf.contract import GENERATOR, PADDING_NUMBER, SIGNATURES
from genre_tf.evaluation.text_measures import topic_floor
from genre_tf.export.requests import RowByRow, recorded_requests, warmup_requests
from genre_tf.export.saved_model import write_servable
from genre_tf.export.servables import Servable
from genre_tf.funnel import parsing
from genre_tf.funnel.answering import Answering
from genre_tf.funnel.evidence import ARTICLES, Evidence
from genre_tf.funnel.index import Catalogue
from genre_tf.funnel.recommender import dense_clicks
from genre_tf.funnel.served_models import ServedModels, encode_titles
from genre_tf.generation.safety import SafetyClassifier, SafetyList
from genre_tf.generation.tone import closest_half, has_tone, instruction, one_line
from genre_tf.generation.writer import (
    Style,
    WritingGraph,
    closeness,
    writer_options,
)
from genre_tf.models.writer import Writer

Answer = dict[str, tf.Tensor]


class _Vectors(NamedTuple):
    """Vectors of the ranker for a request: of the titles that its readers clicked, and of texts."""

    clicks: tf.Tensor  # float32 [B, H, R]
    mask: tf.Tensor  # bool [B, H]
    texts: list[tf.Tensor]  # of each string [B, n] float32 [B, n, R]


@dataclass(eq=False)
class GeneratorServable:
    """The signatures `generate`, `generate_styled` and `answer`."""

    writer: WritingGraph  # writes texts and ranks them
    models: ServedModels  # compute the interest in a text
    evidence: Evidence  # the articles that answers are taken from
    _: KW_ONLY
    max_history: int  # number of newest titles that represent the reader
    classifier: SafetyClassifier | None = None  # the operator's, in addition to the default one
    show_unsafe: bool = False  # False: "" in place of unsafe texts

    def __post_init__(self) -> None:
        # Each is traced once for both the SavedModel and its reference, and the decode loop once for both
        # signatures that write, because these are the largest graphs here.
        self._write = tf.function(self._write_for, autograph=False)
        self._answering = Answering(self.evidence, self.writer)
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
        """Answer questions in the words of the pool's articles: best answers and best evidence first.

        A blank question, or a question that no article answers, has no answer: its texts are "", its interest
        is -1 and its evidence is "". Nothing is drawn, so the seed is ignored.
        """
        del seed
        found = self._answering(tf.strings.strip(parsing.clean_text(question)))
        vectors = self._vectors(parsing.clean_text(history_text), found.text)
        shown = (found.text != "") & self.writer.is_safe(found.text) & ~self._unsafe(vectors)
        order = tf.argsort(tf.cast(~shown, tf.int32), axis=1, stable=True)  # what is not shown comes last
        text = tf.where(shown, found.text, "")
        interest = tf.where(shown, self._interest(vectors), PADDING_NUMBER)
        text, interest = (tf.gather(column, order, batch_dims=1) for column in (text, interest))
        return {
            "text": text,
            "interest": interest,
            "evidence_id": found.evidence_id,
            "evidence_title": found.evidence_title,
        }

    def write(self, folder: Path) -> None:
        """Write the SavedModel."""
        parts = (self.writer, self.evidence, *self.models.tokenizers())
        write_servable(
            folder,
            GENERATOR,
            self,
            *parts,
            attached={"evidence": self.evidence},
            aliases=self.writer.device_functions(),
        )

    def _write_for(
        self,
        history_text: tf.Tensor,
        source: tf.Tensor,
        kind: tf.Tensor,
        seed: tf.Tensor,
        tone: tf.Tensor,
        about: tf.Tensor,
    ) -> Answer:
        part = self.models.encoders()[1].topic_part

        @functools.cache  # interest, topic, style and safety need the same vectors
        def vectors(texts: Any) -> _Vectors:  # tensors are not hashable, their references are
            return self._vectors(history_text, texts.deref(), source[:, None], about[:, None])

        def topic(texts: tf.Tensor) -> tf.Tensor:
            clicks, mask, (written, origin, _) = vectors(texts.ref())
            return closeness(part(written), part(origin), part(clicks), mask)

        def styled(texts: tf.Tensor) -> tf.Tensor:
            written, _, wanted = vectors(texts.ref()).texts
            near = closest_half(part(written), part(wanted[:, 0]))
            return has_tone(texts, tone) & (near | tf.equal(about, "")[:, None])

        return self.writer(
            history_text,
            source,
            kind,
            seed,
            lambda texts: self._interest(vectors(texts.ref())),
            lambda texts: self._unsafe(vectors(texts.ref())),
            topic,
            Style(instruction(tone, about), styled),
        ).served()

    def _vectors(self, history_text: tf.Tensor, *texts: tf.Tensor) -> _Vectors:
        """Encode the readers' titles and texts, each string [B, n], in one pass."""
        titles = parsing.newest(parsing.split_history_titles(history_text), self.max_history)
        encoder = self.models.encoders()[1]
        flat = [titles.flat_values, *(tf.reshape(each, [-1]) for each in texts)]
        (vectors,) = encode_titles(tf.concat(flat, 0), encoder)
        clicked, *parts = tf.split(vectors, [tf.size(each) for each in flat])
        clicks, mask = dense_clicks(titles.with_flat_values(clicked))
        shapes = [[*tf.unstack(tf.shape(each)), encoder.dimension] for each in texts]
        return _Vectors(clicks, mask, list(map(tf.reshape, parts, shapes)))

    def _interest(self, vectors: _Vectors) -> tf.Tensor:
        """Click probabilities of the first texts, float32 [B, N]."""
        texts = vectors.texts[0]
        everything = tf.ones(tf.shape(texts)[:2], tf.bool)
        return tf.sigmoid(self.models.click_logits(vectors.clicks, vectors.mask, texts, everything))

    def _unsafe(self, vectors: _Vectors) -> tf.Tensor:
        """What the operator's classifier says of the first texts, bool [B, N]."""
        texts = vectors.texts[0]
        return self.classifier.is_unsafe(texts) if self.classifier else tf.zeros(tf.shape(texts)[:2], tf.bool)


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
    tpu: bool = False,
) -> Servable:
    """Build `genre_generator`; the catalogue supplies evidence for answers, and titles for verification.

    With `tpu`, XLA can compile the decoding, which `function_aliases` names.
    """
    abstracts = [
        text.removeprefix(title) for title, text in zip(catalogue.titles, catalogue.texts, strict=True)
    ]
    floor = topic_floor(models.encoders()[1], catalogue.titles, abstracts, writing.topic_share)
    options = writer_options(writing, writer.prompts, safety=safety, topic_floor=floor)
    evidence = Evidence(catalogue.news_ids, catalogue.titles, catalogue.texts)
    graph = WritingGraph(writer, options, fixed_shapes=tpu)
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
            "evidence": ARTICLES,
            "show_unsafe": show_unsafe,
            "writing": asdict(writing),
        },
    )
