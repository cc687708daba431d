"""`genre score`: how likely a reader clicks given articles, from a running server."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from genre_tf.cli.asking import open_client, report_unknown
from genre_tf.cli.console import print_json, results
from genre_tf.cli.texts import read_numbers, read_titles
from genre_tf.cli.tls_options import TlsCa, TlsCert, TlsKey
from genre_tf.errors import InputError

if TYPE_CHECKING:
    from genre_tf.serving.answers import CandidateScore, TitleScore
    from genre_tf.serving.client import GenreClient


def score(
    history: Annotated[
        str | None, typer.Option(help='Ids that the reader clicked, oldest first; "" for a new reader.')
    ] = None,
    candidates: Annotated[str | None, typer.Option(help="Ids to score, separated by spaces.")] = None,
    history_text: Annotated[
        str | None, typer.Option(help="Titles that the reader clicked, one per line; or a file with them.")
    ] = None,
    candidates_text: Annotated[
        str | None, typer.Option(help="Titles to score, one per line; or a file with them.")
    ] = None,
    clicks: Annotated[str | None, typer.Option(help="Clicks of each of the --candidates.")] = None,
    views: Annotated[str | None, typer.Option(help="Views of each of the --candidates.")] = None,
    age_hours: Annotated[str | None, typer.Option(help="Age of each of the --candidates in hours.")] = None,
    address: Annotated[str, typer.Option(help="gRPC address of the server, HOST:PORT.")] = "127.0.0.1:8500",
    timeout_s: Annotated[float, typer.Option(min=0.001, help="Seconds to wait for the answer.")] = 10.0,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Print the click probabilities of candidates, in the order given.

    Example: genre score --history-text "Storm closes schools" --candidates-text "Snow on the way"
    """
    by_id = history is not None and candidates is not None and history_text is candidates_text is None
    by_title = history_text is not None and candidates_text is not None and history is candidates is None
    counters = {"--clicks": clicks, "--views": views, "--age-hours": age_hours}
    given = [value for value in counters.values() if value is not None]
    if by_id == by_title:
        raise InputError("give --history with --candidates (ids), or --history-text with --candidates-text")
    if given and (by_title or len(given) < len(counters)):
        raise InputError("--clicks, --views and --age-hours go together, with --history and --candidates")
    with open_client(address, timeout_s, tls_ca, tls_cert, tls_key) as client:
        if by_title:
            titles = read_titles(history_text or ""), read_titles(candidates_text or "")
            _print(client.score_text([titles[0]], [titles[1]])[0], json)
        else:
            numbers = [read_numbers(value, option) for option, value in counters.items() if value is not None]
            clicked = (history or "").split()
            scores = _score_ids(client, clicked, (candidates or "").split(), numbers)
            report_unknown(client, clicked)
            _print(scores, json)


def _score_ids(
    client: "GenreClient", history: list[str], candidates: list[str], counters: list[list[float]]
) -> "list[CandidateScore]":
    if not counters:
        return client.score([history], [candidates])[0]
    clicks, views, age_hours = counters
    return client.score_counters([history], [candidates], [clicks], [views], [age_hours])[0]


def _print(scores: "Sequence[CandidateScore | TitleScore]", json: bool) -> None:
    if json:
        print_json({"scores": [asdict(entry) for entry in scores]})
        return
    for entry in scores:
        name = getattr(entry, "news_id", None) or getattr(entry, "title", "")
        unknown = "" if getattr(entry, "known", True) else "  (not in the index)"
        results.print(f"{entry.click_probability:8.4f}  {name}{unknown}", markup=False)
