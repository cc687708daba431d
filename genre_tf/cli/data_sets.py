"""`genre synth`, `convert`, `check` and `prepare`: data sets in MIND's format, and their columns."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from genre_tf.cli.console import SafeConsole, print_json, progress, results, say, working
from genre_tf.cli.options import Json, MaxBadRows, Overwrite, RunnerName, RunnerOptions, beam_runner
from genre_tf.synth.settings import NewsroomSettings

if TYPE_CHECKING:
    from genre_tf.data.checking import CheckReport

MAX_PRINTED_FAULTS = 50
_DEFAULTS = NewsroomSettings()


def _print_faults(console: SafeConsole, faults: Sequence[str], count: int, rest: str = "") -> None:
    for fault in faults[:MAX_PRINTED_FAULTS]:
        console.print(fault, soft_wrap=True)
    if count > MAX_PRINTED_FAULTS:
        console.print(f"... and {count - MAX_PRINTED_FAULTS:,} more faults{rest}", soft_wrap=True)


def synth(
    out: Annotated[Path, typer.Argument(help="Folder to write: train/, dev/ and newsroom.json.")],
    articles: Annotated[int, typer.Option(help="Number of articles, with those from before the log.")] = (
        _DEFAULTS.articles
    ),
    readers: Annotated[int, typer.Option(help="Number of readers.")] = _DEFAULTS.readers,
    days: Annotated[int, typer.Option(help="Logged days; the last one is dev.")] = _DEFAULTS.days,
    impressions: Annotated[int, typer.Option(help="Impressions of all logged days.")] = _DEFAULTS.impressions,
    seed: Annotated[int, typer.Option(help="Equal seeds write equal files.")] = _DEFAULTS.seed,
    signals: Annotated[bool, typer.Option("--signals", help="Log how long each click was read.")] = False,
    headline: Annotated[
        float, typer.Option(help="Effect of a title's wording: standard deviation in log-odds of a click.")
    ] = _DEFAULTS.headline,
    overwrite: Annotated[bool, typer.Option(help="Replace OUT if it exists.")] = False,
    json: Annotated[bool, typer.Option(help="Print newsroom.json.")] = False,
) -> None:
    """Write a synthetic newsroom: articles in plain English, readers with tastes, and their clicks.

    The folder is in MIND's format, with the true click probability of every candidate in truth.tsv.

    Example: genre synth newsroom --seed 7
    """
    from genre_tf.synth.newsroom import write_newsroom

    settings = NewsroomSettings(
        articles=articles,
        readers=readers,
        days=days,
        impressions=impressions,
        seed=seed,
        signals=signals,
        headline=headline,
    )
    progress.print(f"writing {articles:,} articles and {impressions:,} impressions of {readers:,} readers …")
    report = write_newsroom(out, settings, overwrite=overwrite)
    if json:
        print_json(report)
        return
    for split, metrics in report["oracle"].items():
        results.print(
            f"{out / split}: {metrics['impressions']:,} impressions; ranked by the true click probabilities: "
            f"AUC {metrics['auc']:.3f}, MRR {metrics['mrr']:.3f}, nDCG@10 {metrics['ndcg@10']:.3f}"
        )


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
    overwrite: Overwrite = False,
    json: Json = False,
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
    with working(f"reading {source}"):
        if check:
            splits, unusable = check_layout(source, known)
        else:
            splits = write_data_set(source, out, known, max_bad_rows=max_bad_rows, overwrite=overwrite)
    passed = not unusable and all(split.bad_rows <= max_bad_rows for split in splits.values())
    if json:
        print_json({"passed": passed, "splits": summary_values(splits)})
    else:
        begin = "" if check else "skipped "
        faults = list(dict.fromkeys(f"{begin}{fault}" for split in splits.values() for fault in split.faults))
        _print_faults(results if check else progress, faults, len(faults))
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
    if not passed:
        raise typer.Exit(1)


def check(
    data: Annotated[
        Path, typer.Argument(help="Data set folder: train/, dev/, ... with MIND's two files each.")
    ],
    max_bad_rows: Annotated[int, typer.Option(help="Bad rows allowed in each split.")] = 0,
    json: Json = False,
) -> None:
    """Validate a data set: list every fault by file, line and field, and count what is in it.

    Exit status: 0 valid, 1 more bad rows than allowed or an unusable file, 2 no data set in the folder.

    Example: genre check mind
    """
    from genre_tf.data.checking import check_data

    with working(f"reading {data}"):
        report = check_data(data, max_bad_rows)
    if json:
        splits = [split.as_values() for split in report.splits]
        values = {"passed": report.passed, "warnings": report.warnings, "max_bad_rows": max_bad_rows}
        print_json({**values, "splits": splits})
    else:
        faults = list(map(str, report.faults))
        _print_faults(results, faults, report.fault_count, " (--json lists up to 10,000 of each split)")
        results.print(_counts(report))
        for warning in report.warnings:
            results.print(f"warning: {warning}")
        bad_rows = sum(split.bad_rows for split in report.splits)
        unusable = sum(split.unusable_files for split in report.splits)
        results.print(
            f"{'passed' if report.passed else 'failed'}: {bad_rows:,} bad rows "
            f"({report.max_bad_rows:,} allowed in each split), {unusable} unusable files"
        )
    if not report.passed:
        raise typer.Exit(1)


def _counts(report: "CheckReport") -> Table:
    columns = [
        {
            "articles": f"{split.articles:,}",
            "with abstract": f"{split.articles_with_abstract:.1%}",
            "impressions": f"{split.impressions:,}",
            "readers": f"{split.readers:,}",
            "without history": f"{split.readers_without_history:,}",
            "shown articles": f"{split.candidates:,}",
            "clicks": f"{split.clicks:,}" if split.labelled else "no labels",
            "without click": f"{split.without_click:,}",
            "with signals": f"{split.signals:,}",
            "approved texts": f"{split.texts:,}",
            "first": str(split.first or "-"),
            "last": str(split.last or "-"),
            "bad rows": f"{split.bad_rows:,}",
        }
        for split in report.splits
    ]
    table = Table("split", box=None)
    for split in report.splits:
        table.add_column(split.name, justify="right")
    for name in columns[0] if columns else ():
        table.add_row(name, *(column[name] for column in columns))
    return table


def prepare(
    data: Annotated[Path, typer.Argument(help="Data set folder, with MIND's two files in its train/.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; not changed if it is up to date.")],
    max_history: Annotated[int, typer.Option(help="Newest clicks kept of each history.")] = 50,
    validation_share: Annotated[
        float, typer.Option(help="Newest share of the log, held out for validation.")
    ] = 0.1,
    max_bad_rows: MaxBadRows = 0,
    overwrite: Overwrite = False,
    runner: RunnerName = None,
    runner_option: RunnerOptions = None,
    json: Json = False,
) -> None:
    """Turn the training log into columns that training reads batch by batch: Arrow files and a manifest.

    The same data and options give the same bytes, in this process and with any Beam runner.

    Example: genre prepare mind prepared
    """
    with working(f"preparing {data}"):
        from genre_tf.data.preparing import prepare as write_folder

        prepared = write_folder(
            data,
            out,
            max_history=max_history,
            validation_share=validation_share,
            max_bad_rows=max_bad_rows,
            overwrite=overwrite,
            runner=beam_runner(runner, runner_option),
        )
    manifest = prepared.manifest
    for fault in manifest["faults"][:MAX_PRINTED_FAULTS]:
        say(f"skipped {fault['file']}:{fault['line']}: {fault['field']}: {fault['message']}")
    if len(manifest["faults"]) > MAX_PRINTED_FAULTS:
        progress.print("... the other skipped rows are listed in manifest.json")
    if json:
        print_json(manifest)
        return
    train, validation = manifest["splits"]["train"], manifest["splits"]["validation"]
    results.print(
        f"{out}: {'prepared' if prepared.written else 'up to date'}: {manifest['articles']:,} articles, "
        f"{train['impressions']:,} training and {validation['impressions']:,} validation impressions, "
        f"{train['clicks'] + validation['clicks']:,} clicks, {manifest['bad_rows']:,} bad rows skipped"
    )
