"""The two servables of a run, with the requests and answers that each is verified with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from genre_tf.export import generator, generator_requests, requests
from genre_tf.export.evidence import Evidence
from genre_tf.export.exchanges import Exchange
from genre_tf.export.index import IDS_FILE, ArticleIndex, Catalogue
from genre_tf.export.recommender import NAME, Recommender
from genre_tf.export.reference import RecommenderReference
from genre_tf.export.selection import Rules
from genre_tf.generation.safety import SafetyList
from genre_tf.generation.safety_classifier import SafetyClassifier
from genre_tf.generation.writer import Writer, WriterOptions
from genre_tf.models.generator_checkpoint import TrainedGenerator

COUNTERS_AS_OF = "counters_as_of"
"""Among a contract's sources: when the counters were so, on the clock of the logs; null without logs."""


@dataclass(frozen=True)
class Servable:
    """One servable, ready to be written.

    Attributes:
        name: of the servable.
        write: writes its SavedModel into a folder.
        exchanges: recorded requests with the answers of the Python models.
        warmup: signature to the inputs of one usual row.
        sizes: what bounds requests and answers, for the contract.
        sources: where it comes from beside the run, JSON values for the contract.
    """

    name: str
    write: Callable[[Path], None]
    exchanges: list[Exchange]
    warmup: dict[str, Any]
    sizes: dict[str, Any]
    sources: dict[str, Any] = field(default_factory=dict)


def recommender_servable(
    two_tower: Any,
    ranker: Any,
    catalogue: Catalogue,
    scratch: Path,
    *,
    max_history: int,
    k: int,
    retrieve: int,
    rules: Rules = Rules(),  # noqa: B008  (frozen)
    as_of: datetime | None = None,
) -> Servable:
    """`genre_recommender`.

    Args:
        two_tower: has `user_vector` and `encoder`.
        ranker: has `click_logits` and `encoder`.
        catalogue: the articles.
        scratch: folder for a file that the SavedModel copies.
        max_history: newest clicks that make the reader.
        k: articles to recommend.
        retrieve: articles that the towers hand to the ranker.
        rules: what is recommended beside the order of the click probabilities.
        as_of: when the counters of the catalogue were so, on the clock of the logs; None without any.
    """
    sizes = {"max_history": max_history, "k": k, "retrieve": retrieve}
    index = ArticleIndex(catalogue, scratch / IDS_FILE, rules.max_age_hours)
    write = Recommender(two_tower, ranker, index, **sizes, rules=rules).write
    reference = RecommenderReference(two_tower, ranker, catalogue, **sizes, rules=rules)
    return indexed_servable(write, reference, catalogue, {**sizes, **rules.as_sizes()}, as_of)


def indexed_servable(
    write: Callable[[Path], None],
    reference: RecommenderReference,
    catalogue: Catalogue,
    sizes: dict[str, Any],
    as_of: datetime | None,
) -> Servable:
    """`genre_recommender` of a catalogue, however it is written."""
    return Servable(
        NAME,
        write,
        [reference.answer(request) for request in requests.recommender_requests(catalogue)],
        requests.warmup_requests(catalogue),
        {**sizes, "articles": len(catalogue.news_ids) - 1},
        {COUNTERS_AS_OF: as_of and as_of.isoformat()},
    )


def generator_servable(
    trained: TrainedGenerator,
    two_tower: Any,
    ranker: Any,
    catalogue: Catalogue,
    *,
    max_history: int,
    safety: SafetyList = SafetyList(),  # noqa: B008  (frozen)
    classifier: SafetyClassifier | None = None,
) -> Servable:
    """`genre_generator`; the catalogue gives the evidence of answers, and titles to verify with."""
    options = WriterOptions(safety=safety)
    writer = Writer(trained.generator, trained.prompts, options, trained.common_words)
    evidence = Evidence(catalogue)
    servable = generator.GeneratorServable(
        writer, two_tower, ranker, evidence, max_history=max_history, classifier=classifier
    )
    reference = generator.GeneratorReference(servable)
    return Servable(
        generator.NAME,
        servable.write,
        [reference.answer(request) for request in generator_requests.generator_requests(catalogue)],
        generator_requests.warmup_requests(catalogue),
        {"max_history": max_history, "texts": writer.options.samples, "evidence": evidence.articles},
    )
