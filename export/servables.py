"""What is written of a servable, with the requests and answers that verify it; and `genre_recommender`."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from genre_tf.contract import ASSETS_FOLDER, RECOMMENDER, WARMUP_FILE
from genre_tf.export.contract_file import write_contract
from genre_tf.export.fresh_process import FreshProcess
from genre_tf.export.reference import RecommenderReference
from genre_tf.export.requests import (
    PARITY_FILE,
    Exchange,
    counted_requests,
    recorded_requests,
    warmup_requests,
    write_exchanges,
    write_warmup,
)
from genre_tf.export.saved_model import write_servable
from genre_tf.funnel.index import IDS_FILE, ArticleIndex, Catalogue
from genre_tf.funnel.partitioned_index import PartitionedOptions
from genre_tf.funnel.recommender import Recommender
from genre_tf.funnel.rules import Rules
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
    models: Any,
    catalogue: Catalogue,
    scratch: Path,
    *,
    rules: Rules = Rules(),  # noqa: B008  (frozen)
    partitioned: PartitionedOptions | None = None,
    as_of: datetime | None = None,
    write: Callable[[ArticleIndex, Path], None] | None = None,
    counted: bool = False,
    **sizes: int,
) -> Servable:
    """Build `genre_recommender`.

    Args:
        models: a `ServedModels`; or one that was read back from a SavedModel, with `write`.
        catalogue: the articles.
        scratch: folder for a file that is copied into the SavedModel.
        rules: recommendation rules in addition to the order of click probabilities.
        partitioned: options of a partitioned index, which searches a part of the pool; None: exact search.
        as_of: time when the catalogue's counters were taken, on the clock of the logs; None without a log.
        write: writes a version with this index into a folder; None: write every signature.
        counted: whether only the signatures are verified whose answers depend on counters.
        sizes: `max_history`, `k` and `retrieve` of `Recommender`.
    """
    index = _index(models, catalogue, scratch, rules, partitioned)
    searched = index.nearest.searched()
    reference = RecommenderReference(models, catalogue, rules=rules, searched=searched, **sizes)
    asked = counted_requests(catalogue) if counted else recorded_requests(RECOMMENDER, catalogue)

    def write_here(folder: Path) -> None:
        if write is None:
            write_recommender(Recommender(models, index, rules=rules, **sizes), folder)
        else:
            write(index, folder)

    return Servable(
        RECOMMENDER,
        write_here,
        (reference.answer(request) for request in asked),
        warmup_requests(RECOMMENDER, catalogue),
        {
            **sizes,
            **rules.as_sizes(),
            **index.nearest.as_sizes(),
            "articles": len(catalogue.news_ids) - 1,
        },
        {COUNTERS_AS_OF: as_of and as_of.isoformat()},
    )


def new_recommender(
    models: ServedModels,
    catalogue: Catalogue,
    scratch: Path,
    *,
    rules: Rules = Rules(),  # noqa: B008  (frozen)
    partitioned: PartitionedOptions | None = None,
    **sizes: int,
) -> Recommender:
    """The signatures over an index of a catalogue; arguments as in `recommender_servable`."""
    index = _index(models, catalogue, scratch, rules, partitioned)
    return Recommender(models, index, rules=rules, **sizes)


def write_recommender(recommender: Recommender, folder: Path) -> None:
    """Write the SavedModel with every signature."""
    index, models = recommender.index, recommender.models
    write_servable(
        folder,
        RECOMMENDER,
        recommender,
        index,
        *models.tokenizers(),
        attached={"index": index, "models": models},  # `genre refresh` reads both back
        aliases=models.device_functions(),
    )


def _index(
    models: Any, catalogue: Catalogue, scratch: Path, rules: Rules, partitioned: PartitionedOptions | None
) -> ArticleIndex:
    bias = moment_biases(models, catalogue.counters)
    return ArticleIndex(catalogue, bias, scratch / IDS_FILE, rules.max_age_hours, partitioned)
