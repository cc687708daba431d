"""`genre profile`: what readers like, one sentence per reader, from their clicks."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genre_tf.cli.console import load_tensorflow, print_json, results
from genre_tf.cli.options import takes
from genre_tf.cli.readers import READER, find_reader
from genre_tf.errors import InputError

if TYPE_CHECKING:
    from genre_tf.generation.safety import SafetyList


@takes(whose=READER)
def profile(
    run: Annotated[Path, typer.Argument(help="Run folder that `genre train` wrote.")],
    *,
    whose: dict[str, Any],
    safety_list: Annotated[
        Path | None, typer.Option(help="File of words that must not be named, as for `genre export`.")
    ] = None,
    max_bad_rows: Annotated[
        int, typer.Option(help="Faulty rows of the log that may be skipped, for all of its readers.")
    ] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document per reader, each on a line.")
    ] = False,
) -> None:
    """Describe what readers like, using only the categories and words of their clicks.

    --log without --user describes every reader of the log. The run's user tower weighs the clicks; --json
    lists the clicks behind each word.

    Example: genre profile runs/mind --history "N55528 N19639"
    """
    user, log = whose["user"], whose["log"]
    reader = find_reader(**whose, all_of_log=True)
    if reader is None and log is None:
        raise InputError("give --history (ids), --history-text (titles), or --log for its readers")
    load_tensorflow()
    from genre_tf.data.lines import FaultPolicy
    from genre_tf.data.reader_logs import articles_of, read_histories
    from genre_tf.evaluation.scoring import run_articles
    from genre_tf.explain.article import titled
    from genre_tf.explain.reader import profiles

    known = run_articles(run)
    if reader is not None and not reader.by_id:
        titles = {str(place): titled(title, str(place)) for place, title in enumerate(reader.clicks, 1)}
        known, histories = known | titles, {"": tuple(titles)}
    else:
        histories = {} if reader is None else {user or "": tuple(reader.clicks)}
        if reader is None and log is not None:
            histories = read_histories(log, policy=FaultPolicy.allowing(max_bad_rows))
        if log is not None:
            known |= articles_of(log, {news_id for clicks in histories.values() for news_id in clicks})
        if reader is not None:
            reader.known(known, "the run or the log" if log else "the run")
    for name, described in profiles(run, known, histories, _safety(safety_list)):
        if as_json:
            indent = None if len(histories) > 1 else 2  # one document per line, or one to read
            print_json({"reader": name} | asdict(described), indent)
        else:
            results.print(f"{name}: {described.sentence}" if name else described.sentence)


def _safety(file: Path | None) -> "SafetyList | None":
    from genre_tf.generation.safety import read_safety_list

    return None if file is None else read_safety_list(file)
