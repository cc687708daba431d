"""`genre score`: how likely a reader clicks given articles, from a running server."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from genre_tf.cli.asking import Address, Json, Rest, TimeoutS, open_client
from genre_tf.cli.console import print_json, results
from genre_tf.cli.readers import History, HistoryText, Log, User, report_unknown, required_reader
from genre_tf.cli.texts import read_numbers, read_titles
from genre_tf.cli.tls_options import TlsCa, TlsCert, TlsKey
from genre_tf.errors import InputError

if TYPE_CHECKING:
    from genre_tf.serving import Client
    from genre_tf.serving.client.answers import CandidateScore, TitleScore


def score(
    history: History = None,
    history_text: HistoryText = None,
    user: User = None,
    log: Log = None,
    candidates: Annotated[str | None, typer.Option(help="Ids to score, separated by spaces.")] = None,
    candidates_text: Annotated[
        str | None, typer.Option(help="Titles to score, one per line; or a file with them.")
    ] = None,
    clicks: Annotated[str | None, typer.Option(help="Clicks of each of the --candidates.")] = None,
    views: Annotated[str | None, typer.Option(help="Views of each of the --candidates.")] = None,
    age_hours: Annotated[str | None, typer.Option(help="Age of each of the --candidates in hours.")] = None,
    address: Address = None,
    rest: Rest = False,
    timeout_s: TimeoutS = 10.0,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    json: Json = False,
) -> None:
    """Print the click probabilities of candidates, in the order given.

    Example: genre score --history-text "Storm closes schools" --candidates-text "Snow on the way"
    """
    reader = required_reader(history, history_text, user, log)
    shown = candidates if reader.by_id else candidates_text
    if shown is None or None not in (candidates, candidates_text):
        raise InputError(
            "give --candidates (ids) with --history or --user, --candidates-text with --history-text"
        )
    counters = {"--clicks": clicks, "--views": views, "--age-hours": age_hours}
    given = {option: value for option, value in counters.items() if value is not None}
    if given and (not reader.by_id or len(given) < len(counters)):
        raise InputError("--clicks, --views and --age-hours go together, with --candidates")
    numbers = [read_numbers(value, option) for option, value in given.items()]
    with open_client(address, rest, timeout_s, tls_ca, tls_cert, tls_key) as client:
        if reader.by_id:
            scores: Sequence[CandidateScore | TitleScore] = _score_ids(
                client, reader.clicks, shown.split(), numbers
            )
            report_unknown(client, reader)
        else:
            scores = client.score_text([reader.clicks], [read_titles(shown)])[0]
    if json:
        print_json({"scores": [asdict(entry) for entry in scores]})
        return
    for entry in scores:
        name = getattr(entry, "news_id", None) or getattr(entry, "title", "")
        unknown = "" if getattr(entry, "known", True) else "  (not in the index)"
        results.print(f"{entry.click_probability:8.4f}  {name}{unknown}", markup=False)


def _score_ids(
    client: "Client", history: list[str], candidates: list[str], counters: list[list[float]]
) -> "list[CandidateScore]":
    if not counters:
        return client.score([history], [candidates])[0]
    clicks, views, age_hours = counters
    return client.score_counters([history], [candidates], [clicks], [views], [age_hours])[0]
