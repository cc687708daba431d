"""MIND's submission file: the rank of every candidate of every impression."""

import os
from collections.abc import Iterator
from pathlib import Path

from genre_tf.errors import InputError
from genre_tf.evaluation.ranking import rank_scores
from genre_tf.evaluation.scored_log import ScoredLog
from genre_tf.evaluation.scoring import Scorer, score_blocks


def check_output(file: Path) -> None:
    """Check that a file can be written, before the models are loaded.

    Raises:
        InputError: its folder does not exist, or the path is a folder.
    """
    if file.is_dir():
        raise InputError(f"--out {file} is a folder; name a file in it, such as {file / 'prediction.txt'}")
    if not file.absolute().parent.is_dir():
        raise InputError(f"--out {file}: there is no folder {file.absolute().parent}; create it first")


def write_predictions(file: Path, log: ScoredLog, scorer: Scorer) -> int:
    """Write `ImpressionID [rank,rank,…]`, one line per impression, in the order of the log.

    Args:
        file: replaced once everything is written; unchanged if anything fails.
        log: the impressions.
        scorer: gives the scores.

    Returns:
        Number of impressions written.

    Raises:
        InputError: the file cannot be written.
    """
    check_output(file)
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with unfinished.open("w", encoding="utf-8", newline="\n") as out:
            for line in _lines(log, scorer):
                out.write(line)
        unfinished.replace(file)
    except OSError as error:
        raise InputError(f"--out {file} cannot be written: {error}") from None
    finally:
        unfinished.unlink(missing_ok=True)
    return len(log.split.impressions)


def _lines(log: ScoredLog, scorer: Scorer) -> Iterator[str]:
    impressions = iter(log.split.impressions)
    for block in score_blocks(log, scorer):
        for scores in block:
            ranks = ",".join(map(str, rank_scores(scores).tolist()))
            yield f"{next(impressions).impression_id} [{ranks}]\n"
