"""The report of an evaluation: a JSON document for programs, tables for people, scalars for TensorBoard."""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from genre_tf.errors import FailureError
from genre_tf.evaluation.pool_tables import pool_tables
from genre_tf.evaluation.ranking import METRICS, mean_metrics
from genre_tf.evaluation.significance import mean_interval, paired_bootstrap
from genre_tf.evaluation.tables import percent, plain_table

Measured = Mapping[str, Mapping[str, npt.NDArray[np.float64]]]
"""Per scorer, per metric, float64 [impressions]."""

_SHORT_HEADINGS = MappingProxyType(
    {"share_above": "above", "share_above_low": "low", "share_above_high": "high", "share_equal": "equal"}
)

Slices = Mapping[str, npt.NDArray[np.bool_]]


def sliced(measured: Measured, slices: Slices) -> dict[str, dict[str, dict[str, float | None]]]:
    """Means of every scorer in every slice.

    Args:
        measured: per-impression metrics of several scorers.
        slices: result of `slice_masks`.

    Returns:
        scorer > slice > metric, as fractions; None if a slice has nothing to measure.
    """
    return {
        name: {part: mean_metrics(metrics, mask) for part, mask in slices.items()}
        for name, metrics in measured.items()
    }


def intervals(measured: Measured, slices: Slices) -> dict[str, dict[str, list[float | None] | None]]:
    """95% intervals of the AUC of every scorer in every slice.

    Args:
        measured: per-impression metrics of several scorers.
        slices: result of `slice_masks`.

    Returns:
        scorer > slice > ends of the interval, as fractions; None if a slice has nothing to measure.
    """
    found = {
        name: {part: mean_interval(metrics["auc"][mask]) for part, mask in slices.items()}
        for name, metrics in measured.items()
    }
    return {
        name: {part: [each["low"], each["high"]] if each else None for part, each in parts.items()}
        for name, parts in found.items()
    }


def compared(models: Measured, before: Measured, baselines: Measured) -> dict[str, dict[str, Any]]:
    """Differences in AUC with 95% intervals: each model against the best baseline and its initial state.

    Args:
        models: metrics of the trained models.
        before: metrics of the same models before training; some may be missing.
        baselines: metrics of the baselines.

    Returns:
        "ours over theirs" > the fields of `significance.Difference`.
    """
    pairs = []
    rivals = {name: mean_metrics(metrics)["auc"] for name, metrics in baselines.items()}
    best = max(rivals, key=lambda name: rivals[name] or 0.0) if rivals else None
    for name, metrics in models.items():
        if best is not None:
            pairs.append((f"{name} over {best}", metrics, baselines[best]))
        if name in before:
            pairs.append((f"{name} over its start", metrics, before[name]))
    if "ranker" in models and "ranker_counters" in models:
        pairs.append(("ranker_counters over ranker", models["ranker_counters"], models["ranker"]))
    found = {title: paired_bootstrap(ours["auc"], theirs["auc"]) for title, ours, theirs in pairs}
    return {title: asdict(difference) for title, difference in found.items() if difference is not None}


def finite(value: Any) -> Any:
    """The same document with None in place of numbers that JSON does not support."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save_report(report: dict[str, Any], run: Path) -> Path:
    """Write `reports/evaluation-SPLIT.json`, completely or not at all.

    Returns:
        The path of the file.

    Raises:
        FailureError: it cannot be written.
    """
    file = run / "reports" / f"evaluation-{report['split']}.json"
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", "utf-8")
        unfinished.replace(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise FailureError(
            f"{file} could not be written: {error}; check the folder's permissions and the disk"
        ) from None
    return file


def log_folder(run: Path, split: str) -> Path:
    """The TensorBoard folder for the results of a split."""
    return run / "logs" / "evaluation" / Path(split).name


def log_scalars(report: dict[str, Any], run: Path) -> None:
    """Write every number of a report as a TensorBoard scalar into `logs/evaluation/SPLIT`."""
    import tensorflow as tf

    writer = tf.summary.create_file_writer(str(log_folder(run, report["split"])))
    with writer.as_default(step=0):
        for name, value in _scalars(report):
            tf.summary.scalar(f"{report['split']}/{name}", value)
    writer.close()


def print_report(report: dict[str, Any], console: Console) -> None:
    """Print a report."""
    for table in _tables(report):
        if isinstance(table, str):
            console.print(table)
            continue
        # Not rich's own title, which is wrapped to the width of a narrow table.
        title, table.title = table.title, None
        console.print(f"\n{title}", style="bold", markup=False)
        console.print(table)


def _scalars(part: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in part.items():
        name = f"{prefix}{key}".replace("@", "_at_").replace(" ", "_")
        if isinstance(value, dict):
            yield from _scalars(value, f"{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)


def _tables(report: dict[str, Any]) -> Iterator[Table | str]:
    yield _ranking_table(report)
    yield _slice_table(report)
    if report.get("retrieval"):
        yield plain_table(
            f"Retrieval: clicked articles found among all {report['retrieval']['pool']} articles",
            {"trained": report["retrieval"], "before": report["before"].get("retrieval", {})},
            [name for name in report["retrieval"] if name.startswith("recall@")],
        )
    if report.get("pool"):
        yield from pool_tables(report["pool"], report["split"])
    if report.get("generation"):
        yield _generation_table(report["generation"], report["before"].get("generation", {}))
        if report["generation"].get("personal"):
            yield _personal_table(report["generation"]["personal"])
            yield _margin_table(report["generation"]["personal"])
        if report["generation"].get("cold_start"):
            yield _cold_start_table(report["generation"]["cold_start"])
    if report.get("significance"):
        rows = {name: dict(part) for name, part in report["significance"].items()}
        yield plain_table("Differences in AUC, 95% interval", rows, ["difference", "low", "high"])


def _generation_table(written: dict[str, Any], before: dict[str, Any]) -> Table:
    rows = {"trained": written, "before": before, **written.get("baselines", {})}
    headings = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "distinct2": "distinct-2"}
    title = f"Generator: {written['headlines']} headlines written, {written['clicked_titles']} clicked titles"
    return plain_table(title, rows, ["perplexity", *headings, "grounding"], headings)


def _personal_table(personal: dict[str, Any]) -> Table:
    interest = personal["interest"]
    rivals = {
        "for another reader": ("for_other_reader", "over_other_reader"),
        "most interesting samples of both": (
            "most_interesting_for_other_reader",
            "most_interesting_over_other_reader",
        ),
        "first samples of both": ("first_sample_for_other_reader", "first_sample_over_other_reader"),
        "clicked title": ("clicked_title", "over_clicked_title"),
        "random title": ("random_title", "over_random_title"),
    }
    rows = {name: {"interest": interest[of], **personal[over]} for name, (of, over) in rivals.items()}
    title = (
        f"Texts for {personal['readers']} readers, interest {interest['written']:.4f}, compared with texts "
        "from the same sources (a win rate of 0.5 is chance)"
    )
    columns = ["interest", "share_above", "share_above_low", "share_above_high", "share_equal"]
    return plain_table(title, rows, [*columns, "win_rate", "low", "high"], _SHORT_HEADINGS)


def _margin_table(personal: dict[str, Any]) -> Table:
    interest = personal["interest"]
    rows = {
        "the served one": {"interest": interest["written"], **personal["best_of_samples_margin"]},
        "the most interesting one": {
            "interest": interest["most_interesting"],
            **personal["most_interesting_margin"],
        },
    }
    title = (
        f"Best of {personal['samples']} samples minus the first (interest {interest['first_sample']:.4f}), "
        "95% interval"
    )
    return plain_table(title, rows, ["interest", "mean", "low", "high"], {"mean": "more"}, digits=4)


def _cold_start_table(found: dict[str, Any]) -> Table:
    rows = {
        name: {**part, **(part["difference"] or {})} for name, part in found.items() if isinstance(part, dict)
    }
    title = (
        f"Readers with few clicks: AUC in {found['impressions']} of {found['of_impressions']} impressions, "
        f"without and with {found['written']} written articles in their histories, 95% interval"
    )
    return plain_table(title, rows, ["auc", "auc_filled", "difference", "low", "high"])


def _ranking_table(report: dict[str, Any]) -> Table:
    left_out = f", {report['without_click']} without a click left out" if report.get("without_click") else ""
    table = Table(
        title=f"Ranking on {report['split']}: {report['impressions']} impressions{left_out}, in percent"
    )
    for heading in ("", *METRICS, "AUC before"):
        table.add_column(heading, justify="right" if heading else "left")
    for kind in ("models", "baselines"):
        for name, parts in report[kind].items():
            before = report["before"].get("models", {}).get(name, {}).get("all", {})
            cells = [percent(parts["all"][metric]) for metric in METRICS]
            table.add_row(name.replace("_", " "), *cells, percent(before.get("auc")))
        table.add_section()
    return table


def _slice_table(report: dict[str, Any]) -> Table:
    table = Table(title="AUC by slice, in percent")
    table.add_column("")
    for name, count in report["slices"].items():
        table.add_column(f"{name.replace('_', ' ')}\n({count})", justify="right")
    for kind in ("models", "baselines"):
        for name, parts in report[kind].items():
            table.add_row(name.replace("_", " "), *(percent(parts[part]["auc"]) for part in report["slices"]))
        table.add_section()
    return table
