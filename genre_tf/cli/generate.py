"""`genre generate`: text written for a reader, from a running server."""

from dataclasses import asdict
from typing import Annotated

import typer

from genre_tf.cli.asking import Address, Json, Rest, Seed, TimeoutS, open_client
from genre_tf.cli.console import print_json, results
from genre_tf.cli.readers import History, HistoryText, Log, User, find_titles
from genre_tf.cli.texts import read_text
from genre_tf.cli.tls_options import TlsCa, TlsCert, TlsKey


def generate(
    history: History = None,
    history_text: HistoryText = None,
    user: User = None,
    log: Log = None,
    source: Annotated[
        str, typer.Option(help="Article to write from, or a file with it; default: from interest alone.")
    ] = "",
    kind: Annotated[str, typer.Option(help="What to write: title, summary or body.")] = "title",
    seed: Seed = 0,
    address: Address = None,
    rest: Rest = False,
    timeout_s: TimeoutS = 60.0,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    json: Json = False,
) -> None:
    """Write a title, a summary or an article for a reader; best texts first, unsafe ones last.

    The writer reads titles: with --history or --user they come from the news.tsv files of --log.

    Example: genre generate --history-text "Storm closes schools" --source article.txt --kind title
    """
    from genre_tf.serving.client.calls import check_kinds

    check_kinds([kind])  # before a server is looked for
    titles, article = find_titles(history, history_text, user, log), read_text(source)
    with open_client(address, rest, timeout_s, tls_ca, tls_cert, tls_key) as client:
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
        results.print(f"{text.text}\n    {mark}{measures}", markup=False)
