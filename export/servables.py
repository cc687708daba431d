"""Servables, with the requests and answers that each is verified with; and `genre_recommender`."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import tensorflow as tf

from genre_tf.export import requests
from genre_tf.export.contract import write_contract
from genre_tf.export.exchanges import PARITY_FILE, Exchange, write_exchanges
from genre_tf.export.fresh_process import FreshProcess
from genre_tf.export.names import RECOMMENDER as NAME
from genre_tf.export.reference import RecommenderReference
from genre_tf.export.saved_model import write_saved_model
from genre_tf.export.warmup import WARMUP_FILE, write_warmup
from genre_tf.funnel.index import IDS_FILE, ArticleIndex, Catalogue
from genre_tf.funnel.partitioned_index import PartitionedOptions
from genre_tf.funnel.recommender import SIGNATURES, Recommender
from genre_tf.funnel.selection import Rules
from genre_tf.funnel.served_models import ServedModels, moment_biases

COUNTERS_AS_OF = "counters_as_of"
"""Among a contract's sources: when the counters were so, on the clock of the logs; null without logs."""


@dataclass(frozen=True)
class Servable:
    """One servable, ready to be written.

    Attributes:
        name: of the servable.
        write: writes its SavedModel into a folder.
        exchanges: recorded requests with the answers of the Python models; these may be computed as they are
            read, once.
        warmup: signature to the inputs of one usual row.
        sizes: what bounds requests and answers, for the contract.
        sources: where it comes from beside the run, JSON values for the contract.
    """

    name: str
    write: Callable[[Path], None]
    exchanges: Iterable[Exchange]
    warmup: dict[str, Any]
    sizes: dict[str, Any]
    sources: dict[str, Any] = field(default_factory=dict)


def write_version(
    servable: Servable,
    folder: Path,
    sources: dict[str, Any],
    batch_sizes: Sequence[int],
    fresh: FreshProcess | None = None,
) -> None:
    """Write a SavedModel with all of its `assets.extra`.

    Args:
        servable: what to write.
        folder: staged; empty, or what the servable's `write` expects.
        sources: for the contract.
        batch_sizes: that warmup covers.
        fresh: loads the version as soon as that is possible, while the answers are still being computed.
    """
    servable.write(folder)
    extra = folder / "assets.extra"
    extra.mkdir()
    write_warmup(extra / WARMUP_FILE, servable.name, servable.warmup, batch_sizes)
    if fresh is not None:
        fresh.load(folder)
    write_exchanges(extra / PARITY_FILE, servable.exchanges)
    if fresh is not None:
        fresh.ask(extra / PARITY_FILE)
    write_contract(folder, servable.name, servable.sizes, batch_sizes, {**sources, **servable.sources})


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
    partitioned: PartitionedOptions | None = None,
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
        partitioned: how to search in a part of the pool alone; None: exactly.
        as_of: when the counters of the catalogue were so, on the clock of the logs; None without any.
    """
    sizes = {"max_history": max_history, "k": k, "retrieve": retrieve}
    recommender = new_recommender(
        two_tower, ranker, catalogue, scratch, **sizes, rules=rules, partitioned=partitioned
    )
    index, bias = recommender.index, moment_biases(recommender.models, catalogue.counters)
    reference = RecommenderReference(
        two_tower, ranker, catalogue, bias, **sizes, rules=rules, searched=index.nearest.searched()
    )

    def write(folder: Path) -> None:
        write_recommender(recommender, folder)

    return indexed_servable(write, reference, catalogue, {**sizes, **rules.as_sizes()}, index, as_of)


def new_recommender(
    two_tower: Any,
    ranker: Any,
    catalogue: Catalogue,
    scratch: Path,
    *,
    rules: Rules = Rules(),  # noqa: B008  (frozen)
    partitioned: PartitionedOptions | None = None,
    **sizes: int,
) -> Recommender:
    """The signatures over an index of a catalogue; arguments as in `recommender_servable`."""
    models = ServedModels(two_tower, ranker)
    bias = moment_biases(models, catalogue.counters)
    index = ArticleIndex(catalogue, bias, scratch / IDS_FILE, rules.max_age_hours, partitioned)
    return Recommender(two_tower, ranker, index, rules=rules, models=models, **sizes)


def write_recommender(recommender: Recommender, folder: Path) -> None:
    """Write the SavedModel, every signature in it."""
    models = (recommender.two_tower, recommender.ranker)
    tokenizers = [model.encoder.backbone.bert.tokenizer for model in models]
    signatures = {
        name: (getattr(recommender, name), dict.fromkeys(inputs, tf.string))
        for name, inputs in SIGNATURES.items()
    }
    # For `genre refresh`, which reads both back.
    attached = {"index": recommender.index, "models": recommender.models}
    aliases = recommender.models.device_functions()
    write_saved_model(folder, [recommender.index, *tokenizers], signatures, attached, aliases)


def indexed_servable(
    write: Callable[[Path], None],
    reference: RecommenderReference,
    catalogue: Catalogue,
    sizes: dict[str, Any],
    index: ArticleIndex,
    as_of: datetime | None,
    counted: bool = False,
) -> Servable:
    """`genre_recommender` of a catalogue and its index, however it is written.

    Its exchanges are of all signatures, or of those whose answers follow from counters.
    """
    asked = (requests.counted_requests if counted else requests.recommender_requests)(catalogue)
    return Servable(
        NAME,
        write,
        (reference.answer(request) for request in asked),
        requests.warmup_requests(catalogue),
        {**sizes, **index.nearest.as_sizes(), "articles": len(catalogue.news_ids) - 1},
        {COUNTERS_AS_OF: as_of and as_of.isoformat()},
    )
