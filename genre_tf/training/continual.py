"""Training that continues from an earlier run: which settings must match; when new weights are accepted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genre_tf.config import RunConfig, read_config
from genre_tf.data.manifest import COUNTERS_FILE, file_fingerprint, load_manifest
from genre_tf.data.replay import OLDER_FOLDER, PREPARED_FOLDER
from genre_tf.errors import FailureError, InputError
from genre_tf.models.checkpoint import check_trained
from genre_tf.training.progress import FitResult
from genre_tf.training.stage_files import StageFiles

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
        "prefix_tokens",
    ),
}


def start_run(config: RunConfig) -> Path | None:
    """The run that this training continues from, or None."""
    return Path(config.continual.from_run) if config.continual.from_run else None


def check_start(stages: Sequence[str], run: Path, config: RunConfig) -> None:
    """Check that a run can be continued from, before anything is written.

    Args:
        stages: the stages to train.
        run: the new run folder.
        config: its settings; nothing is checked if they name no earlier run.

    Raises:
        InputError: the earlier run is not a run folder, is the new run itself, has an unfinished stage or
        does not match the settings; the message names what differs.
    """
    start = start_run(config)
    if start is None:
        return
    if not (start / "config.toml").is_file():
        raise InputError(f"--from {start} is not a run folder; give one that `genre train` wrote")
    if start.resolve() == run.resolve():
        raise InputError(
            f"--from and --run are both {run}; give a new --run (the earlier run is not changed)"
        )
    differing = _differing(read_config(start / "config.toml"), config)
    if differing:
        raise InputError(
            f"the weights of {start} do not fit these settings: {'; '.join(differing)}. Keep the earlier "
            "settings, or train from the beginning without --from"
        )
    for stage in stages:
        earlier = StageFiles(start, stage, "")
        if not earlier.trained.is_file():
            raise InputError(f"{start} has no trained {stage} stage to continue from; give another --from")
        if earlier.unfinished:
            raise InputError(f"the {stage} stage of {start} is not finished; repeat its own command first")
        if stage != "generation":  # which has another form of files, see `check_generation`
            check_trained(start, stage)


def counters_of_start(config: RunConfig) -> Path | None:
    """The counters at the end of the earlier run's log."""
    start = start_run(config)
    return None if start is None else start / PREPARED_FOLDER / COUNTERS_FILE


def start_fingerprint(run: Path, config: RunConfig, stage: str) -> list[Any]:
    """What a stage takes from the earlier run (weights and examples); nothing if there is no such run."""
    start = start_run(config)
    if start is None:
        return []
    weights = StageFiles(start, stage, "").trained
    return [
        file_fingerprint(weights) if weights.is_file() else None,
        load_manifest(run / OLDER_FOLDER)["outputs"],
    ]


def judge(stage: str, result: FitResult, config: RunConfig) -> None:
    """Refuse weights that have forgotten too much.

    On the new log, the best weights are never worse than the starting weights, which are also candidates. So
    the decision depends on the examples that the earlier run held out.

    Args:
        stage: the trained stage.
        result: its training result.
        config: gives the margin: the allowed drop in AUC, or the relative increase of a perplexity.

    Raises:
        FailureError: the metric is worse by more than the margin, or is NaN.
    """
    before, after = result.older_before, result.older_after
    if before is None or after is None:
        raise ValueError(f"{stage} was not validated on what the earlier run held out")
    relative = result.metric == "perplexity"
    loss = after / before - 1 if relative else before - after
    margin = config.continual.margin
    if not loss <= margin:
        lost, allowed = (f"{x:.1%}" if relative else f"{x:.4f}" for x in (loss, margin))
        raise FailureError(
            f"{stage} is rejected: on what the earlier run held out, {result.metric} went from {before:.4f} "
            f"to {after:.4f}, {lost} worse; --margin allows {allowed}. The run has no {stage} weights now. "
            "Repeat the command with more --replay or a lower --learning-rate, or accept these weights with "
            "a larger --margin"
        )


def _differing(earlier: RunConfig, config: RunConfig) -> list[str]:
    return [
        f"{part}.{name} was {getattr(getattr(earlier, part), name)!r} and is now "
        f"{getattr(getattr(config, part), name)!r}"
        for part, names in _SIZES.items()
        for name in names
        if getattr(getattr(earlier, part), name) != getattr(getattr(config, part), name)
    ]
