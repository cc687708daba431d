"""`genre recommend`, `score`, `generate` and `ask`, which ask a running server; without TensorFlow."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genre_tf.cli.console import print_json, results
from genre_tf.cli.options import Option, takes
from genre_tf.cli.readers import (
    READER,
    find_titles,
    read_numbers,
    read_text,
    read_titles,
    report_unknown,
    required_reader,
)
from genre_tf.errors import InputError

if TYPE_CHECKING:
    from genre_tf.serving import Client
    from genre_tf.serving.client.calls import CandidateScore, TitleScore

TLS = {
    "tls_ca": Option.may_be(Path, "Authority that signed the server's certificate (PEM); turns on TLS."),
    "tls_cert": Option.may_be(Path, "This client's certificate (PEM), for a server that asks for one."),
    "tls_key": Option.may_be(Path, "Private key of --tls-cert (PEM)."),
}
SERVER = {
    "address": Option.may_be(
        str,
        "Address of the server: HOST:PORT, for REST also a URL; default: 127.0.0.1:8500, with --rest "
        "127.0.0.1:8501.",
    ),
    "rest": Option(Annotated[bool, typer.Option("--rest", help="Ask over REST, not gRPC.")], False),
    "timeout_s": Option(
        Annotated[float, typer.Option(min=0.001, help="Seconds to wait for the answer.")], 10.0
    ),
    **TLS,
}
SLOW_SERVER = {**SERVER, "timeout_s": SERVER["timeout_s"]._replace(default=60.0)}
"""The same for verbs that write texts."""

Seed = Annotated[int, typer.Option(min=-(2**63), max=2**63 - 1, help="The same seed writes the same text.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


@contextmanager
def open_client(
    address: str | None,
    rest: bool,
    timeout_s: float,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
) -> "Iterator[Client]":
    """A client of a server; over gRPC, of one that answers.

    Raises:
        InputError: the address, the deadline or a TLS file is invalid.
        FailureError: no server answers.
    """
    from genre_tf.serving import Client
    from genre_tf.serving.client.channels import check_server, client_context, client_credentials, is_url

    credentials: Any
    if rest or is_url(address or ""):
        address = address or "127.0.0.1:8501"
        url = address if "://" in address else f"{'http' if tls_ca is None else 'https'}://{address}"
        with Client(url, timeout_s, credentials=client_context(tls_ca, tls_cert, tls_key)) as client:
            yield client
        return
    address, credentials = address or "127.0.0.1:8500", client_credentials(tls_ca, tls_cert, tls_key)
    with Client(address, timeout_s, credentials=credentials) as client:
        check_server(address, timeout_s, credentials)
        yield client


@takes(whose=READER, server=SERVER)
def recommend(whose: dict[str, Any], server: dict[str, Any], json: Json = False) -> None:
    """Recommend articles for a reader, best first.

    Example: genre recommend --history "N55528 N19639"
    """
    reader = required_reader(**whose)
    with open_client(**server) as client:
        if reader.by_id:
            found = client.recommend([reader.clicks])[0]
            report_unknown(client, reader)
        else:
            found = client.recommend_text([reader.clicks])[0]
    if json:
        print_json({"recommendations": [asdict(article) for article in found]})
        return
    for rank, article in enumerate(found, start=1):
        results.print(f"{rank:3}  {article.score:8.4f}  {article.news_id:10}  {article.title}")


@takes(whose=READER, server=SERVER)
def score(
    *,
    whose: dict[str, Any],
    candidates: Annotated[str | None, typer.Option(help="Ids to score, separated by spaces.")] = None,
    candidates_text: Annotated[
        str | None, typer.Option(help="Titles to score, one per line; or a file with them.")
    ] = None,
    clicks: Annotated[str | None, typer.Option(help="Clicks of each of the --candidates.")] = None,
    views: Annotated[str | None, typer.Option(help="Views of each of the --candidates.")] = None,
    age_hours: Annotated[str | None, typer.Option(help="Age of each of the --candidates in hours.")] = None,
    server: dict[str, Any],
    json: Json = False,
) -> None:
    """Print the click probabilities of candidates, in the order given.

    Example: genre score --history-text "Storm closes schools" --candidates-text "Snow on the way"
    """
    reader = required_reader(**whose)
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
    with open_client(**server) as client:
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
        results.print(f"{entry.click_probability:8.4f}  {name}{unknown}")


def _score_ids(
    client: "Client", history: list[str], candidates: list[str], counters: list[list[float]]
) -> "list[CandidateScore]":
    if not counters:
        return client.score([history], [candidates])[0]
    clicks, views, age_hours = counters
    return client.score_counters([history], [candidates], [clicks], [views], [age_hours])[0]


@takes(whose=READER, server=SLOW_SERVER)
def generate(
    *,
    whose: dict[str, Any],
    source: Annotated[
        str, typer.Option(help="Article to write from, or a file with it; default: from interest alone.")
    ] = "",
    kind: Annotated[str, typer.Option(help="What to write: title, summary or body.")] = "title",
    seed: Seed = 0,
    server: dict[str, Any],
    json: Json = False,
) -> None:
    """Write a title, a summary or an article for a reader; best texts first, unsafe ones last.

    The writer reads titles: with --history or --user they come from the news.tsv files of --log.

    Example: genre generate --history-text "Storm closes schools" --source article.txt --kind title
    """
    from genre_tf.serving.client.calls import check_kinds

    check_kinds([kind])  # before a server is looked for
    titles, article = find_titles(**whose), read_text(source)
    with open_client(**server) as client:
        texts = client.generate([titles], [article], [kind], [seed])[0]
    best = next((text for text in texts if text.safe), None)  # they are sorted
    if json:
        print_json({"texts": [{**asdict(text), "use": text is best} for text in texts]})
        return
    if best is None:
        results.print("no safe text was written: use none of these" if texts else "no text was written")
    for text in texts:
        mark = "use this: " if text is best else "" if text.safe else "unsafe, do not use: "
        measures = f"interest {text.interest:.4f}, grounding {text.grounding:.2f}"
        results.print(f"{text.text}\n    {mark}{measures}")


@takes(whose=READER, server=SLOW_SERVER)
def ask(
    question: Annotated[str, typer.Argument(help="What the reader wants to know.")],
    *,
    whose: dict[str, Any],
    seed: Seed = 0,
    server: dict[str, Any],
    json: Json = False,
) -> None:
    """Answer a question from the articles closest to it, and name these articles.

    The writer reads titles: with --history or --user they come from the news.tsv files of --log.

    Example: genre ask "Which schools are closed?"
    """
    if not question.strip():
        raise InputError('the question is blank: give one, such as genre ask "What happened in Ravenwater?"')
    titles = find_titles(**whose)
    with open_client(**server) as client:
        found = client.answer([question], [titles], [seed])[0]
    if json:
        texts = [
            {"text": text, "interest": interest, "use": place == 0}
            for place, (text, interest) in enumerate(found.texts)
        ]
        print_json({"texts": texts, "evidence": found.evidence})
        return
    if not found.texts:
        why = "no safe text was written" if found.evidence else "none of the served articles is close to it"
        results.print(f"no answer to this question: {why}")
    for place, (text, interest) in enumerate(found.texts):
        results.print(f"{text}\n    {'' if place else 'use this: '}interest {interest:.4f}")
    for news_id, title in found.evidence:
        results.print(f"evidence {news_id}: {title}")
