"""Export models: write the versions, verify them, publish them, in that order."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from genre_tf.config import WritingConfig, read_config
from genre_tf.contract import RECOMMENDER
from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.counters import Counters
from genre_tf.data.prepared import load_manifest
from genre_tf.errors import InputError
from genre_tf.evaluation.whole_pool import learned_limit
from genre_tf.evaluation.writer_gate import checked_writer, require_quality
from genre_tf.export.contract_file import files_fingerprint
from genre_tf.export.generator import generator_servable
from genre_tf.export.pool import FLAGGED, Pool, build_catalogue, flagged_articles, read_pool
from genre_tf.export.publishing import check_models_path, publish, staged
from genre_tf.export.servables import Servable, recommender_servable, write_version
from genre_tf.export.server_config import warmup_sizes, write_configuration
from genre_tf.export.verification import Verification, require_passed, verify_version
from genre_tf.funnel.index import may_be_found
from genre_tf.funnel.rules import Rules
from genre_tf.funnel.search import PartitionedOptions
from genre_tf.funnel.served_models import ServedModels
from genre_tf.generation.safety import SafetyClassifier, SafetyList, load_classifier, read_safety_list
from genre_tf.models.checkpoint import PREFERENCE, WEIGHTS_FILE, load_ranker, load_two_tower
from genre_tf.models.new_writer import with_writing, writer_of

Report = Callable[[str], None]
STAGES = ("retrieval", "ranking", "generation")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Settings of an export; the last four are only for runs."""

    k: int = 10  # number of recommended articles
    retrieve: int = 300  # number of articles passed to the ranker; some hundreds take it 1 or 2 milliseconds
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32)  # covered by warmup
    rules: Rules = Rules()  # noqa: RUF009  (frozen)
    partitioned: PartitionedOptions | None = None  # None: exact search, fast enough for a million articles
    generator: bool = True  # also export the writer, if there is one
    tpu: bool = False  # the generator's decoding has fixed shapes, which XLA can compile
    learn_age_limit: bool = True  # from the newest clicks of the run's log, instead of `rules.max_age_hours`
    max_bad_rows: int = 0
    safety_list: Path | None = None  # file of words and patterns that replace the default list
    allow_poor_writer: bool = False  # do not measure whether the writer is good enough
    show_unsafe: bool = False  # whether unsafe texts are served, marked; otherwise "" is

    def __post_init__(self) -> None:
        if self.k < 1 or self.retrieve < self.k:
            raise InputError(
                f"k must be at least 1 and retrieve at least k; got k {self.k} and retrieve {self.retrieve}"
            )


def write_models(
    folder: str | Path,
    *,
    two_tower: Any,
    ranker: Any,
    articles: Sequence[Article],
    writer: Any = None,
    counters: Counters | None = None,
    options: ExportOptions = ExportOptions(),
    report: Report = lambda line: None,
) -> list[Path]:
    """Write models in memory as the next versions of `genre_recommender` and `genre_generator`.

    Each is published whole or not at all, once it has answered recorded requests in a fresh process as these
    models do. The configuration files of TensorFlow Serving are written beside them, or kept.

    Args:
        folder: MODELS; created if missing.
        two_tower: a `TwoTower`: has `news`, `user_vector`, `query` and `moment_bias`.
        ranker: a `Ranker`: has `news`, `attention`, `click_logits`, `pool_logits` and `max_history`.
        articles: the articles that may be recommended, such as those of a `ClickLog`.
        writer: a `Writer`; None: only the recommender is written.
        counters: what readers saw and clicked, counted over a log; None: no article has counters, so that
            neither popularity nor age matters.
        options: settings of the export.
        report: called with each line of progress.

    Returns:
        The published folders, such as MODELS/genre_recommender/1.

    Raises:
        InputError: there is no article, the models do not fit each other, or the folder cannot be written. No
            files are left behind.
        FailureError: a written version did not pass verification; nothing was published.

    Example:
        >>> news = genre_tf.models.NewsEncoder.from_preset("tiny")
        >>> towers, ranker = genre_tf.models.TwoTower(news), genre_tf.models.Ranker(news)
        >>> articles = genre_tf.data.read_mind(mind, split="train").articles
        >>> versions = genre_tf.export.write_models(
        ...     folder / "models", two_tower=towers, ranker=ranker, articles=articles
        ... )
        >>> [f"{version.parent.name}/{version.name}" for version in versions]
        ['genre_recommender/1']
    """
    models = Path(folder)
    sizes = warmup_sizes(models) or options.batch_sizes  # perhaps edited by hand
    options = replace(options, batch_sizes=sizes)
    pool = Pool.of(ArticleTable(articles), counters or Counters())
    published = publish_models(models, _Source(two_tower, ranker, writer, pool, options), report)
    write_configuration(models, [version.parent.name for version, _ in published], sizes[-1])
    return [version for version, _ in published]


@dataclass(frozen=True)
class _Source:
    """Everything that versions are made from."""

    two_tower: Any  # this and the next two as for `write_models`
    ranker: Any
    writer: Any
    pool: Pool  # the articles with their counters
    options: ExportOptions
    writing: WritingConfig = WritingConfig()  # noqa: RUF009  (frozen)
    safety: SafetyList = SafetyList()  # noqa: RUF009  (frozen)
    classifier: SafetyClassifier | None = None  # finds unsafe texts from the ranker's vectors
    sources: Mapping[str, Any] | None = None  # JSON values for the contract: what the models were made from


def export_run(
    run: Path, models: Path, data: Sequence[Path], options: ExportOptions, report: Report
) -> list[tuple[Path, Verification]]:
    """Export the models of a run: the recommender, and the generator if there is one, see `writer_of`.

    The articles are those of the data sets, or, without data, those of the run. If anything is wrong, nothing
    is published, and no files are left behind.
    """
    if not run.is_dir():
        raise InputError(f"no run folder {run}: give one that `genre train` wrote")
    _check_folder(models)
    config = with_writing(run, read_config(run / "config.toml"))
    # Read before minutes of work, because a wrong list stops the export.
    safety = read_safety_list(options.safety_list) if options.safety_list else SafetyList()
    two_tower = load_two_tower(run)
    ranker = load_ranker(run, shared=two_tower.news)
    pool = read_pool(run, data, options.max_bad_rows, report)
    if options.learn_age_limit and pool.as_of is not None:
        options = replace(options, rules=replace(options.rules, max_age_hours=learned_limit(run)))
    writer = writer_of(run, config, pool.table, report) if options.generator else None
    if writer is None:
        report("only the recommender is exported")
    elif not options.allow_poor_writer:
        checked = checked_writer(run, config, writer, lambda: two_tower.news, report)
        if checked is not None:
            for line in checked.lines():
                report(line)
            require_quality(run, checked)
    source = _Source(
        two_tower,
        ranker,
        writer,
        pool,
        options,
        config.generation.writing,
        safety,
        load_classifier(run, run / "ranking" / WEIGHTS_FILE),
        _sources(run, data),
    )
    return publish_models(models, source, report)


def publish_models(models: Path, source: _Source, report: Report) -> list[tuple[Path, Verification]]:
    """Write, verify and publish the servables; `write_models` and `export_run` say from what."""
    if len(source.pool.table) == 1:
        raise InputError("there is no article to recommend: give at least one")
    _check_folder(models)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # One servable is verified in its own process while the next one is being written.
        verifier = stack.enter_context(ThreadPoolExecutor(1))
        written = []
        for servable in _servables(source, scratch, report):
            report(f"writing {servable.name}")
            folder = stack.enter_context(staged(models / servable.name))
            write_version(servable, folder, dict(source.sources or {}), source.options.batch_sizes)
            report(f"verifying {servable.name} in a fresh process")
            written.append((folder, verifier.submit(verify_version, folder, "new")))
        verified = [(folder, require_passed(verification.result())) for folder, verification in written]
        published = [(publish(folder), checked) for folder, checked in verified]
    return [(version, replace(checked, version=version.name)) for version, checked in published]


def _check_folder(models: Path) -> None:
    """Refuse a folder that cannot be written before the work, which takes minutes."""
    check_models_path(models)
    with staged(models / RECOMMENDER):
        pass


def _servables(source: _Source, scratch: Path, report: Report) -> Iterator[Servable]:
    pool, options = source.pool, source.options
    report(f"encoding {len(pool.table) - 1} articles")
    models = ServedModels(source.two_tower, source.ranker)
    catalogue = build_catalogue(models, pool.table, pool.counters)
    limit = options.rules.max_age_hours
    shown = may_be_found(catalogue, limit)
    age = "of any age" if limit is None else f"up to {limit:g} hours old, or still clicked (--max-age-hours)"
    report(f"{shown.sum()} of {len(pool.table) - 1} articles may be recommended: {age}")
    flagged = flagged_articles(catalogue, shown)
    if flagged:
        example = catalogue.titles[catalogue.news_ids.index(flagged[0])]
        report(
            f"{len(flagged)} of their titles may be unsafe, such as {flagged[0]} {example!r}: they are "
            f"recommended, and are {FLAGGED} of contract.json; `genre refresh --withdraw` hides articles"
        )
    servable = recommender_servable(
        models,
        catalogue,
        scratch,
        max_history=source.ranker.max_history,
        k=options.k,
        retrieve=options.retrieve,
        rules=options.rules,
        partitioned=options.partitioned,
        as_of=pool.as_of,
    )
    yield replace(servable, sources={**servable.sources, FLAGGED: flagged})
    if source.writer is not None:
        also = ", and this run's classifier" if source.classifier else ""
        report(f"safety: words, patterns and the default classifier{also}")
        yield generator_servable(
            source.writer,
            models,
            catalogue,
            max_history=source.ranker.max_history,
            writing=source.writing,
            safety=source.safety,
            classifier=source.classifier,
            show_unsafe=options.show_unsafe,
            tpu=options.tpu,
        )


def _sources(run: Path, data: Sequence[Path]) -> dict[str, Any]:
    """What a version was made from: settings, fingerprints of data and weights, and metrics."""
    manifest = load_manifest(run / "prepared")
    weights = {stage: run / stage / WEIGHTS_FILE for stage in (*STAGES, PREFERENCE)}
    return {
        "config": asdict(read_config(run / "config.toml")),
        "trained_on": manifest["inputs"],
        # Without their paths: servers and clients read the contract.
        "articles_from": [files_fingerprint(folder) for folder in data] or [manifest["article_table"]],
        "weights": {stage: files_fingerprint(file) for stage, file in weights.items() if file.is_file()},
        "metrics": _metrics(run / "reports"),
    }


def _metrics(reports: Path) -> dict[str, Any]:
    """The run's JSON reports by name; NaN and infinite values become None."""
    found = {}
    for file in sorted(reports.glob("*.json")):
        try:
            found[file.stem] = json.loads(file.read_text("utf-8"), parse_constant=lambda name: None)
        except (OSError, ValueError):
            continue  # an unreadable report is left out; it must not stop an export
    return found
