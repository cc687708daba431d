"""Where an evaluation is stored: JSON and samples in `reports/`, TensorBoard files in `logs/`."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genre_tf.errors import FailureError
from genre_tf.evaluation.personalisation import as_markdown
from genre_tf.files import whole_file
from genre_tf.reporting.board import log_evaluation, log_samples

_MOST_PICTURE_BYTES = 4_000_000


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
    files = [run / "reports" / f"evaluation-{split}.json", samples_file(run, split)]
    _write(files[0], json.dumps(numbers, indent=2, allow_nan=False))
    files += _keep_samples({"recommended": recommended, "written": written}, run, split)
    log_evaluation(numbers, run, written, recommended, latency_picture(run))
    return numbers, files


def keep_written(written: Sequence[dict[str, Any]], run: Path, split: str) -> None:
    """Add texts to an evaluation that measured none, for example texts written by a server.

    Args:
        written: samples in the form of `personalisation.as_markdown`; one that also has the "reader" and
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
    _keep_samples({**samples, "written": list(written)}, run, split)
    log_samples(written, run, split)


def samples_file(run: Path, split: str) -> Path:
    """Where the samples of a split are stored."""
    return run / "reports" / f"samples-{split}.json"


def latency_picture(run: Path) -> bytes | None:
    """Read the figure that `genre bench serve --picture RUN/reports/latency.png` drew.

    Args:
        run: the run folder.

    Returns:
        A PNG file, or None if there is none, or if it is not a PNG or is too large to be ours.
    """
    file = run / "reports" / "latency.png"
    if not file.is_file() or file.stat().st_size > _MOST_PICTURE_BYTES:
        return None
    content = file.read_bytes()
    return content if content.startswith(b"\x89PNG\r\n\x1a\n") else None


def _keep_samples(samples: Mapping[str, Any], run: Path, split: str) -> list[Path]:
    """Write `samples-SPLIT.json`, and the texts in it also as Markdown; returns the latter's file, if any."""
    _write(samples_file(run, split), json.dumps(samples, indent=1, ensure_ascii=False))
    if not samples["written"]:
        return []
    file = samples_file(run, split).with_suffix(".md")
    _write(file, "\n\n".join([f"# Written for readers of {split}", *map(as_markdown, samples["written"])]))
    return [file]


def _write(file: Path, text: str) -> None:
    with whole_file(file) as part:
        part.write_text(text + "\n", "utf-8")
