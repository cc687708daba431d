"""Export a run folder: write the versions, verify them, publish them, in that order."""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from genre_tf.config import read_config
from genre_tf.contract import RECOMMENDER
from genre_tf.data.manifest import load_manifest
from genre_tf.errors import InputError
from genre_tf.evaluation.whole_pool import learned_limit
from genre_tf.export.contract import files_fingerprint
from genre_tf.export.generator_servable import generator_servable
from genre_tf.export.pool import build_catalogue, read_pool
from genre_tf.export.publishing import check_models_path, publish, staged
from genre_tf.export.servables import Servable, recommender_servable, write_version
from genre_tf.export.verification import Verification, require_passed, verify_version
from genre_tf.funnel.index import Catalogue, may_be_found
from genre_tf.funnel.partitioned_index import PartitionedOptions
from genre_tf.funnel.selection import Rules
from genre_tf.funnel.served_models import ServedModels
from genre_tf.generation.safety import SafetyList, read_safety_list
from genre_tf.generation.safety_classifier import load_classifier
from genre_tf.models.checkpoint import WEIGHTS_FILE, load_ranker, load_two_tower
from genre_tf.models.generator_checkpoint import load_generator

Report = Callable[[str], None]
STAGES = ("retrieval", "ranking", "generation")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Settings of an export."""

    k: int = 10  # number of recommended articles
    retrieve: int = 300  # number of articles passed to the ranker; some hundreds take it 1 or 2 milliseconds
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32)  # covered by warmup
    rules: Rules = Rules()  # noqa: RUF009  (frozen)
    learn_age_limit: bool = True  # from the newest clicks of the run's log, instead of `rules.max_age_hours`
    partitioned: PartitionedOptions | None = None  # None: exact search, fast enough for a million articles
    max_bad_rows: int = 0
    safety_list: Path | None = None  # file of words and patterns that replace the default list

    def __post_init__(self) -> None:
        if self.k < 1 or self.retrieve < self.k:
            raise InputError(
                f"k must be at least 1 and retrieve at least k; got k {self.k} and retrieve {self.retrieve}"
            )


def export_run(
    run: Path, models: Path, data: Sequence[Path], options: ExportOptions, report: Report
) -> list[tuple[Path, Verification]]:
    """Export the trained models of a run: the recommender, and the generator if there is one.

    Args:
        run: run folder with trained retrieval and ranking.
        models: MODELS; `genre_recommender/VERSION` and `genre_generator/VERSION` are written in it.
        data: data sets whose articles are indexed; if empty, the articles of the run.
        options: settings of the export.
        report: called with each line of progress.

    Returns:
        The published versions and their verifications.

    Raises:
        InputError: the run is incomplete, the data are wrong, or the folder cannot be written. No files are
            left behind.
        FailureError: a written version did not pass verification; nothing was published.
    """
    check_models_path(models)
    if not run.is_dir():
        raise InputError(f"no run folder {run}: give one that `genre train` wrote")
    with staged(models / RECOMMENDER):
        pass  # refuses a folder that cannot be written before the work, which takes minutes
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # One servable is verified in its own process while the next one is being written.
        verifier = stack.enter_context(ThreadPoolExecutor(1))
        written = []
        for servable in _servables(run, data, options, scratch, report):
            report(f"writing {servable.name}")
            folder = stack.enter_context(staged(models / servable.name))
            write_version(servable, folder, _sources(run, data), options.batch_sizes)
            report(f"verifying {servable.name} in a fresh process")
            written.append((folder, verifier.submit(verify_version, folder, "new")))
        verified = [(folder, require_passed(verification.result())) for folder, verification in written]
        published = [(publish(folder), checked) for folder, checked in verified]
    return [(version, replace(checked, version=version.name)) for version, checked in published]


def _servables(
    run: Path, data: Sequence[Path], options: ExportOptions, scratch: Path, report: Report
) -> Iterator[Servable]:
    config = read_config(run / "config.toml")
    # Read before minutes of work, because a wrong list stops the export.
    safety = read_safety_list(options.safety_list) if options.safety_list else SafetyList()
    two_tower = load_two_tower(run)
    ranker = load_ranker(run, shared=two_tower.news)
    classifier = load_classifier(run, run / "ranking" / WEIGHTS_FILE)
    has_generator = (run / "generation" / WEIGHTS_FILE).is_file()
    trained = load_generator(run) if has_generator else None
    pool = read_pool(run, data, options.max_bad_rows, report)
    report(f"encoding {len(pool.table) - 1} articles")
    catalogue = build_catalogue(ServedModels(two_tower, ranker), pool.table, pool.counters)
    history = config.data.max_history
    rules = options.rules
    if options.learn_age_limit and pool.as_of is not None:
        rules = replace(rules, max_age_hours=learned_limit(run))
    report(_pool_line(catalogue, rules))
    yield recommender_servable(
        two_tower,
        ranker,
        catalogue,
        scratch,
        max_history=history,
        k=options.k,
        retrieve=options.retrieve,
        rules=rules,
        partitioned=options.partitioned,
        as_of=pool.as_of,
    )
    if trained is None:
        report(f"{run} has no trained generation stage: only the recommender is exported")
    else:
        report(f"safety: words and patterns{', and the trained classifier' if classifier else ' only'}")
        yield generator_servable(
            trained,
            two_tower,
            ranker,
            catalogue,
            max_history=history,
            writing=config.generation.writing,
            safety=safety,
            classifier=classifier,
        )


def _pool_line(catalogue: Catalogue, rules: Rules) -> str:
    shown = int(may_be_found(catalogue, rules.max_age_hours).sum())
    limit = (
        "of any age"
        if rules.max_age_hours is None
        else f"up to {rules.max_age_hours:g} hours old, or still clicked (--max-age-hours)"
    )
    return f"{shown} of {len(catalogue.news_ids) - 1} articles may be recommended: {limit}"


def _sources(run: Path, data: Sequence[Path]) -> dict[str, Any]:
    """What a version was made from: settings, fingerprints of data and weights, and metrics."""
    manifest = load_manifest(run / "prepared")
    weights = {stage: run / stage / WEIGHTS_FILE for stage in STAGES}
    return {
        "config": asdict(read_config(run / "config.toml")),
        "trained_on": manifest["inputs"],
        "articles_from": {name: files_fingerprint(folder) for name, folder in _told_apart(data).items()}
        or {"prepared": manifest["article_table"]},
        "weights": {stage: files_fingerprint(file) for stage, file in weights.items() if file.is_file()},
        "metrics": _metrics(run / "reports"),
    }


def _told_apart(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders by the shortest ends of their paths that distinguish them: `mon/mind`, `tue/mind`.

    Complete paths are not used: servers and clients read the contract, and they must not see the folders of
    the exporting machine.
    """
    found = list(dict.fromkeys(folder.resolve() for folder in folders))
    for length in range(1, max((len(folder.parts) for folder in found), default=0) + 1):
        named = {"/".join(folder.parts[-length:]): folder for folder in found}
        if len(named) == len(found):
            return named
    return {}


def _metrics(reports: Path) -> dict[str, Any]:
    """The run's JSON reports by name; NaN and infinite values become None."""
    found = {}
    for file in sorted(reports.glob("*.json")):
        try:
            found[file.stem] = json.loads(file.read_text("utf-8"), parse_constant=lambda name: None)
        except (OSError, ValueError):
            continue  # an unreadable report is left out; it must not stop an export
    return found
