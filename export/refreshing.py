"""New articles, new counts and expired articles into the next version of the index, without training.

Only what is new is encoded, with the models inside the served version itself, so that neither the run nor its
data are needed. The graph is copied as it is; variables of the index and the file of ids are written anew.

`genre_generator` stays as it is, with the articles of its last export as evidence: to write those anew is as
quick, but each recorded answer must then be written again and verified, minutes of work for a language model.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.counters import Counters
from genre_tf.data.faults import FaultPolicy
from genre_tf.data.mind import iterate_behaviors, read_news
from genre_tf.errors import InputError
from genre_tf.export.contract import files_fingerprint, read_contract
from genre_tf.export.fresh_process import FreshProcess, fresh_process
from genre_tf.export.index import IDS_FILE, ArticleIndex, Catalogue, read_catalogue
from genre_tf.export.index_changes import add_counts, expired_rows, joined, kept
from genre_tf.export.names import GENERATOR, RECOMMENDER
from genre_tf.export.open_variables import variable_values
from genre_tf.export.partitioned_index import options_of
from genre_tf.export.publishing import publish, staged, versions
from genre_tf.export.reference import RecommenderReference
from genre_tf.export.rewriting import copy_with_values
from genre_tf.export.selection import Rules
from genre_tf.export.servables import COUNTERS_AS_OF, Servable, indexed_servable, write_version
from genre_tf.export.served_models import encode_table, read_models, read_served
from genre_tf.export.verification import Verification, require_passed, verify_version


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What a refresh changes; at least one of the first three."""

    news: Path | None = None  # articles in MIND's format; of known ids only those with another title count
    behaviors: Path | None = None  # a log since the counters were taken
    expire: float | datetime | None = None  # hours since an article was first shown, or a time before which
    max_bad_rows: int = 0

    def __post_init__(self) -> None:
        if self.news is None and self.behaviors is None and self.expire is None:
            raise InputError("nothing to refresh: give --news, --behaviors or --expire")


@dataclass(frozen=True)
class Refreshed:
    """What became of a version.

    Attributes:
        version: the published folder; the old one where nothing changed.
        added: new articles.
        changed: known articles with another title.
        expired: articles that are no longer in the index.
        articles: in the index now.
        verification: of the new version; None where nothing changed.
    """

    version: Path
    added: int
    changed: int
    expired: int
    articles: int
    verification: Verification | None


def parse_expiry(text: str) -> float | datetime:
    """Hours, or a date with or without a time.

    Raises:
        InputError: it is neither.
    """
    try:
        hours = float(text)
    except ValueError:
        try:
            return datetime.fromisoformat(text).replace(tzinfo=None)
        except ValueError:
            raise InputError(
                f"--expire takes hours or a date such as 2019-11-15: received {text!r}"
            ) from None
    if not 0 < hours < float("inf"):
        raise InputError(f"--expire takes hours above 0: received {text!r}")
    return hours


def refresh(
    models: Path,
    changes: Changes,
    report: Callable[[str], None],
    base: int | None = None,
    batch_sizes: Sequence[int] | None = None,
) -> Refreshed:
    """Write the next version of `genre_recommender`.

    Args:
        models: MODELS, or MODELS/genre_recommender.
        changes: what to change.
        report: takes a line of progress.
        base: the version to build on, which after a rollback is not the newest; None: the newest.
        batch_sizes: that warmup covers; None: those of the version before.

    Raises:
        InputError: no version, wrong data, or nothing would be left. Nothing is left behind.
        FailureError: what was written did not pass verification; nothing was published.
    """
    version = _version(models, base)
    contract = read_contract(version)
    contract["batch_sizes"] = list(batch_sizes or contract["batch_sizes"])
    articles = read_news(changes.news, FaultPolicy(changes.max_bad_rows)) if changes.news else {}
    # Started before anything is known to be new: it imports TensorFlow while the served version is read.
    with fresh_process() as fresh, tempfile.TemporaryDirectory() as scratch:
        return _refreshed(version, contract, articles, changes, (fresh, Path(scratch)), report)


def _refreshed(
    version: Path,
    contract: Mapping[str, Any],
    articles: Mapping[str, Article],
    changes: Changes,
    workplace: tuple[FreshProcess, Path],
    report: Callable[[str], None],
) -> Refreshed:
    fresh, scratch = workplace
    report(f"reading {version}")
    served = read_served(version)
    before = read_catalogue(served.index)
    counted_to = _time(contract)
    log = _read_log(changes, before, articles, counted_to, report)
    new = _new_articles(before, articles)
    if new:
        report(f"encoding {len(new)} articles")
    catalogue = joined(before, *_encoded(served.models, new))
    catalogue, as_of = add_counts(catalogue, counted_to, log)
    gone = expired_rows(catalogue, as_of, changes.expire)
    catalogue = kept(catalogue, ~gone)
    if len(catalogue.news_ids) == 1:
        raise InputError(
            f"--expire leaves none of {len(gone) - 1} articles: give more hours or an earlier date"
        )
    known = set(before.news_ids)
    added = sum(article.news_id not in known for article in new)
    numbers = (added, len(new) - added, int(gone.sum()), len(catalogue.news_ids) - 1)
    if not new and log is None and not gone.any():
        return Refreshed(version, *numbers, None)
    told = {"from_version": version.name, **dict(zip(("added", "changed", "expired"), numbers, strict=False))}
    files = {file.name: files_fingerprint(file) for file in (changes.news, changes.behaviors) if file}
    servable = _servable(version, served, catalogue, as_of, contract["sizes"], scratch)
    servable = replace(servable, sources={**servable.sources, "refreshed": {**told, "files": files}})
    published, checked = _publish(servable, version.parent, contract, fresh, report)
    if versions(version.parent.with_name(GENERATOR)):
        report(f"{GENERATOR} answers questions from the articles of its last export, until the next one")
    return Refreshed(published, *numbers, checked)


def _version(models: Path, base: int | None) -> Path:
    servable = models if models.name == RECOMMENDER else models / RECOMMENDER
    found = versions(servable)
    if not found:
        raise InputError(
            f"no version of {RECOMMENDER} in {models}: give the folder that `genre export` wrote"
        )
    if base is not None and base not in found:
        raise InputError(
            f"{RECOMMENDER} has no version {base} in {servable}; published: {', '.join(map(str, found))}"
        )
    return servable / str(found[-1] if base is None else base)


def _read_log(
    changes: Changes,
    before: Catalogue,
    articles: Mapping[str, Article],
    counted_to: datetime | None,
    report: Callable[[str], None],
) -> Counters | None:
    """Counters of the impressions that were not counted yet; None without a log."""
    if changes.behaviors is None:
        return None
    known = _AnyId({news_id: news_id for news_id in (*before.news_ids[1:], *articles)})
    counters, left_out = Counters(), 0
    for impression in iterate_behaviors(changes.behaviors, known, FaultPolicy(changes.max_bad_rows)):
        if impression.clicked is None:
            raise InputError(
                f"{changes.behaviors} has no labels (N1-0, N2-1): views without their clicks would make "
                "every click rate too small; give a log that tells what was clicked"
            )
        if counted_to is not None and impression.time < counted_to:
            left_out += 1
        else:
            counters.observe(impression)
    if counters.newest is None:
        raise InputError(
            f"the log ends before {counted_to}, up to which the index counted already: give a later one"
        )
    if not known.keys() & counters.views.keys():
        raise InputError(
            f"{changes.behaviors} shows none of the {len(known)} articles: give the log of this index"
        )
    if left_out:
        report(f"left out {left_out} impressions before {counted_to}: they were counted already")
    return counters


class _AnyId(dict[str, str]):
    """Ids by themselves, unknown ones too: readers clicked, and saw, articles that have expired since."""

    def __missing__(self, news_id: str) -> str:
        return news_id


def _new_articles(before: Catalogue, articles: Mapping[str, Article]) -> list[Article]:
    """Those whose id is not known, or was known with another title."""
    titles = dict(zip(before.news_ids, before.titles, strict=True))
    return [one for one in articles.values() if titles.get(one.news_id) != " ".join(one.title.split())]


def _encoded(models: Any, new: list[Article]) -> tuple[list[Article], np.ndarray, np.ndarray]:
    retrieval, ranking = encode_table(models, ArticleTable(new))
    return new, retrieval[1:], ranking[1:]


def _time(contract: Mapping[str, Any]) -> datetime | None:
    text = contract["sources"].get(COUNTERS_AS_OF)
    return datetime.fromisoformat(text) if text else None


def _servable(
    version: Path,
    served: Any,
    catalogue: Catalogue,
    as_of: datetime | None,
    sizes: Mapping[str, Any],
    scratch: Path,
) -> Servable:
    limits = {name: sizes[name] for name in ("max_history", "k", "retrieve")}
    rules = Rules(**{name: value for name, value in sizes.items() if name in vars(Rules())})
    ids_file = scratch / IDS_FILE
    index = ArticleIndex(catalogue, ids_file, rules.max_age_hours, options_of(sizes))

    def write(folder: Path) -> None:
        copy_with_values(version, folder, "index", variable_values(index))
        (folder / "assets" / IDS_FILE).write_bytes(ids_file.read_bytes())

    dimensions = (catalogue.retrieval_vectors.shape[1], catalogue.ranking_vectors.shape[1])
    two_tower, ranker = read_models(served.models, dimensions)
    reference = RecommenderReference(
        two_tower, ranker, catalogue, **limits, rules=rules, searched=index.nearest.searched()
    )
    return indexed_servable(write, reference, catalogue, {**limits, **rules.as_sizes()}, index, as_of)


def _publish(
    servable: Servable,
    folder_of_versions: Path,
    contract: Mapping[str, Any],
    fresh: FreshProcess,
    report: Callable[[str], None],
) -> tuple[Path, Verification]:
    with staged(folder_of_versions) as folder:
        report(f"writing {servable.name}, and verifying it in a fresh process")
        write_version(servable, folder, contract["sources"], contract["batch_sizes"], fresh)
        checked = require_passed(verify_version(folder, "new", fresh))
        version = publish(folder)
    return version, replace(checked, version=version.name)
