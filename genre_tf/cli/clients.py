"""`genre recommend`, `score`, `generate` and `ask`, which ask a running server, and the options of readers.

Nothing here imports TensorFlow.
"""

import os
import re
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genre_tf.cli.console import print_json, results, say
from genre_tf.cli.options import Json, Option, takes
from genre_tf.errors import FailureError, InputError

if TYPE_CHECKING:
    from genre_tf.serving import Client
    from genre_tf.serving.client.calls import CandidateScore, TitleScore

# One word that ends as a text file or begins as a path does; "AC/DC" and "24/7" are texts.
_FILE_NAME = re.compile(r"\S+\.(?:txt|md|tsv)|(?:~|\.{0,2})/\S+", re.IGNORECASE)


def read_text(value: str) -> str:
    r"""The text of the file that `value` names, else `value` itself, in which `\n` means a line break."""
    if not value or "\n" in value or len(value) > 4096 or not os.path.isfile(value):  # noqa: PTH113
        if _FILE_NAME.fullmatch(value):
            raise InputError(f"there is no file {value}; give an existing one, or the text itself")
        return value.replace("\\n", "\n")
    try:
        return Path(value).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{value} cannot be read as UTF-8 text: {error}") from error


def read_titles(value: str) -> list[str]:
    """The titles in a text, one per line; blank lines are skipped."""
    # Not splitlines(): it would also end a title at characters such as U+2028, which titles may hold.
    return [line.strip() for line in read_text(value).split("\n") if line.strip()]


READER = {
    "history": Option.may_be(str, 'Ids that the reader clicked, oldest first; "" for a new reader.'),
    "history_text": Option.may_be(str, "Titles that the reader clicked, one per line; or a file with them."),
    "user": Option.may_be(str, "Id of a reader of --log, whose clicks are taken from there."),
    "log": Option.may_be(Path, "MIND-format data set, one of its splits, or a behaviors.tsv, also .gz."),
}
"""The options that name a reader."""

_OPTION_IDS = "ids in --history"
_READER_ID = re.compile(r"[Uu]\d+")  # as in MIND
_MOST_NAMED = 5


@dataclass(frozen=True)
class Reader:
    """What a reader clicked, oldest first."""

    clicks: list[str]  # ids or titles of articles; empty for a new reader
    by_id: bool
    named: str  # how messages call the clicks
    log: Path | None = None  # with the articles of these ids, if it was given

    def known(self, known: Container[str], where: str) -> list[str]:
        """The ids that `where` knows; the others are reported on stderr, and refused if they are all."""
        ids = list(dict.fromkeys(self.clicks))
        unknown = [news_id for news_id in ids if news_id not in known]
        named = ", ".join(unknown[:_MOST_NAMED]) + ", ..." * (len(unknown) > _MOST_NAMED)
        if ids and len(unknown) == len(ids):
            if self.named != _OPTION_IDS:
                advice = "is the log of the same site and time?"
            elif all(map(_READER_ID.fullmatch, ids)):
                advice = "these look like reader ids: give --user with --log, or the ids of articles"
            else:
                advice = 'give the ids of articles that the reader clicked, or "" for a new reader'
            raise InputError(f"{where} contains none of the {self.named} ({named}): {advice}")
        if unknown:
            say(f"ignored {len(unknown)} of {len(ids)} {self.named}, which are not in {where}: {named}")
        return [news_id for news_id in self.clicks if news_id in known]


def find_reader(
    history: str | None,
    history_text: str | None,
    user: str | None,
    log: Path | None,
    *,
    all_of_log: bool = False,
) -> Reader | None:
    """The reader that the options name, if any. `all_of_log`: --log alone has a meaning."""
    options = {"--history": history, "--history-text": history_text, "--user": user}
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise InputError(
            f"give only one of --history (ids), --history-text (titles) and --user; got {' and '.join(given)}"
        )
    if log is not None and (history_text is not None or not (given or all_of_log)):
        raise InputError("--log goes with --user (or with --history): give one of them, or leave out --log")
    if user is None:
        if history is not None:
            return Reader(history.split(), True, _OPTION_IDS, log)
        return None if history_text is None else Reader(read_titles(history_text), False, "titles")
    if log is None:
        raise InputError("--user also needs --log DATA, which has the reader's clicks")
    from genre_tf.data.reader_logs import read_histories

    clicks = list(read_histories(log, user)[user])
    if not clicks:
        say(f"reader {user} has no clicks yet: answered as a new reader")
    return Reader(clicks, True, f"clicks of reader {user}", log)


def required_reader(**whose: Any) -> Reader:
    """As `find_reader`, for verbs that work for a reader only and ask a server that knows the ids."""
    reader = find_reader(**whose)
    if reader is None:
        raise InputError("give --history (ids), --history-text (titles), or --user with --log")
    if whose["log"] is not None and whose["user"] is None:
        raise InputError("--log goes with --user: give a reader's id with --user, or leave out --log")
    return reader


def find_titles(**whose: Any) -> list[str]:
    """The titles that the reader of the options clicked; for ids, from the news files of the log."""
    reader = find_reader(**whose)
    if reader is None or not reader.by_id or not reader.clicks:
        return [] if reader is None else reader.clicks
    if reader.log is None:
        raise InputError(
            "texts are written from titles: add --log DATA, whose news.tsv has the titles of --history, or "
            "give --history-text"
        )
    from genre_tf.data.reader_logs import articles_of

    articles = articles_of(reader.log, reader.clicks)
    return [articles[news_id].title for news_id in reader.known(articles, f"the news.tsv of {reader.log}")]


def report_unknown(client: "Client", reader: Reader) -> None:
    """Report, on stderr, the ids that the server ignored as its index lacks them; refuse if these are all."""
    ids = list(dict.fromkeys(reader.clicks))
    if not ids:
        return
    try:
        scores = client.score([[]], [ids])[0]
    except (FailureError, InputError):  # another model, or too many ids: its answer does not say
        return
    reader.known({entry.news_id for entry in scores if entry.known}, "the index")


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


@contextmanager
def open_client(
    address: str | None,
    rest: bool,
    timeout_s: float,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
) -> "Iterator[Client]":
    """A client of a server; over gRPC, of one that answers."""
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
    numbers = []
    for option, value in given.items():
        try:
            numbers.append([list(map(float, value.split()))])  # of one reader
        except ValueError:
            raise InputError(f"{option} must be numbers separated by spaces; got {value!r}") from None
    scores: Sequence[CandidateScore | TitleScore]
    with open_client(**server) as client:
        if reader.by_id:
            ids = [reader.clicks], [shown.split()]
            scores = (client.score_counters(*ids, *numbers) if numbers else client.score(*ids))[0]
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


@takes(whose=READER, server=SLOW_SERVER)
def generate(
    *,
    whose: dict[str, Any],
    source: Annotated[
        str, typer.Option(help="Article to write from, or a file with it; default: from interest alone.")
    ] = "",
    kind: Annotated[str, typer.Option(help="What to write: title, summary or body.")] = "title",
    tone: Annotated[str, typer.Option(help="Tone: neutral, plain or lively; default: any.")] = "",
    topic: Annotated[str, typer.Option(help="What to write about, in a few words.")] = "",
    seed: Seed = 0,
    server: dict[str, Any],
    json: Json = False,
) -> None:
    """Write a title, a summary or an article for a reader; best texts first, unsafe ones not at all.

    The writer reads titles: with --history or --user they come from the news.tsv files of --log.

    Example: genre generate --history-text "Storm closes schools" --source article.txt --kind title
    """
    from genre_tf.serving.client.calls import check_kinds, check_tones

    check_kinds([kind])  # before a server is looked for
    check_tones([tone])
    titles, article = find_titles(**whose), read_text(source)
    asked = [titles], [article], [kind], [seed]
    with open_client(**server) as client:
        if tone or topic.strip():
            texts = client.generate_styled(*asked, [tone], [topic])[0]
        else:
            texts = client.generate(*asked)[0]
    best = next((text for text in texts if text.safe), None)  # they are sorted
    if json:
        shown = [{**asdict(text), "use": text is best} for text in texts if text.text]
        print_json({"texts": shown, "held_back": len(texts) - len(shown)})
        return
    if best is None:
        results.print("no safe text was written" if texts else "no text was written")
    for text in filter(attrgetter("text"), texts):
        mark = "use this: " if text is best else "" if text.safe else "unsafe, do not use: "
        measures = f"interest {text.interest:.4f}, grounding {text.grounding:.2f}"
        results.print(f"{text.text}\n    {mark}{measures}")
    if held := sum(not text.text for text in texts):
        results.print(f"unsafe texts held back: {held}")


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
