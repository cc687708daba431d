"""A teacher for the ranker: another run, whose click logits over the training log are computed once."""

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from genre_tf.config import RunConfig, read_config
from genre_tf.data.columns import OfCandidates
from genre_tf.data.manifest import load_manifest
from genre_tf.errors import FailureError, InputError
from genre_tf.evaluation.scoring import RankerScorer
from genre_tf.models.checkpoint import BACKBONE_FOLDER, CACHE_FOLDER, WEIGHTS_FILE, check_trained, load_ranker
from genre_tf.training.continual import start_fingerprint
from genre_tf.training.progress import Report
from genre_tf.training.stage_data import StageData, Tenths, named_articles
from genre_tf.training.stage_files import fingerprint

_ABSENT = "absent"


def teacher_identity(teacher: str) -> str:
    """Identify a teacher by its content, not its path: a hash of its weights, backbone and settings.

    Args:
        teacher: a run folder; "" for none.

    Returns:
        SHA-256 in hexadecimal digits; "" for no teacher, "absent" for a folder without a trained ranker.
    """
    if not teacher:
        return ""
    run = Path(teacher)
    weights = run / "ranking" / WEIGHTS_FILE
    if not weights.is_file():
        return _ABSENT
    config = read_config(run / "config.toml")
    digest = hashlib.sha256()
    digest.update(fingerprint(dataclasses.asdict(config.news), config.data.max_history).encode())
    for file in (weights, *sorted(path for path in (run / BACKBONE_FOLDER).rglob("*") if path.is_file())):
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def check_teacher(config: RunConfig, run: Path) -> None:
    """Check, before any work, that a teacher can be used.

    Raises:
        InputError: it has no trained ranker, is the student itself, or was trained without counters that are
            needed.
    """
    if not config.ranking.teacher:
        return
    teacher = Path(config.ranking.teacher)
    if teacher_identity(config.ranking.teacher) == _ABSENT:
        raise InputError(
            f"the teacher {teacher} has no trained ranker; give the folder of a run that trained one"
        )
    if teacher.resolve() == run.resolve():
        raise InputError(f"{run} cannot be its own teacher; give another --run or another --teacher")
    if config.ranking.counters and not read_config(teacher / "config.toml").ranking.counters:
        raise InputError(
            f"the teacher {teacher} was trained without counters; set ranking.counters = false or give "
            "another teacher"
        )
    check_trained(teacher, "ranking")


def teacher_logits(data: StageData, report: Report) -> OfCandidates:
    """Click logits of the teacher for the training log, cached in the run folder.

    Args:
        data: the training log and the settings that name the teacher.
        report: takes a line of progress.

    Returns:
        For each training example float32 [c, 1 or 2]: without counters, then with counters if they are used.

    Raises:
        InputError: the teacher's files are missing or damaged.
    """
    config, logs = data.config.ranking, load_manifest(data.run / "prepared")["outputs"]
    replayed = start_fingerprint(data.run, data.config, "ranking")
    key = fingerprint(teacher_identity(config.teacher), logs, replayed, config.counters)
    file = data.run / CACHE_FOLDER / f"teacher-{key}.npy"
    if not file.is_file():
        _write(file, _scores(data, report))
    return OfCandidates(np.load(file, allow_pickle=False, mmap_mode="r"), data.train.shown)


def _scores(data: StageData, report: Report) -> npt.NDArray[np.float32]:
    teacher = Path(data.config.ranking.teacher)
    ranker = load_ranker(teacher)
    report(f"computing the click probabilities of the teacher {teacher} (only once)")
    # Under the name that training on this log uses: the teacher's cache then already holds the frozen states.
    named = named_articles(data.table, data.train + data.validation)
    features = ranker.news.features(data.table, teacher / CACHE_FOLDER, Tenths(report), named)
    vectors = ranker.news.embed(features)
    columns = [
        np.concatenate(RankerScorer(ranker, vectors, with_counters)(data.train))
        for with_counters in (False, True)[: 1 + data.config.ranking.counters]
    ]
    return np.stack(columns, axis=-1)


def _write(file: Path, values: npt.NDArray[Any]) -> None:
    """Write the file completely or not at all, under a temporary name that no other process uses."""
    part = file.with_name(f"part-{os.getpid()}-{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(part, values, allow_pickle=False)
        part.replace(file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise FailureError(
            f"{file} cannot be written ({error.strerror or error}); free some space, then repeat the command"
        ) from None
