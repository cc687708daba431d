"""A run folder: created once with all settings, extended by later stages."""

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path

from genre_tf.backbones.bert import load_bert
from genre_tf.backbones.trainable import parse_trainable
from genre_tf.config import RunConfig, optimizer_of, read_config, with_optimizer, write_config
from genre_tf.data.mind import first_titles
from genre_tf.data.prepared import MANIFEST_FILE, load_manifest, read_articles
from genre_tf.data.preparing import prepare, write_older
from genre_tf.errors import FailureError, InputError
from genre_tf.models.checkpoint import (
    BACKBONE_FOLDER,
    check_trained,
    copy_backbone,
    save_backbone,
    writer_folder,
)
from genre_tf.models.new_writer import check_generation, resolved_writer
from genre_tf.models.news_encoder import Categories, check_encoder
from genre_tf.training.distribution import Distribution
from genre_tf.training.generation import ready_generation
from genre_tf.training.loop import Training
from genre_tf.training.observers import Observers
from genre_tf.training.preference import ready_preference
from genre_tf.training.progress import Estimate, FitResult, Report, duration
from genre_tf.training.ranking import check_teacher, ready_ranking, teacher_identity
from genre_tf.training.retrieval import ready_retrieval
from genre_tf.training.stage_data import StageData, load_stage_data
from genre_tf.training.stage_files import (
    StageFiles,
    counters_of_start,
    fingerprint,
    learned_settings,
    run_lock,
    start_fingerprint,
    start_run,
)

STAGES: dict[str, Callable[..., Training]] = {
    "retrieval": ready_retrieval,
    "ranking": ready_ranking,
    "generation": ready_generation,
    "preference": ready_preference,
}
"""What gets each stage ready: `(data, config, files, report, devices) -> Training`."""

USUAL = ("retrieval", "ranking", "generation")
"""The stages of `genre train all`."""

_AGAIN = "again.json"  # exists while a training with --again is unfinished
_FEW_STEPS = 20  # over before they could be timed
# Settings that determine the shapes or the inputs of weights.
_SIZES = {
    "data": ("max_history",),
    "news": (
        "backbone",
        "trainable",
        "max_title_tokens",
        "use_abstract",
        "use_category",
        "category_dimension",
        "interest_dimension",
    ),
    "retrieval": ("heads", "dimension", "view_counters"),
    "ranking": ("counters",),
    "generation": (
        "backbone",
        "trainable",
        "vocabulary_size",
        "layers",
        "heads",
        "hidden",
        "max_tokens",
    ),
}


def train(
    stages: Collection[str],
    data: Path,
    run: Path,
    config: RunConfig,
    report: Report,
    distribution: Distribution | None = None,
    again: bool = False,
    observers: Observers = Observers(),  # noqa: B008  (frozen)
    *,
    estimate: bool = False,
) -> dict[str, FitResult]:
    """Train stages into a run folder; a new run folder is prepared first.

    A stage that was already trained with the same data and settings is kept, and an interrupted one is
    resumed: repeating the same command finishes its work.

    Args:
        stages: some of `STAGES`, trained in that order.
        data: a data set with a labelled `train` split.
        run: the run folder; a new one, or one made with the same data, settings and earlier run.
        config: all settings.
        report: takes a line of progress.
        distribution: where to train; None: on one device.
        again: train again from the start, even if already trained.
        observers: further observers of the trainings.
        estimate: first time a few steps of each stage, and report what the training will take.

    Returns:
        The result of each training; also in `run/reports/training-STAGE.json`.

    Raises:
        InputError: wrong data or settings; the run folder was made with others or is in use; the earlier run
            does not match, or the log is not later than its own.
        FailureError: a file cannot be written, a loss became NaN, or weights that continue from an earlier
            run have forgotten too much.
        StoppedError: SIGTERM or Ctrl-C was received, and the state was saved.
    """
    if "generation" in stages:
        config = with_writer(data, config, report)
    check_stages(stages, run, config)
    with run_lock(run):
        open_run(run, data, config, report)
        config = with_trained(run, stages, config, report)
        write_config(config, run / "config.toml")
        made_from = stage_fingerprints(run, config)
        start = start_run(config)
        chosen = [
            # Preference learning begins with the run's own writer, whatever that continues.
            StageFiles(run, name, made_from[name], None if name == "preference" else start, observers)
            for name in STAGES
            if name in stages
        ]
        # After an interruption the same command resumes the new training.
        begun = json.dumps({files.stage: files.made_from for files in chosen})
        if again and not ((run / _AGAIN).is_file() and (run / _AGAIN).read_text("utf-8") == begun):
            for files in chosen:
                files.forget()
            (run / _AGAIN).write_text(begun, "utf-8")
        devices = distribution or Distribution.one()
        results = _train_stages(chosen, run, config, report, devices, estimate)
        (run / _AGAIN).unlink(missing_ok=True)
        return results


def with_writer(data: Path, config: RunConfig, report: Report) -> RunConfig:
    """The settings with the writer that "auto" stands for: the earlier run's, or what suits the log."""
    settings, start = config.generation, start_run(config)
    if start is not None and settings.backbone == "auto" and (start / "config.toml").is_file():
        earlier = read_config(start / "config.toml").generation
        settings = dataclasses.replace(settings, backbone=earlier.backbone, trainable=earlier.trainable)
    titles = first_titles(data, "train") if settings.backbone == "auto" else ()
    return dataclasses.replace(config, generation=resolved_writer(settings, titles, report))


def with_trained(run: Path, stages: Collection[str], config: RunConfig, report: Report) -> RunConfig:
    """The settings, except that trained stages which are not trained now keep theirs.

    Settings for one stage say nothing about the others, whose weights fit their own settings.
    """
    earlier, kept = read_config(run / "config.toml"), {}
    for stage in STAGES:
        settings = getattr(earlier, stage)
        trained = StageFiles(run, stage, "").trained.is_file()
        if stage not in stages and trained and settings != getattr(config, stage):
            report(f"{stage} is already trained and not part of this command; it keeps its settings")
            kept[stage] = settings
    return dataclasses.replace(config, **kept)


def check_stages(stages: Collection[str], run: Path, config: RunConfig) -> None:
    """Read all that the stages name, such as a teacher or a writer's backbone, before any work.

    Raises:
        InputError: one of them cannot be used.
    """
    start = start_run(config)
    if start is not None:
        _check_start(start, stages, run, config)
    if "ranking" in stages:
        check_teacher(config, run)
    if "generation" in stages:
        check_generation(config.generation, start)
    if "preference" in stages:
        for stage in USUAL:
            if stage not in stages and not StageFiles(run, stage, "").trained.is_file():
                raise InputError(
                    f"{run} has no trained {stage} stage, which preference learning needs; run "
                    f"'genre train {stage} --run {run}' or 'genre train all'"
                )


def _check_start(start: Path, stages: Collection[str], run: Path, config: RunConfig) -> None:
    """Check that an earlier run can be continued from, before anything is written."""
    if not (start / "config.toml").is_file():
        raise InputError(f"--from {start} is not a run folder; give one that `genre train` wrote")
    if start.resolve() == run.resolve():
        raise InputError(
            f"--from and --run are both {run}; give a new --run (the earlier run is not changed)"
        )
    before = read_config(start / "config.toml")
    differing = []
    for part, names in _SIZES.items():
        for name in names:
            was, now = (getattr(getattr(each, part), name) for each in (before, config))
            if was != now:
                differing.append(f"{part}.{name} was {was!r} and is now {now!r}")
    if differing:
        raise InputError(
            f"the weights of {start} do not fit these settings: {'; '.join(differing)}. Keep the earlier "
            "settings, or train from the beginning without --from"
        )
    for stage in (stage for stage in stages if stage != "preference"):
        earlier = StageFiles(start, stage, "")
        if not earlier.trained.is_file():
            raise InputError(f"{start} has no trained {stage} stage to continue from; give another --from")
        if earlier.unfinished:
            raise InputError(f"the {stage} stage of {start} is not finished; repeat its own command first")
        if stage != "generation":  # which has another form of files, see `check_generation`
            check_trained(start, stage)


def _train_stages(
    chosen: Sequence[StageFiles],
    run: Path,
    config: RunConfig,
    report: Report,
    devices: Distribution,
    estimate: bool,
) -> dict[str, FitResult]:
    results = {}
    data: StageData | None = None
    for place, files in enumerate(chosen):
        found = files.finished()
        if found is not None and files.stage == "preference" and writer_folder(run) != files.folder:
            report("preference began with another writer than the run has now; it is learned again")
            files.forget()
        elif found is not None:
            report(f"{files.stage} is trained with this data and these settings; kept (--again trains again)")
            results[files.stage] = found
            continue
        if data is None:
            data = load_stage_data(run, config, report)
            if estimate:
                to_train = [each for each in chosen[place:] if each.finished() is None]
                foretell(to_train, data, config, report, devices)
        report(f"training {files.stage}")
        result = STAGES[files.stage](data, config, files, report, devices).fit(files, report)
        if files.start is not None:
            try:
                judge(files.stage, result, config)
            except FailureError:
                files.refuse(result)
                raise
        files.finish(result)
        results[files.stage] = result
    return results


class RejectedError(FailureError):
    """Weights that continue from an earlier run have forgotten too much."""


def judge(stage: str, result: FitResult, config: RunConfig) -> None:
    """Refuse weights that have forgotten too much.

    On the new log, the best weights are never worse than the starting weights, which are also candidates. So
    the decision depends on the examples that the earlier run held out.

    Raises:
        RejectedError: the metric is NaN, or worse by more than the margin: a drop in AUC, or the relative
            increase of a perplexity.
    """
    before, after = result.older_before, result.older_after
    if before is None or after is None:
        raise ValueError(f"{stage} was not validated on what the earlier run held out")
    relative = result.metric == "perplexity"
    loss = after / before - 1 if relative else before - after
    margin = config.continual.margin
    if not loss <= margin:
        lost, allowed = (f"{x:.1%}" if relative else f"{x:.4f}" for x in (loss, margin))
        raise RejectedError(
            f"{stage} is rejected: on what the earlier run held out, {result.metric} went from {before:.4f} "
            f"to {after:.4f}, {lost} worse; --margin allows {allowed}. The run has no {stage} weights now. "
            "Repeat the command with more --replay or a lower --learning-rate, or accept these weights with "
            "a larger --margin"
        )


def foretell(
    stages: Sequence[StageFiles], data: StageData, config: RunConfig, report: Report, devices: Distribution
) -> list[Estimate]:
    """Time a few steps of each stage on new weights that are then dropped, and report what each will take.

    No estimates are made for a single stage, which reports its own soon enough; for a few steps of each; for
    a training that is resumed; and where compiling the steps twice is expensive.
    """
    steps = [optimizer_of(getattr(config, files.stage)).steps for files in stages]
    few = all(0 < count <= _FEW_STEPS for count in steps)
    if len(stages) < 2 or few or devices.slow_to_start or stages[0].resumable:
        return []
    report("timing a few steps of each stage, to see what the training will take")
    # Without a teacher, who would score the whole log only for this.
    config = dataclasses.replace(config, ranking=dataclasses.replace(config.ranking, teacher=""))
    estimates = []
    for files in stages:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as scratch:
            files = dataclasses.replace(files, run=Path(scratch))
            training = STAGES[files.stage](data, config, files, lambda line: None, devices)
            estimates.append(training.rehearse(began))
        report(f"  {files.stage:10}  {estimates[-1]}")
    whole = duration(sum(each.seconds for each in estimates))
    report(f"about {whole} in all, less where a stage stops improving")
    return estimates


def stage_fingerprints(run: Path, config: RunConfig) -> dict[str, str]:
    """Fingerprint of everything that determines each stage."""
    shared = (
        load_manifest(run / "prepared")["outputs"],
        config.seed,
        asdict(config.data),
        asdict(config.news),
    )
    # A teacher is identified by its content, not its path.
    ranking = dataclasses.replace(config.ranking, teacher=teacher_identity(config.ranking.teacher))
    known = dataclasses.replace(config, ranking=ranking)
    own = {
        stage: fingerprint(
            shared, learned_settings(getattr(known, stage)), *start_fingerprint(run, config, stage)
        )
        for stage in STAGES
    }
    # The ranker's pool head depends on what the towers retrieve, and preferences on the writer that has them.
    depends_on = {"ranking": "retrieval", "preference": "generation"}
    return own | {stage: fingerprint(own[stage], own[other]) for stage, other in depends_on.items()}


def open_run(run: Path, data: Path, config: RunConfig, report: Report) -> None:
    """Create the folder, or check that an existing one has the same settings where all stages depend on them.

    The settings of an existing folder do not change here: only `train` writes new ones. They are written
    last: a folder without settings belongs to a failed attempt, and is created again.
    """
    file, start = run / "config.toml", start_run(config)
    new = not file.is_file()
    if not new:
        earlier = read_config(file)
        if (earlier.data, earlier.news) != (config.data, config.news):
            raise InputError(
                f"{run} was made with other data or news settings (see {file}); give another --run or "
                "the same settings"
            )
        if start_run(earlier) != start:
            raise InputError(
                f"{run} continues from {start_run(earlier) or 'no other run'}, but --from is "
                f"{start or 'not given'}; give another --run"
            )
    parse_trainable(config.news.trainable)
    bert = None
    if start is None and (new or not (run / BACKBONE_FOLDER).is_dir()):
        # Read before anything is written, so that wrong settings never enter the run.
        bert = load_bert(config.news.backbone)
        check_encoder(bert, config.news.trainable, config.news.max_title_tokens, config.news.precision)
    _prepare(run, data, config, report, overwrite=new)
    if start is not None:
        write_older(run, start, config.continual.replay_share, config.seed)
    if bert is not None:
        table = read_articles(run / "prepared")
        save_backbone(bert, Categories.of(table.categories, table.subcategories), run)
    elif start is not None and (new or not (run / BACKBONE_FOLDER).is_dir()):
        copy_backbone(start, run)
    if new:
        write_config(config, file)


def _prepare(run: Path, data: Path, config: RunConfig, report: Report, *, overwrite: bool) -> None:
    settings = config.data
    done = prepare(
        data,
        run / "prepared",
        max_history=settings.max_history,
        validation_share=settings.validation_share,
        max_bad_rows=settings.max_bad_rows,
        overwrite=overwrite,
        signals=settings.signals,
        counters_from=counters_of_start(config),
    )
    report(f"{run / 'prepared'} {'written' if done.written else 'is up to date'}")
    if skipped := done.manifest["bad_rows"]:
        first = done.manifest["faults"][0]
        place = f"{first['file']}:{first['line']}: {first['field']}"
        report(
            f"bad rows skipped: {skipped}; first: {place}: {first['message']} "
            f"(listed in {run / 'prepared' / MANIFEST_FILE})"
        )


def with_steps(config: RunConfig, steps: int) -> RunConfig:
    """The settings with every stage limited to `steps` steps."""
    limited = {stage: with_optimizer(getattr(config, stage), {"steps": steps}) for stage in STAGES}
    return dataclasses.replace(config, **limited)
