"""Training that goes on from an earlier run: what must fit, and whether the new weights may take over."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genre_tf.config import RunConfig, read_config
from genre_tf.data.manifest import COUNTERS_FILE, file_fingerprint, load_manifest
from genre_tf.data.replay import OLDER_FOLDER, PREPARED_FOLDER
from genre_tf.errors import FailureError, InputError
from genre_tf.training.progress import FitResult
from genre_tf.training.stage_files import StageFiles

# Settings that decide the shapes of weights, or what their inputs are.
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
    """The run that a training goes on from, or None."""
    return Path(config.continual.from_run) if config.continual.from_run else None


def check_start(stages: Sequence[str], run: Path, config: RunConfig) -> None:
    """See that a run can be gone on from, before anything is written.

    Args:
        stages: to be trained.
        run: the new run folder.
        config: its settings; without an earlier run in them there is nothing to see.

    Raises:
        InputError: the earlier run is none, is the new one, has not finished a stage, or its settings do not
            fit; names what differs.
    """
    start = start_run(config)
    if start is None:
        return
    if not (start / "config.toml").is_file():
        raise InputError(f"--from {start} is no run folder: give one that `genre train` wrote")
    if start.resolve() == run.resolve():
        raise InputError(
            f"--from and --run are both {run}: give a new --run, the earlier one is left as it is"
        )
    differing = _differing(read_config(start / "config.toml"), config)
    if differing:
        raise InputError(
            f"the weights of {start} do not fit these settings: {'; '.join(differing)}. Leave them as they "
            "were, or train from the beginning without --from"
        )
    for stage in stages:
        earlier = StageFiles(start, stage, "")
        if not earlier.trained.is_file():
            raise InputError(f"{start} has no trained {stage} stage to go on from: give another --from")
        if earlier.unfinished:
            raise InputError(
                f"the {stage} stage of {start} is not finished: give its own command again first"
            )


def counters_of_start(config: RunConfig) -> Path | None:
    """The counters as of the end of the earlier run's log."""
    start = start_run(config)
    return None if start is None else start / PREPARED_FOLDER / COUNTERS_FILE


def start_fingerprint(run: Path, config: RunConfig, stage: str) -> list[Any]:
    """What a stage takes from the earlier run: its weights and its examples; nothing without such a run."""
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

    On the new log the best weights are never worse than those they started from, which are among the
    candidates; so the judgement is about what the earlier run held out.

    Args:
        stage: that was trained.
        result: what it came to.
        config: gives the margin: points of an AUC, or the share by which a perplexity may grow.

    Raises:
        FailureError: it fell by more than the margin, or is no number.
    """
    before, after = result.older_before, result.older_after
    if before is None or after is None:
        raise ValueError(f"{stage} was trained without what the earlier run held out")
    relative = result.metric == "perplexity"
    loss = after / before - 1 if relative else before - after
    margin = config.continual.margin
    if not loss <= margin:
        lost, allowed = (f"{x:.1%}" if relative else f"{x:.4f}" for x in (loss, margin))
        raise FailureError(
            f"{stage} is refused: on what the earlier run held out, {result.metric} went from {before:.4f} "
            f"to {after:.4f}, {lost} worse where --margin allows {allowed}. The run has no {stage} weights; "
            "give the same command with more --replay or a lower --learning-rate, or accept these with a "
            "wider --margin"
        )


def _differing(earlier: RunConfig, config: RunConfig) -> list[str]:
    return [
        f"{part}.{name} was {getattr(getattr(earlier, part), name)!r} and is now "
        f"{getattr(getattr(config, part), name)!r}"
        for part, names in _SIZES.items()
        for name in names
        if getattr(getattr(earlier, part), name) != getattr(getattr(config, part), name)
    ]
