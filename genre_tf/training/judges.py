"""Two click models of separate readers: the chooser picks among written texts, the judge tells how well.

A model that chose a text cannot say whether its choice is good. The readers are divided by a hash of their
ids. The chooser learns from the clicks of one half, and may choose texts and train writers; the judge learns
from the other half, with another seed, and does nothing but judge. Both are the ranker of the ranking stage
without counters. The frozen backbone is the only weight that they share.
"""

import zlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from genre_tf.config import RunConfig, read_config
from genre_tf.data.columns import ImpressionColumns
from genre_tf.data.prepared import load_manifest
from genre_tf.errors import InputError
from genre_tf.models.checkpoint import CHOOSER, JUDGE, config_of_half
from genre_tf.training.distribution import Distribution
from genre_tf.training.progress import Report
from genre_tf.training.ranking import ready_ranking
from genre_tf.training.stage_data import StageData, load_stage_data, row_count
from genre_tf.training.stage_files import StageFiles, fingerprint, learned_settings, run_lock


def half_of(user_id: str) -> str:
    """The click model that learns from a reader: `CHOOSER` or `JUDGE`; always the same for an id."""
    return JUDGE if zlib.crc32(user_id.encode("utf-8")) % 2 else CHOOSER


def train_halves(run: Path, report: Report, halves: Sequence[str] = (CHOOSER, JUDGE)) -> None:
    """Train the click models of a run that are missing or were trained on other data or with other settings.

    They are kept in the folders `chooser` and `judge` of the run, and an interrupted training is resumed.

    Raises:
        InputError: the run folder is being trained, or a half of the readers has no clicks.
    """
    config = read_config(run / "config.toml")
    if all(_files(run, config, half).finished() for half in halves):
        return
    with run_lock(run):
        data = load_stage_data(run, config, report)
        for half in halves:
            train_half(data, config, half, report)


def train_half(data: StageData, config: RunConfig, half: str, report: Report) -> None:
    """Train one of the click models of a run whose lock is held, unless it is trained."""
    files = _files(data.run, config, half)
    if files.finished() is not None:
        return
    report(f"training the {half}: the click model of half of the readers")
    settings = config_of_half(config, half)
    training = ready_ranking(readers_of_half(data, half), settings, files, report, Distribution.one())
    training = replace(training, finish=None)  # which is for ranking the whole pool
    files.finish(training.fit(files, report))


def readers_of_half(data: StageData, half: str) -> StageData:
    """The training data of the readers of a half, without examples of an earlier run's validation."""
    parts = []
    for name in ("train", "validation"):
        columns = getattr(data, name)
        part = columns[of_half(columns, half)]
        if not row_count(part, 1):
            raise InputError(
                f"the {half} cannot be trained: the {name} impressions of its half of the readers hold no "
                "click beside another article; use a larger log"
            )
        parts.append(part)
    train, validation = parts
    older = ImpressionColumns([])
    return replace(data, train=train, validation=validation, older=older, unlearned=frozenset(), replayed=0)


def of_half(columns: ImpressionColumns, half: str) -> npt.NDArray[np.bool_]:
    """Which impressions are of readers of a half: bool [n]."""
    users = (user for block in columns.blocks("user_id") for user in block.user_id)
    return np.fromiter((half_of(user) == half for user in users), bool, len(columns))


def _files(run: Path, config: RunConfig, half: str) -> StageFiles:
    settings = config_of_half(config, half)
    learned = learned_settings(settings.ranking)
    logs = load_manifest(run / "prepared")["outputs"]
    shared = (logs, settings.seed, asdict(settings.data), asdict(settings.news))
    return StageFiles(run, half, fingerprint(*shared, learned, half))
