"""Build the next version of the index with new articles, new counts and expired articles, without training.

Only new articles are encoded, with the models inside the served version, so the run and its data are not
needed. The graph is copied unchanged; the variables of the index and the file of ids are written again.

`genre_generator` does not change and keeps the articles of its last export as evidence. New evidence could be
written as quickly, but then a language model must write each recorded answer again, which takes minutes.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from genre_tf.contract import ASSETS_FOLDER, GENERATOR, RECOMMENDER
from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.counters import Counters
from genre_tf.data.lines import FaultPolicy
from genre_tf.data.mind import iterate_behaviors, read_news
from genre_tf.errors import InputError
from genre_tf.export.contract_file import files_fingerprint, read_contract
from genre_tf.export.fresh_process import FreshProcess, refresh_process
from genre_tf.export.pool import with_articles, with_counts, without
from genre_tf.export.publishing import publish, staged, versions
from genre_tf.export.requests import PARITY_FILE, Exchange, read_exchanges
from genre_tf.export.saved_model import attached_values, copy_graph, load_attached, write_values
from genre_tf.export.servables import COUNTERS_AS_OF, Servable, recommender_servable, write_version
from genre_tf.export.verification import Verification, require_passed, verify_version
from genre_tf.funnel.exact_search import variable_values
from genre_tf.funnel.index import IDS_FILE, ArticleIndex, Catalogue, may_be_found, read_catalogue
from genre_tf.funnel.partitioned_index import options_of
from genre_tf.funnel.rules import Rules
from genre_tf.funnel.served_models import ENCODER, encode_table

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What a refresh changes; at least one of the first four is required."""

    news: Path | None = None  # articles in MIND's format; known ids are used only if the title has changed
    behaviors: Path | None = None  # a log; impressions before the counters were taken are left out
    expire: float | datetime | None = None  # articles older than these hours, or than this time, are stale
    withdraw: frozenset[str] = frozenset()  # ids of articles that are never shown again
    max_bad_rows: int = 0

    def __post_init__(self) -> None:
        if self.news is None and self.behaviors is None and self.expire is None and not self.withdraw:
            raise InputError("nothing to refresh: give --news, --behaviors, --expire or --withdraw")


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


def parse_expiry(text: str) -> float | datetime:
    """Parse hours, or a date with or without a time.

    Raises:
        InputError: the text is neither.
    """
    try:
        hours = float(text)
    except ValueError:
        try:
            return datetime.fromisoformat(text).replace(tzinfo=None)
        except ValueError:
            raise InputError(f"--expire must be hours or a date such as 2019-11-15; got {text!r}") from None
    if not 0 < hours < float("inf"):
        raise InputError(f"--expire must be hours above 0; got {text!r}")
    return hours


def refresh(
    models: Path,
    changes: Changes,
    report: Report,
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
    articles = read_news(changes.news, FaultPolicy(changes.max_bad_rows)) if changes.news else {}
    # The fresh process prepares the signatures while this process reads and encodes. It needs only the graph,
    # which does not change.
    with ExitStack() as stack:
        folder = stack.enter_context(staged(version.parent))
        fresh = fresh or stack.enter_context(refresh_process(changes.news))
        copy_graph(version, folder)
        fresh.read_graph(folder)
        report(f"reading {version}")
        served, before = _read(version, encodes=not fresh.only)
        next_index = _changed(served, before, contract, articles, changes, report)
        if next_index.is_old:
            return Refreshed(version, *next_index.numbers, None)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servable = _servable(version, served, next_index, contract["sizes"], scratch, bool(fresh.only))
        sources = {**servable.sources, "refreshed": _told(version, next_index, changes)}
        report(f"writing {servable.name}, and verifying it in a fresh process")
        with ThreadPoolExecutor(1) as pool:
            # The answers are computed while the variables are written to the disk: both run outside Python.
            answers = pool.submit(list, servable.exchanges)
            servable = replace(servable, exchanges=_exchanges(version, answers, fresh.only), sources=sources)
            sizes = list(batch_sizes or contract["batch_sizes"])
            write_version(servable, folder, contract["sources"], sizes, fresh)
        checked = require_passed(verify_version(folder, "new", fresh))
        published = publish(folder)
    if versions(version.parent.with_name(GENERATOR)):
        report(f"{GENERATOR} is unchanged: it answers questions from the articles of its last export")
    return Refreshed(published, *next_index.numbers, replace(checked, version=published.name))


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


def _read(version: Path, encodes: bool) -> tuple[Any, Catalogue]:
    """The `ServedModels` of a version and the articles of its index.

    Args:
        version: folder of the SavedModel.
        encodes: False: do not load the encoder of articles, which takes most of the loading time.
    """
    try:
        models = load_attached(version, "models", () if encodes else ENCODER)
        return models, read_catalogue(attached_values(version, "index"))
    except (OSError, ValueError, tf.errors.OpError) as error:
        said = str(error).splitlines()[0][:200]
        raise InputError(f"{version} cannot be loaded ({said}): export again") from None
    except KeyError:
        raise InputError(f"{version} was exported by an earlier version of genre_tf: export again") from None


@dataclass(frozen=True)
class _Next:
    """The articles of the next version.

    Attributes:
        catalogue: the articles.
        as_of: when their counters were taken.
        rules: the rules with the new age limit.
        numbers: the numbers of `Refreshed`, in its order.
        is_old: whether the version before has the same.
    """

    catalogue: Catalogue
    as_of: datetime | None
    rules: Rules
    numbers: tuple[int, int, int, int, int]
    is_old: bool


def _changed(
    models: Any,
    before: Catalogue,
    contract: Mapping[str, Any],
    articles: Mapping[str, Article],
    changes: Changes,
    report: Report,
) -> _Next:
    counted_to = contract["sources"].get(COUNTERS_AS_OF)
    counted_to = datetime.fromisoformat(counted_to) if counted_to else None
    log = _read_log(changes, before, articles, counted_to, report)
    new = new_articles(before, articles)
    catalogue = before
    if new:
        report(f"encoding {len(new)} articles")
        vectors = [part[1:] for part in encode_table(models, ArticleTable(new))]
        catalogue = with_articles(before, new, vectors)
    catalogue, as_of = with_counts(catalogue, counted_to, log, new)
    catalogue = without(catalogue, changes.withdraw)
    sizes = contract["sizes"]
    old_rules = Rules(**{name: value for name, value in sizes.items() if name in vars(Rules())})
    limit = _age_limit(changes.expire, as_of)
    rules = old_rules if limit is None else replace(old_rules, max_age_hours=limit)
    was_shown, shown = (
        may_be_found(one, by.max_age_hours) for one, by in ((before, old_rules), (catalogue, rules))
    )
    if not shown.any():
        raise InputError(
            f"none of the {len(shown) - 1} articles may be recommended: "
            "give --expire a larger number of hours or an earlier date"
        )
    added = len(catalogue.news_ids) - len(before.news_ids)
    expired = int((was_shown & ~shown[: len(was_shown)]).sum())
    numbers = (added, len(new) - added, expired, len(shown) - 1, int(shown.sum()))
    same = np.array_equal(np.asarray(before.withdrawn), np.asarray(catalogue.withdrawn))
    return _Next(catalogue, as_of, rules, numbers, not new and log is None and rules == old_rules and same)


def _read_log(
    changes: Changes,
    before: Catalogue,
    articles: Mapping[str, Article],
    counted_to: datetime | None,
    report: Report,
) -> Counters | None:
    """Count the impressions that were not counted yet; None without a log.

    Args:
        changes: contains the path of the log.
        before: the index that the log belongs to.
        articles: new articles by id; the log may contain them too.
        counted_to: time when the counters of that index were taken; None: no log was counted so far.
        report: called with each line of progress.

    Raises:
        InputError: the log has no clicks, ends too early, or contains only other articles.
    """
    if changes.behaviors is None:
        return None
    known = _AnyId({news_id: news_id for news_id in (*before.news_ids[1:], *articles)})
    counters, left_out = Counters(), 0
    for impression in iterate_behaviors(changes.behaviors, known, FaultPolicy(changes.max_bad_rows)):
        if impression.clicked is None:
            raise InputError(
                f"{changes.behaviors} has no labels (such as N1-0, N2-1); views without their clicks would "
                "make every click rate too low. Give a log with clicks"
            )
        if counted_to is not None and impression.time < counted_to:
            left_out += 1
        else:
            counters.observe(impression)
    if counters.newest is None:
        raise InputError(
            f"the log ends before {counted_to}; the index has already counted up to then. Give a later log"
        )
    if not known.keys() & counters.views.keys():
        raise InputError(
            f"{changes.behaviors} shows none of the {len(known)} articles: give a log that shows them"
        )
    if left_out:
        report(f"left out {left_out} impressions before {counted_to}: they are already counted")
    return counters


class _AnyId(dict[str, str]):
    """Maps every id to itself, unknown ids too: a log also contains articles that have expired since."""

    def __missing__(self, news_id: str) -> str:
        return news_id


def new_articles(before: Catalogue, articles: Mapping[str, Article]) -> list[Article]:
    """Articles whose id is unknown, whose title has changed, or which are newly withdrawn."""
    states = zip(before.titles, np.asarray(before.withdrawn).tolist(), strict=True)
    known = dict(zip(before.news_ids, states, strict=True))

    def is_known(one: Article) -> bool:
        title, gone = known.get(one.news_id, (None, False))
        return title == " ".join(one.title.split()) and (gone or not one.withdrawn)

    return [one for one in articles.values() if not is_known(one)]


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


def _servable(
    version: Path, models: Any, new: _Next, sizes: Mapping[str, Any], scratch: Path, counted: bool
) -> Servable:
    def write(index: ArticleIndex, folder: Path) -> None:
        write_values(version, folder, "index", variable_values(index))
        (folder / "assets" / IDS_FILE).write_bytes((scratch / IDS_FILE).read_bytes())

    return recommender_servable(
        models,
        new.catalogue,
        scratch,
        **{name: sizes[name] for name in ("max_history", "k", "retrieve")},
        rules=new.rules,
        partitioned=options_of(sizes),
        as_of=new.as_of,
        write=write,
        counted=counted,
    )


def _told(version: Path, new: _Next, changes: Changes) -> dict[str, Any]:
    """What the contract tells about a refresh."""
    added, changed, expired, *_ = new.numbers
    files = {file.name: files_fingerprint(file) for file in (changes.news, changes.behaviors) if file}
    told = {"added": added, "changed": changed, "expired": expired}
    return {"from_version": version.name, **told, "files": files}


def _exchanges(version: Path, new: Future[list[Exchange]], only: Sequence[str]) -> Iterator[Exchange]:
    """The requests for verification; signatures with unchanged answers keep their recorded ones."""
    if only:
        kept = read_exchanges(version / ASSETS_FOLDER / PARITY_FILE)
        yield from (exchange for exchange in kept if exchange.signature not in only)
    yield from new.result()
