"""Where an evaluation is kept: JSON and samples in `reports/`, everything to look at in `logs/`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genre_tf.errors import FailureError
from genre_tf.evaluation.report import save_report
from genre_tf.evaluation.text_samples import log_samples, save_samples
from genre_tf.reporting.board import log_evaluation


def keep_evaluation(report: dict[str, Any], run: Path) -> tuple[dict[str, Any], list[Path]]:
    """Keep what `evaluate_run` gave.

    Args:
        report: with its samples.
        run: the run folder.

    Returns:
        The report without its samples, and the files written: `evaluation-SPLIT.json`, `samples-SPLIT.json`
        (what was recommended and written for some readers) and, where texts were, `samples-SPLIT.md`.

    Raises:
        FailureError: one cannot be written.
    """
    numbers = dict(report)
    written, recommended = numbers.pop("samples", []), numbers.pop("recommended", [])
    split = report["split"]
    files = [save_report(numbers, run), samples_file(run, split)]
    _write(files[1], {"recommended": recommended, "written": written})
    if written:
        files.append(save_samples(written, run, split))
    log_evaluation(numbers, run, written, recommended)
    return numbers, files


def keep_written(written: Sequence[dict[str, Any]], run: Path, split: str) -> None:
    """Add texts to an evaluation that measured none, as those that a server wrote.

    Args:
        written: as `text_samples.as_markdown` takes them.
        run: the run folder, evaluated on the split.
        split: name of the split.

    Raises:
        FailureError: the samples cannot be read or written.
    """
    file = samples_file(run, split)
    try:
        samples = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise FailureError(f"{file} cannot be read ({error}): evaluate the run again") from None
    _write(file, {**samples, "written": list(written)})
    save_samples(written, run, split)
    log_samples(written, run, split)


def samples_file(run: Path, split: str) -> Path:
    """Where the samples of a split are kept."""
    return run / "reports" / f"samples-{split}.json"


def _write(file: Path, samples: dict[str, Any]) -> None:
    try:
        file.write_text(json.dumps(samples, indent=1, ensure_ascii=False) + "\n", "utf-8")
    except OSError as error:
        raise FailureError(f"{file} could not be written: {error}") from None
