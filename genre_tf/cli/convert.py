"""`genre convert`: converts logs in another layout to MIND's format."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from genre_tf.cli.console import print_json, progress, results

if TYPE_CHECKING:
    from genre_tf.data.layouts.conversion import Splits

MAX_PRINTED_FAULTS = 50


def convert(
    source: Annotated[Path, typer.Argument(help="Folder of CSV, JSON Lines or Parquet files.")],
    out: Annotated[Path, typer.Argument(help="Data set folder to write, in MIND's format.")],
    column_map: Annotated[
        str, typer.Option("--map", help="Column map: a TOML file, or the ready map adressa or ebnerd.")
    ],
    max_bad_rows: Annotated[int, typer.Option(help="Faulty rows that may be skipped in each split.")] = 0,
    check: Annotated[
        bool, typer.Option("--check", help="List every fault by file, row and column; write nothing.")
    ] = False,
    compress: Annotated[bool, typer.Option("--gzip", help="Write .tsv.gz.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON document, for programs.")] = False,
) -> None:
    """Convert logs in any layout to MIND's format, which all other commands read.

    Example: genre convert ebnerd_small data --map ebnerd

    Exit status of --check: 0 valid, 1 more bad rows than allowed or an unusable file.
    """
    from genre_tf.data.layouts.column_map import read_map
    from genre_tf.data.layouts.conversion import check_layout, summary_values
    from genre_tf.data.layouts.conversion import convert as write_data_set

    known = read_map(column_map)
    unusable = False
    with progress.status(escape(f"reading {source}")):
        if check:
            splits, unusable = check_layout(source, known)
        else:
            splits = write_data_set(
                source, out, known, max_bad_rows=max_bad_rows, overwrite=overwrite, compress=compress
            )
    passed = not unusable and all(split.bad_rows <= max_bad_rows for split in splits.values())
    if json:
        print_json({"passed": passed, "splits": summary_values(splits)})
    else:
        _print_splits(splits, out, check)
    if not passed:
        raise typer.Exit(1)


def _print_splits(splits: "Splits", out: Path, check: bool) -> None:
    faults = list(dict.fromkeys(str(fault) for split in splits.values() for fault in split.faults))
    for fault in faults[:MAX_PRINTED_FAULTS]:
        (results if check else progress).print(f"{'' if check else 'skipped '}{fault}")
    if len(faults) > MAX_PRINTED_FAULTS:
        (results if check else progress).print(f"... and {len(faults) - MAX_PRINTED_FAULTS:,} more faults")
    for name, split in splits.items():
        without = f" ({split.without_click:,} without a click)" if split.without_click else ""
        counts = {
            "rows left out by the map": split.left_out,
            "bad rows": split.bad_rows,
            "clicks or events on unknown articles left out": split.dropped,
            "clicks without a view, kept as history only": split.clicks_without_view,
            "other events without a view or click before them, left out": split.unmatched,
        }
        notes = "".join(f"; {what}: {count:,}" for what, count in counts.items() if count)
        notes += "; histories are made of earlier clicks in the log" if split.made_histories else ""
        results.print(
            f"{out / name}: {'would hold ' if check else ''}{split.articles:,} articles, "
            f"{split.impressions:,} impressions{without}, {split.clicks:,} clicks{notes}"
        )
    for name, split in splits.items():
        for warning in split.warnings:
            results.print(f"warning: {out / name}: {warning}")
