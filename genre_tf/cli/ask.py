"""`genre ask`: a question answered from the served articles, by a running server."""

from dataclasses import asdict
from typing import Annotated

import typer

from genre_tf.cli.asking import open_client
from genre_tf.cli.console import print_json, results
from genre_tf.cli.texts import read_titles
from genre_tf.cli.tls_options import TlsCa, TlsCert, TlsKey
from genre_tf.errors import InputError


def ask(
    question: Annotated[str, typer.Argument(help="What the reader wants to know.")],
    history_text: Annotated[
        str, typer.Option(help="Titles that the reader clicked, one per line; or a file with them.")
    ] = "",
    seed: Annotated[
        int, typer.Option(min=-(2**63), max=2**63 - 1, help="The same seed writes the same text.")
    ] = 0,
    address: Annotated[str, typer.Option(help="gRPC address of the server, HOST:PORT.")] = "127.0.0.1:8500",
    timeout_s: Annotated[float, typer.Option(min=0.001, help="Seconds to wait for the answer.")] = 60.0,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Answer a question from the articles closest to it, and name these articles.

    Example: genre ask "Which schools are closed?"
    """
    if not question.strip():
        raise InputError('the question is blank: give one, such as genre ask "What happened in Ravenwater?"')
    with open_client(address, timeout_s, tls_ca, tls_cert, tls_key) as client:
        found = client.answer([question], [read_titles(history_text)], [seed])[0]
    if json:
        print_json(asdict(found))
        return
    if not found.evidence:
        results.print("no answer: none of the served articles is close to this question")
    for text, interest in found.texts:
        results.print(f"{text}\n    interest {interest:.4f}", markup=False)
    for news_id, title in found.evidence:
        results.print(f"evidence {news_id}: {title}", markup=False)
