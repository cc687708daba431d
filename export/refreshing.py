"""Build the next version of the index with new articles, new counts and expired articles, without training.

Only new articles are encoded, with the models inside the served version, so the run and its data are not
needed. The graph is copied unchanged; the variables of the index and the file of ids are written again.

`genre_generator` gets a new version too if articles are new or withdrawn: the same graph with other evidence
for answers (`refresh_evidence`).
"""

import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from genre_tf.contract import ASSETS_FOLDER, GENERATOR, RECOMMENDER, WARMUP_FILE
from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.counters import Counters
from genre_tf.data.lines import FaultPolicy
from genre_tf.data.mind import iterate_behaviors, read_news
from genre_tf.errors import InputError
from genre_tf.export.articles_file import read_articles
from genre_tf.export.contract_file import files_fingerprint, read_contract, write_contract
from genre_tf.export.pool import with_articles, with_counts, without
from genre_tf.export.publishing import publish, staged, versions
from genre_tf.export.requests import PARITY_FILE, Exchange, read_exchanges, write_exchanges
from genre_tf.export.saved_model import attached_values, copy_graph, load_attached, write_values
from genre_tf.export.servables import COUNTERS_AS_OF, recommender_servable, write_version
from genre_tf.export.verification import (
    FreshProcess,
    Verification,
    fresh_process,
    refresh_process,
    require_passed,
    verify_version,
)
from genre_tf.funnel.answering import evidence_of
from genre_tf.funnel.evidence import Evidence
from genre_tf.funnel.index import IDS_FILE, ArticleIndex, Catalogue, may_be_found, read_catalogue
from genre_tf.funnel.parsing import clean_text
from genre_tf.funnel.rules import Rules
from genre_tf.funnel.search import options_of, variable_values
from genre_tf.funnel.served_models import ENCODER, ReadEncoder, encode_table

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
    """The result of a refresh."""

    version: Path  # the published folder; the old version if nothing changed
    verification: Verification | None  # of the new version; None if nothing changed
    added: int  # new articles
    changed: int  # known articles with another title
    expired: int  # articles that may no longer be recommended; histories may still contain them
    articles: int  # articles in the index
    recommendable: int  # of these, articles that may be recommended
    evidence: Path | None = None  # the published version of the generator; None if its evidence is unchanged


def parse_expiry(text: str) -> float | datetime:
    """Parse hours, or a date with or without a time."""
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
    evidence_base: int | None = None,
) -> Refreshed:
    """Write the next version of `genre_recommender` into MODELS or MODELS/genre_recommender.

    If there is a generator beside it, then also its next version, on `evidence_base`; None: its newest.

    It builds on `base`, which is not the newest version after a rollback; None: the newest. Warmup covers
    `batch_sizes`; None: those of the base version. `fresh` is a `refresh_process` for these changes; None:
    start one. If anything is wrong, nothing is published, and no files are left behind.
    """
    version = _version(models, base)
    contract = read_contract(version)
    sizes = contract["sizes"]
    articles = read_news(changes.news, FaultPolicy(changes.max_bad_rows)) if changes.news else {}
    with ExitStack() as stack:
        folder = stack.enter_context(staged(version.parent))
        fresh = fresh or stack.enter_context(refresh_process(changes.news))
        # The fresh process prepares the signatures while this process reads and encodes. It needs only the
        # graph, which does not change.
        copy_graph(version, folder)
        fresh.read_graph(folder)
        report(f"reading {version}")
        # Without new articles their encoder is not needed, which takes most of the loading time.
        served, before = _read(version, ENCODER if fresh.only else ())
        new = _changed(served, before, contract, articles, changes, report)
        if new is None:
            shown = may_be_found(before, rules_of(sizes).max_age_hours)
            return Refreshed(version, None, 0, 0, 0, len(shown) - 1, int(shown.sum()))
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        def write(index: ArticleIndex, folder: Path) -> None:
            write_values(version, folder, "index", variable_values(index))
            (folder / "assets" / IDS_FILE).write_bytes((scratch / IDS_FILE).read_bytes())

        servable = recommender_servable(
            served,
            new.catalogue,
            scratch,
            **{name: sizes[name] for name in ("max_history", "k", "retrieve")},
            rules=new.rules,
            partitioned=options_of(sizes),
            as_of=new.as_of,
            write=write,
            counted=bool(fresh.only),
        )
        told = {name: new.numbers[name] for name in ("added", "changed", "expired")}
        files = {file.name: files_fingerprint(file) for file in (changes.news, changes.behaviors) if file}
        sources = {**servable.sources, "refreshed": {"from_version": version.name, **told, "files": files}}
        report(f"writing {servable.name}, and verifying it in a fresh process")
        with ThreadPoolExecutor(1) as pool:
            # The answers are computed while the variables are written to the disk: both run outside Python.
            answers = pool.submit(list, servable.exchanges)
            exchanges = _exchanges(version, answers, fresh.only)
            servable = replace(servable, exchanges=exchanges, sources=sources)
            warmed = list(batch_sizes or contract["batch_sizes"])
            write_version(servable, folder, contract["sources"], warmed, fresh)
        checked = require_passed(verify_version(folder, "new", fresh))
        published = publish(folder)
    evidence = None
    if found := versions(version.parent.with_name(GENERATOR)):
        generator = version.parent.with_name(GENERATOR) / str(evidence_base or found[-1])
        evidence = refresh_evidence(generator, articles, changes.withdraw, report, batch_sizes)
    return Refreshed(published, replace(checked, version=published.name), **new.numbers, evidence=evidence)


def refresh_evidence(
    version: Path,
    articles: Mapping[str, Article],
    withdrawn: Collection[str],
    report: Report,
    batch_sizes: Sequence[int] | None = None,
) -> Path | None:
    """Write the next version of `genre_generator`, with other articles for answers; None if nothing changes.

    Only the evidence of recorded answers is computed again and verified: the texts follow from it and from
    models that do not change, and `generate` does not read it.
    """
    try:
        values = attached_values(version, "evidence")
    except KeyError:
        report(
            f"{version} was exported by an earlier version of genre_tf: export again to renew its evidence"
        )
        return None
    columns = [[text.decode("utf-8") for text in values[name]] for name in ("news_ids", "titles", "texts")]
    before = {news_id: (title, text) for news_id, title, text in zip(*columns, strict=True) if news_id}
    table = ArticleTable(one for one in articles.values() if not one.withdrawn)
    titles, texts = [" ".join(title.split()) for title in table.titles], table.texts
    new = {news_id: (title, text) for news_id, title, text in zip(table.news_ids, titles, texts, strict=True)}
    new.pop(table.news_ids[0])  # the padding article
    gone = {*withdrawn, *(one.news_id for one in articles.values() if one.withdrawn)}
    after = {news_id: row for news_id, row in {**before, **new}.items() if news_id not in gone}
    evidence = Evidence(list(after), *([row[at] for row in after.values()] for at in (0, 1)))
    # Compared afterwards, because an article with a title that another one has is left out.
    kept = ([text.decode("utf-8") for text in part.numpy()] for part in (evidence.news_ids, evidence.texts))
    if list(kept) == [columns[0], columns[2]]:
        return None
    report(f"renewing the evidence of {version}: {len(evidence.news_ids.numpy())} articles")
    contract, only = read_contract(version), ("answer",)
    with staged(version.parent) as folder, fresh_process(known_graph=True, only=only) as fresh:
        copy_graph(version, folder)
        fresh.read_graph(folder)
        write_values(version, folder, "evidence", variable_values(evidence))
        extra = folder / ASSETS_FOLDER
        extra.mkdir()
        shutil.copy(version / ASSETS_FOLDER / WARMUP_FILE, extra)
        fresh.load(folder)
        recorded = read_exchanges(version / ASSETS_FOLDER / PARITY_FILE)
        exchanges = [one if one.signature not in only else _with_evidence(one, evidence) for one in recorded]
        write_exchanges(extra / PARITY_FILE, exchanges)
        fresh.ask(extra / PARITY_FILE)
        sources = {**contract["sources"], "refreshed": {"from_version": version.name}}
        sizes = list(batch_sizes or contract["batch_sizes"])
        write_contract(folder, GENERATOR, contract["sizes"], sizes, sources)
        require_passed(verify_version(folder, "new", fresh))
        return publish(folder)


def _with_evidence(exchange: Exchange, evidence: Evidence) -> Exchange:
    """A recorded answer with the evidence that it must get now; its texts are not compared."""
    questions = tf.strings.strip(clean_text(tf.constant(exchange.inputs["question"].tolist())))
    found = evidence_of(evidence, questions)
    unknown = {name: array.ravel()[:0] for name, array in exchange.outputs.items()}
    known = {"evidence_id": found.news_ids.numpy(), "evidence_title": found.titles.numpy()}
    return replace(exchange, outputs=unknown | known)


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


def _read(version: Path, left_out: Sequence[str]) -> tuple[Any, Catalogue]:
    """The `ServedModels` of a version without some functions, and the articles of its index."""
    try:
        models = load_attached(version, "models", left_out)
        before = read_catalogue(attached_values(version, "index"))
        texts = {one.news_id: one.text for one in read_articles(version)}
        before = replace(before, texts=[texts.get(news_id, "") for news_id in before.news_ids])
    except (OSError, ValueError, tf.errors.OpError) as error:
        said = str(error).splitlines()[0][:200]
        raise InputError(f"{version} cannot be loaded ({said}): export again") from None
    except KeyError:
        raise InputError(f"{version} was exported by an earlier version of genre_tf: export again") from None
    vectors = (before.retrieval_vectors, before.ranking_vectors)
    encoders = [ReadEncoder(models, place, part.shape[1]) for place, part in enumerate(vectors)]
    models.encoders = lambda: encoders
    return models, before


def rules_of(sizes: Mapping[str, Any]) -> Rules:
    """The recommendation rules that a contract describes."""
    return Rules(**{name: value for name, value in sizes.items() if name in vars(Rules())})


class _Next(NamedTuple):
    """The articles of the next version."""

    catalogue: Catalogue
    as_of: datetime | None  # when their counters were taken
    rules: Rules  # with the new age limit
    numbers: dict[str, int]  # those of `Refreshed`


def _changed(
    models: Any,
    before: Catalogue,
    contract: Mapping[str, Any],
    articles: Mapping[str, Article],
    changes: Changes,
    report: Report,
) -> _Next | None:
    """The articles after the changes; None if nothing changes."""
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
    old_rules = rules = rules_of(contract["sizes"])
    if (expire := changes.expire) is not None:
        if as_of is None:
            raise InputError(
                "--expire needs the ages of articles, which come from a log: give --behaviors, or export "
                "with one"
            )
        if isinstance(expire, datetime):
            expire = max(1e-3, (as_of - expire).total_seconds() / 3600)
        rules = replace(old_rules, max_age_hours=expire)
    was_shown = may_be_found(before, old_rules.max_age_hours)
    shown = may_be_found(catalogue, rules.max_age_hours)
    if not shown.any():
        raise InputError(
            f"none of the {len(shown) - 1} articles may be recommended: "
            "give --expire a larger number of hours or an earlier date"
        )
    same = np.array_equal(np.asarray(before.withdrawn), np.asarray(catalogue.withdrawn))
    if not new and log is None and rules == old_rules and same:
        return None
    added = len(shown) - len(was_shown)
    numbers = {
        "added": added,
        "changed": len(new) - added,
        "expired": int((was_shown & ~shown[: len(was_shown)]).sum()),
        "articles": len(shown) - 1,
        "recommendable": int(shown.sum()),
    }
    return _Next(catalogue, as_of, rules, numbers)


def _read_log(
    changes: Changes,
    before: Catalogue,
    articles: Mapping[str, Article],
    counted_to: datetime | None,
    report: Report,
) -> Counters | None:
    """Count the impressions of a log that were not counted up to `counted_to`; None without a log.

    The log may contain the new articles too.
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


def _exchanges(version: Path, new: Future[list[Exchange]], only: Sequence[str]) -> Iterator[Exchange]:
    """The requests for verification; signatures with unchanged answers keep their recorded ones."""
    if only:
        kept = read_exchanges(version / ASSETS_FOLDER / PARITY_FILE)
        yield from (exchange for exchange in kept if exchange.signature not in only)
    yield from new.result()
