"""The servable `genre_generator` of a run, with the requests and answers that verify it."""

from dataclasses import asdict
from typing import Any

from genre_tf.config import WritingConfig
from genre_tf.contract import GENERATOR
from genre_tf.export import generator, generator_requests
from genre_tf.export.evidence import Evidence
from genre_tf.export.servables import Servable
from genre_tf.funnel.index import Catalogue
from genre_tf.generation.safety import SafetyList
from genre_tf.generation.safety_classifier import SafetyClassifier
from genre_tf.generation.writer import WritingGraph
from genre_tf.generation.writer_options import writer_options
from genre_tf.models.writer import Writer


def generator_servable(
    trained: Writer,
    two_tower: Any,
    ranker: Any,
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
    options = writer_options(writing, trained.prompts, safety=safety)
    writer = WritingGraph(trained, options)
    evidence = Evidence(catalogue)
    servable = generator.GeneratorServable(
        writer, two_tower, ranker, evidence, max_history=max_history, classifier=classifier
    )
    reference = generator.GeneratorReference(servable)
    return Servable(
        GENERATOR,
        servable.write,
        [reference.answer(request) for request in generator_requests.generator_requests(catalogue)],
        generator_requests.warmup_requests(catalogue),
        {
            "max_history": max_history,
            "texts": options.samples,
            "evidence": evidence.articles,
            "writing": asdict(writing),
        },
    )
