"""Where an evaluation is stored: JSON and samples in `reports/`, TensorBoard files in `logs/`."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genre_tf.errors import FailureError
from genre_tf.evaluation.report import save_report
from genre_tf.evaluation.text_samples import log_samples, save_samples
from genre_tf.reporting.board import log_evaluation


def check_place(run: Path) -> None:
    """Check, before minutes of work, that an evaluation can be stored.

    Raises:
        FailureError: `reports/` or `logs/` of the run cannot be written.
    """
    for folder in (run / "reports", run / "logs"):
        try:
            folder.mkdir(exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise FailureError(
                f"{folder} cannot be written ({error.strerror}); make it writable, or copy the run"
            ) from None


def keep_evaluation(report: dict[str, Any], run: Path) -> tuple[dict[str, Any], list[Path]]:
    """Store the result of `evaluate_run`.

    Args:
        report: the report with its samples.
        run: the run folder.

    Returns:
        The report without its samples, and the written files: `evaluation-SPLIT.json`, `samples-SPLIT.json`
        (recommendations and texts for some readers) and, if there are texts, `samples-SPLIT.md`.

    Raises:
        FailureError: a file cannot be written.
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
    """Add texts to an evaluation that measured none, for example texts written by a server.

    Args:
        written: samples in the form of `text_samples.as_markdown`; one that also has the "reader" and
            "recommended" ("title" and "score", best first) is shown on the report's first screen.
        run: a run folder that was evaluated on the split.
        split: name of the split.

    Raises:
        FailureError: the samples cannot be read or written.
    """
    file = samples_file(run, split)
    try:
        samples = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise FailureError(f"{file} cannot be read ({error}); evaluate the run again") from None
    _write(file, {**samples, "written": list(written)})
    save_samples(written, run, split)
    log_samples(written, run, split)


def samples_file(run: Path, split: str) -> Path:
    """Where the samples of a split are stored."""
    return run / "reports" / f"samples-{split}.json"


def _write(file: Path, samples: dict[str, Any]) -> None:
    try:
        file.write_text(json.dumps(samples, indent=1, ensure_ascii=False) + "\n", "utf-8")
    except OSError as error:
        raise FailureError(f"{file} could not be written: {error}") from None
