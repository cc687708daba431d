"""`genre profile`: what readers like, one sentence per reader, from their clicks."""

from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genre_tf.cli.console import print_json, progress, results
from genre_tf.cli.tensorflow_notes import load_tensorflow
from genre_tf.cli.texts import read_titles
from genre_tf.errors import InputError

if TYPE_CHECKING:
    from genre_tf.generation.safety import SafetyList


def profile(
    run: Annotated[Path, typer.Argument(help="Run folder that `genre train` wrote.")],
    history: Annotated[
        str | None, typer.Option(help='Ids that the reader clicked, oldest first; "" for a new reader.')
    ] = None,
    history_text: Annotated[
        str | None, typer.Option(help="Titles that the reader clicked, one per line; or a file with them.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="MIND-format data set: its readers are described; with --history, its articles are known."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the data set; labels are not needed.")] = "dev",
    reader: Annotated[
        str | None, typer.Option(help="Id of one reader of that log; default: all readers.")
    ] = None,
    safety_list: Annotated[
        Path | None, typer.Option(help="File of words that must not be named, as for `genre export`.")
    ] = None,
    max_bad_rows: Annotated[int, typer.Option(help="Faulty rows of the split that may be skipped.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document per reader, each on a line.")
    ] = False,
) -> None:
    """Describe what readers like, using only the categories and words of their clicks.

    The run's user tower weighs the clicks; --json lists the clicks behind each word.

    Example: genre profile runs/mind --history "N55528 N19639"
    """
    one_reader = history is not None or history_text is not None
    if (history is not None and history_text is not None) or (one_reader and reader is not None):
        raise InputError("give only one of --history (ids), --history-text (titles) and --reader")
    if not one_reader and data is None:
        raise InputError("give --history (ids), --history-text (titles), or --data for the readers of a log")
    load_tensorflow()
    from genre_tf.evaluation.profiles import articles_of_titles, check_reader, known_articles, profiles
    from genre_tf.generation.profile import as_json as plain

    found = known_articles(run, data, split, max_bad_rows)
    known, histories = dict(found.articles), found.histories
    if history_text is not None:
        titles = articles_of_titles(read_titles(history_text))
        known, histories = known | titles, {"": list(titles)}
    elif history is not None:
        histories = {"": history.split()}
        _say_unknown(histories[""], known)
    elif reader is not None:
        check_reader(reader, histories)
        histories = {reader: histories[reader]}
    for name, described in profiles(run, known, histories, _safety(safety_list)):
        if as_json:
            indent = None if len(histories) > 1 else 2  # one document per line, or one to read
            print_json({"reader": name} | dict(plain(described)), indent)
        else:
            results.print(f"{name}: {described.sentence}" if name else described.sentence, markup=False)


def _safety(file: Path | None) -> "SafetyList | None":
    from genre_tf.generation.safety import read_safety_list

    return None if file is None else read_safety_list(file)


def _say_unknown(history: Sequence[str], known: Container[str]) -> None:
    unknown = [news_id for news_id in history if news_id not in known]
    if unknown:
        progress.print(
            f"left out, as the run does not know them (give --data): {', '.join(unknown)}", markup=False
        )
