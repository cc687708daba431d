"""Build the next version of the index with new articles, new counts and expired articles, without training.

Only new articles are encoded, with the models inside the served version, so the run and its data are not
needed. The graph is copied unchanged; the variables of the index and the file of ids are written again.

`genre_generator` does not change and keeps the articles of its last export as evidence. New evidence could be
written as quickly, but then a language model must write each recorded answer again, which takes minutes.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from genre_tf.contract import ASSETS_FOLDER, GENERATOR, RECOMMENDER
from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.faults import FaultPolicy
from genre_tf.data.mind import read_news
from genre_tf.errors import InputError
from genre_tf.export.changes import Changes, new_articles, read_log
from genre_tf.export.contract import files_fingerprint, read_contract
from genre_tf.export.exchanges import PARITY_FILE, Exchange, read_exchanges
from genre_tf.export.fresh_process import FreshProcess, refresh_process
from genre_tf.export.index_changes import add_counts, dated, joined, withdrawn
from genre_tf.export.publishing import publish, staged, versions
from genre_tf.export.reference import RecommenderReference
from genre_tf.export.rewriting import copy_graph, write_values
from genre_tf.export.servables import COUNTERS_AS_OF, Servable, indexed_servable, write_version
from genre_tf.export.served_models import read_models, read_served
from genre_tf.export.verification import Verification, require_passed, verify_version
from genre_tf.funnel.index import IDS_FILE, ArticleIndex, Catalogue, may_be_found, read_catalogue
from genre_tf.funnel.open_variables import variable_values
from genre_tf.funnel.partitioned_index import options_of
from genre_tf.funnel.selection import Rules
from genre_tf.funnel.served_models import encode_table, moment_biases


@dataclass(frozen=True)
class Refreshed:
    """The result of a refresh.

    Attributes:
        version: the published folder; the old version if nothing changed.
        added: number of new articles.
        changed: number of known articles with another title.
        expired: number of articles that may no longer be recommended; histories may still contain them.
        articles: number of articles in the index.
        recommendable: number of these that may be recommended.
        verification: verification of the new version; None if nothing changed.
    """

    version: Path
    added: int
    changed: int
    expired: int
    articles: int
    recommendable: int
    verification: Verification | None


def refresh(
    models: Path,
    changes: Changes,
    report: Callable[[str], None],
    base: int | None = None,
    batch_sizes: Sequence[int] | None = None,
    fresh: FreshProcess | None = None,
) -> Refreshed:
    """Write the next version of `genre_recommender`.

    Args:
        models: MODELS, or MODELS/genre_recommender.
        changes: what to change.
        report: called with each line of progress.
        base: the version to build on, which is not the newest after a rollback; None: the newest.
        batch_sizes: batch sizes that warmup covers; None: those of the base version.
        fresh: a `refresh_process` for these changes; None: start one.

    Raises:
        InputError: there is no version, the data are wrong, or no article could be recommended any more. No
            files are left behind.
        FailureError: the written version did not pass verification; nothing was published.
    """
    version = _version(models, base)
    contract = read_contract(version)
    contract["batch_sizes"] = list(batch_sizes or contract["batch_sizes"])
    articles = read_news(changes.news, FaultPolicy(changes.max_bad_rows)) if changes.news else {}
    # The fresh process prepares the signatures while this process reads and encodes. It needs only the graph,
    # which does not change.
    with ExitStack() as stack:
        folder = stack.enter_context(staged(version.parent))
        fresh = fresh or stack.enter_context(refresh_process(changes.news))
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        copy_graph(version, folder)
        fresh.read_graph(folder)
        workplace = _Workplace(folder, fresh, Path(scratch))
        return _refreshed(version, contract, articles, changes, workplace, report)


@dataclass(frozen=True)
class _Workplace:
    folder: Path  # staged, with the graph in it
    fresh: FreshProcess  # is preparing that graph
    scratch: Path


def _refreshed(
    version: Path,
    contract: Mapping[str, Any],
    articles: Mapping[str, Article],
    changes: Changes,
    workplace: _Workplace,
    report: Callable[[str], None],
) -> Refreshed:
    report(f"reading {version}")
    served, values = read_served(version, encodes=not workplace.fresh.only)
    before = _catalogue(version, values)
    counted_to = _time(contract)
    log = read_log(changes, before, articles, counted_to, report)
    new = new_articles(before, articles)
    if new:
        report(f"encoding {len(new)} articles")
    known = joined(before, *_encoded(served.models, new)) if new else before
    catalogue, as_of = add_counts(known, counted_to, log)
    catalogue = withdrawn(dated(catalogue, new, as_of), changes.withdraw)
    rules, limit = _rules(contract["sizes"]), _age_limit(changes.expire, as_of)
    was_shown = may_be_found(before, rules.max_age_hours)
    if limit is not None:
        rules = replace(rules, max_age_hours=limit)
    shown = may_be_found(catalogue, rules.max_age_hours)
    if not shown.any():
        raise InputError(
            f"none of the {len(shown) - 1} articles may be recommended: "
            "give --expire a larger number of hours or an earlier date"
        )
    old_ids = set(before.news_ids)
    added = sum(article.news_id not in old_ids for article in new)
    expired = int((was_shown & ~shown[: len(was_shown)]).sum())
    numbers = (added, len(new) - added, expired, len(catalogue.news_ids) - 1, int(shown.sum()))
    if not new and log is None and rules == _rules(contract["sizes"]) and _same_state(before, catalogue):
        return Refreshed(version, *numbers, None)
    told = {"from_version": version.name, **dict(zip(("added", "changed", "expired"), numbers, strict=False))}
    files = {file.name: files_fingerprint(file) for file in (changes.news, changes.behaviors) if file}
    servable = _servable(version, served.models, catalogue, as_of, rules, contract["sizes"], workplace)
    servable = replace(
        servable,
        exchanges=_exchanges(version, servable.exchanges, workplace.fresh.only),
        sources={**servable.sources, "refreshed": {**told, "files": files}},
    )
    published, checked = _publish(servable, contract, workplace, report)
    if versions(version.parent.with_name(GENERATOR)):
        report(f"{GENERATOR} is unchanged: it answers questions from the articles of its last export")
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


def _catalogue(version: Path, values: Mapping[str, Any]) -> Catalogue:
    try:
        return read_catalogue(values)
    except KeyError:
        raise InputError(
            f"{version} was exported by an earlier version of genre_tf with another index: export again"
        ) from None


def _rules(sizes: Mapping[str, Any]) -> Rules:
    return Rules(**{name: value for name, value in sizes.items() if name in vars(Rules())})


def _age_limit(expire: float | datetime | None, as_of: datetime | None) -> float | None:
    """The new age limit in hours; None: as before.

    Raises:
        InputError: there are no ages, because no log was ever counted.
    """
    if expire is None:
        return None
    if as_of is None:
        raise InputError(
            "--expire needs the ages of articles, which come from a log: give --behaviors, or export with one"
        )
    return expire if isinstance(expire, float) else max(1e-3, (as_of - expire).total_seconds() / 3600)


def _same_state(before: Catalogue, after: Catalogue) -> bool:
    return np.array_equal(np.asarray(before.withdrawn), np.asarray(after.withdrawn))


def _encoded(models: Any, new: list[Article]) -> tuple[list[Article], np.ndarray, np.ndarray]:
    retrieval, ranking = encode_table(models, ArticleTable(new))
    return new, retrieval[1:], ranking[1:]


def _time(contract: Mapping[str, Any]) -> datetime | None:
    text = contract["sources"].get(COUNTERS_AS_OF)
    return datetime.fromisoformat(text) if text else None


def _servable(
    version: Path,
    models: Any,
    catalogue: Catalogue,
    as_of: datetime | None,
    rules: Rules,
    sizes: Mapping[str, Any],
    workplace: _Workplace,
) -> Servable:
    limits = {name: sizes[name] for name in ("max_history", "k", "retrieve")}
    ids_file = workplace.scratch / IDS_FILE
    bias = moment_biases(models, catalogue.counters)
    index = ArticleIndex(catalogue, bias, ids_file, rules.max_age_hours, options_of(sizes))

    def write(folder: Path) -> None:
        write_values(version, folder, "index", variable_values(index))
        (folder / "assets" / IDS_FILE).write_bytes(ids_file.read_bytes())

    dimensions = (catalogue.retrieval_vectors.shape[1], catalogue.ranking_vectors.shape[1])
    two_tower, ranker = read_models(models, dimensions)
    reference = RecommenderReference(
        two_tower, ranker, catalogue, bias, **limits, rules=rules, searched=index.nearest.searched()
    )
    sizes = {**limits, **rules.as_sizes()}
    return indexed_servable(write, reference, catalogue, sizes, index, as_of, bool(workplace.fresh.only))


def _exchanges(version: Path, new: Iterable[Exchange], only: Sequence[str]) -> Iterator[Exchange]:
    """The requests for verification; signatures with unchanged answers keep their recorded ones."""
    if not only:
        yield from new
        return
    kept = read_exchanges(version / ASSETS_FOLDER / PARITY_FILE)
    yield from (exchange for exchange in kept if exchange.signature not in only)
    yield from new


def _publish(
    servable: Servable, contract: Mapping[str, Any], workplace: _Workplace, report: Callable[[str], None]
) -> tuple[Path, Verification]:
    report(f"writing {servable.name}, and verifying it in a fresh process")
    folder, fresh = workplace.folder, workplace.fresh
    with ThreadPoolExecutor(1) as pool:
        # The answers are computed while the variables are written to the disk: both run outside Python.
        answers = pool.submit(list, servable.exchanges)
        servable = replace(servable, exchanges=_result(answers))
        write_version(servable, folder, contract["sources"], contract["batch_sizes"], fresh)
    checked = require_passed(verify_version(folder, "new", fresh))
    version = publish(folder)
    return version, replace(checked, version=version.name)


def _result(answers: Future[list[Exchange]]) -> Iterator[Exchange]:
    yield from answers.result()
