"""`genre check`: every fault of a data set, by file, line and field."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from genre_tf.cli.console import print_json, progress, results

if TYPE_CHECKING:
    from genre_tf.data.checking import CheckReport

MAX_PRINTED_FAULTS = 50


def check(
    data: Annotated[
        Path, typer.Argument(help="Data set folder: train/, dev/, ... with MIND's two files each.")
    ],
    max_bad_rows: Annotated[int, typer.Option(help="Bad rows allowed in each split.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="One JSON document, for programs.")] = False,
) -> None:
    """Validate a data set: list every fault by file, line and field, and count what is in it.

    Exit status: 0 valid, 1 more bad rows than allowed or an unusable file, 2 no data set in the folder.

    Example: genre check mind
    """
    from genre_tf.data.checking import check_data

    with progress.status(escape(f"reading {data}")):
        report = check_data(data, max_bad_rows)
    if json:
        splits = [split.as_values() for split in report.splits]
        values = {"passed": report.passed, "warnings": report.warnings, "max_bad_rows": max_bad_rows}
        print_json({**values, "splits": splits})
    else:
        _print_report(report)
    if not report.passed:
        raise typer.Exit(1)


def _print_report(report: "CheckReport") -> None:
    for fault in report.faults[:MAX_PRINTED_FAULTS]:
        results.print(str(fault))
    if report.fault_count > MAX_PRINTED_FAULTS:
        left = report.fault_count - MAX_PRINTED_FAULTS
        results.print(f"... and {left:,} more faults (--json lists up to 10,000 of each split)")
    results.print(_counts(report))
    for warning in report.warnings:
        results.print(f"warning: {warning}")
    bad_rows = sum(split.bad_rows for split in report.splits)
    unusable = sum(split.unusable_files for split in report.splits)
    verdict = "passed" if report.passed else "failed"
    results.print(
        f"{verdict}: {bad_rows:,} bad rows ({report.max_bad_rows:,} allowed in each split), "
        f"{unusable} unusable files"
    )


def _counts(report: "CheckReport") -> Table:
    table = Table("split", box=None)
    rows: dict[str, list[str]] = {}
    for split in report.splits:
        table.add_column(split.name, justify="right")
        values = {
            "articles": f"{split.articles:,}",
            "with abstract": f"{split.articles_with_abstract:.1%}",
            "impressions": f"{split.impressions:,}",
            "readers": f"{split.readers:,}",
            "without history": f"{split.readers_without_history:,}",
            "shown articles": f"{split.candidates:,}",
            "clicks": f"{split.clicks:,}" if split.labelled else "no labels",
            "without click": f"{split.without_click:,}",
            "with signals": f"{split.signals:,}",
            "first": str(split.first or "-"),
            "last": str(split.last or "-"),
            "bad rows": f"{split.bad_rows:,}",
        }
        for name, value in values.items():
            rows.setdefault(name, []).append(value)
    for name, columns in rows.items():
        table.add_row(name, *columns)
    return table
