"""`genre recommend`: articles for a reader, from a running server."""

from dataclasses import asdict
from typing import Annotated

import typer

from genre_tf.cli.asking import open_client, report_unknown
from genre_tf.cli.console import print_json, results
from genre_tf.cli.texts import read_titles
from genre_tf.cli.tls_options import TlsCa, TlsCert, TlsKey
from genre_tf.errors import InputError


def recommend(
    history: Annotated[
        str | None, typer.Option(help='Ids that the reader clicked, oldest first; "" for a new reader.')
    ] = None,
    history_text: Annotated[
        str | None, typer.Option(help="Titles that the reader clicked, one per line; or a file with them.")
    ] = None,
    address: Annotated[str, typer.Option(help="gRPC address of the server, HOST:PORT.")] = "127.0.0.1:8500",
    timeout_s: Annotated[float, typer.Option(min=0.001, help="Seconds to wait for the answer.")] = 10.0,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Recommend articles for a reader, best first.

    Example: genre recommend --history "N55528 N19639"
    """
    if (history is None) == (history_text is None):
        raise InputError("give either --history (ids) or --history-text (titles)")
    with open_client(address, timeout_s, tls_ca, tls_cert, tls_key) as client:
        if history is not None:
            found = client.recommend([history.split()])[0]
            report_unknown(client, history.split())
        else:
            found = client.recommend_text([read_titles(history_text or "")])[0]
    if json:
        print_json({"recommendations": [asdict(article) for article in found]})
        return
    for rank, article in enumerate(found, start=1):
        results.print(f"{rank:3}  {article.score:8.4f}  {article.news_id:10}  {article.title}", markup=False)
