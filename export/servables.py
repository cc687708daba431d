"""Servables with the requests and answers that verify them, and the servable `genre_recommender`."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import tensorflow as tf

from genre_tf.contract import ASSETS_FOLDER, RECOMMENDER, SIGNATURES, WARMUP_FILE
from genre_tf.export import requests
from genre_tf.export.contract import write_contract
from genre_tf.export.exchanges import PARITY_FILE, Exchange, write_exchanges
from genre_tf.export.fresh_process import FreshProcess
from genre_tf.export.reference import RecommenderReference
from genre_tf.export.saved_model import write_saved_model
from genre_tf.export.warmup import write_warmup
from genre_tf.funnel.index import IDS_FILE, ArticleIndex, Catalogue
from genre_tf.funnel.partitioned_index import PartitionedOptions
from genre_tf.funnel.recommender import Recommender
from genre_tf.funnel.selection import Rules
from genre_tf.funnel.served_models import ServedModels, moment_biases

COUNTERS_AS_OF = "counters_as_of"
"""Key in a contract's sources: when the counters were taken, on the clock of the logs; null without logs."""


@dataclass(frozen=True)
class Servable:
    """A servable, ready to be written.

    Attributes:
        name: name of the servable.
        write: writes its SavedModel into a folder.
        exchanges: recorded requests with the answers of the Python models; may be an iterator that computes
            the answers, so it is read only once.
        warmup: signature to the inputs of one usual row.
        sizes: limits of requests and answers, for the contract.
        sources: JSON values for the contract: what it was made from, in addition to the run.
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
    """Write a SavedModel and all files of its `assets.extra`.

    Args:
        servable: the servable to write.
        folder: staged folder; empty, or as the servable's `write` expects it.
        sources: JSON values for the contract.
        batch_sizes: batch sizes that warmup covers.
        fresh: process that loads the version as early as possible, while the answers are being computed.
    """
    servable.write(folder)
    extra = folder / ASSETS_FOLDER
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
    """Build `genre_recommender`.

    Args:
        two_tower: has `user_vector` and `encoder`.
        ranker: has `click_logits` and `encoder`.
        catalogue: the articles.
        scratch: folder for a file that is copied into the SavedModel.
        max_history: number of newest clicks that represent the reader.
        k: number of recommended articles.
        retrieve: number of articles that the towers pass to the ranker.
        rules: recommendation rules in addition to the order of click probabilities.
        partitioned: options of a partitioned index, which searches a part of the pool; None: exact search.
        as_of: time when the catalogue's counters were taken, on the clock of the logs; None without a log.
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
    """Build the signatures with an index of a catalogue; arguments as in `recommender_servable`."""
    models = ServedModels(two_tower, ranker)
    bias = moment_biases(models, catalogue.counters)
    index = ArticleIndex(catalogue, bias, scratch / IDS_FILE, rules.max_age_hours, partitioned)
    return Recommender(two_tower, ranker, index, rules=rules, models=models, **sizes)


def write_recommender(recommender: Recommender, folder: Path) -> None:
    """Write the SavedModel with every signature."""
    models = (recommender.two_tower, recommender.ranker)
    tokenizers = [model.news.bert.tokenizer for model in models]
    signatures = {
        one.name: (getattr(recommender, one.name), dict.fromkeys(one.input_names, tf.string))
        for one in SIGNATURES[RECOMMENDER].values()
    }
    # `genre refresh` reads both back.
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
    """`genre_recommender` with a catalogue, its index and any way to write it.

    If `counted`, its exchanges cover only the signatures whose answers depend on counters, otherwise all.
    """
    asked = (requests.counted_requests if counted else requests.recommender_requests)(catalogue)
    return Servable(
        RECOMMENDER,
        write,
        (reference.answer(request) for request in asked),
        requests.warmup_requests(catalogue),
        {**sizes, **index.nearest.as_sizes(), "articles": len(catalogue.news_ids) - 1},
        {COUNTERS_AS_OF: as_of and as_of.isoformat()},
    )
