"""What is written of a servable, with the requests and answers that verify it; and `genre_recommender`."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from genre_tf.contract import ASSETS_FOLDER, RECOMMENDER, WARMUP_FILE
from genre_tf.export.articles_file import write_articles
from genre_tf.export.contract_file import write_contract
from genre_tf.export.requests import (
    PARITY_FILE,
    Exchange,
    RowByRow,
    counted_requests,
    recorded_requests,
    warmup_requests,
    write_exchanges,
    write_warmup,
)
from genre_tf.export.saved_model import write_servable
from genre_tf.export.verification import FreshProcess
from genre_tf.funnel.index import IDS_FILE, ArticleIndex, Catalogue
from genre_tf.funnel.recommender import Recommender
from genre_tf.funnel.rules import Rules
from genre_tf.funnel.search import PartitionedOptions
from genre_tf.funnel.served_models import ServedModels, moment_biases

COUNTERS_AS_OF = "counters_as_of"
"""Key in a contract's sources: when the counters were taken, on the clock of the logs; null without logs."""


@dataclass(frozen=True)
class Servable:
    """A servable, ready to be written."""

    name: str
    write: Callable[[Path], None]  # writes its SavedModel into a folder
    # Recorded requests with the answers of the Python models; may compute them, so it is read only once.
    exchanges: Iterable[Exchange]
    warmup: dict[str, Any]  # signature to the inputs of one usual row
    sizes: dict[str, Any]  # limits of requests and answers, for the contract
    sources: dict[str, Any] = field(default_factory=dict)  # what it was made from, in addition to the run
    articles: Catalogue | None = None  # listed beside the graph


def write_version(
    servable: Servable,
    folder: Path,
    sources: dict[str, Any],
    batch_sizes: Sequence[int],
    fresh: FreshProcess | None = None,
) -> None:
    """Write a SavedModel and all files of its `assets.extra` into a staged folder.

    A `fresh` process loads the version as early as possible, while the answers are being computed.
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
    if servable.articles is not None:
        write_articles(folder, servable.articles)
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
        models: a `ServedModels`; or one that was read back, with `ReadEncoder`s and with `write`.
        catalogue: the articles.
        scratch: folder for a file that is copied into the SavedModel.
        rules: as for `Recommender`; so are `sizes`: `max_history`, `k` and `retrieve`.
        partitioned: as for `ArticleIndex`.
        as_of: time when the catalogue's counters were taken, on the clock of the logs; None without a log.
        write: writes a version with this index into a folder; None: write every signature.
        counted: whether only the signatures are verified whose answers depend on counters.
    """
    recommender = new_recommender(models, catalogue, scratch, rules=rules, partitioned=partitioned, **sizes)
    reference = RowByRow(RECOMMENDER, recommender)
    asked = counted_requests(catalogue) if counted else recorded_requests(RECOMMENDER, catalogue)
    return Servable(
        RECOMMENDER,
        lambda folder: write(recommender.index, folder) if write else write_recommender(recommender, folder),
        (reference.answer(request) for request in asked),
        warmup_requests(RECOMMENDER, catalogue),
        {
            **sizes,
            **rules.as_sizes(),
            **recommender.index.nearest.as_sizes(),
            "articles": len(catalogue.news_ids) - 1,
        },
        {COUNTERS_AS_OF: as_of and as_of.isoformat()},
        catalogue,
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
    bias = moment_biases(models, catalogue.counters)
    index = ArticleIndex(catalogue, bias, scratch / IDS_FILE, rules.max_age_hours, partitioned)
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
