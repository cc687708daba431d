"""`genre generate`: text written for a reader, from a running server."""

from dataclasses import asdict
from typing import Annotated

import typer

from genre_tf.cli.asking import open_client
from genre_tf.cli.console import print_json, results
from genre_tf.cli.texts import read_text, read_titles
from genre_tf.cli.tls_options import TlsCa, TlsCert, TlsKey


def generate(
    history_text: Annotated[
        str, typer.Option(help="Titles that the reader clicked, one per line; or a file with them.")
    ] = "",
    source: Annotated[
        str, typer.Option(help="Article to write from, or a file with it; default: from interest alone.")
    ] = "",
    kind: Annotated[str, typer.Option(help="What to write: title, summary or body.")] = "title",
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
    """Write a title, a summary or an article for a reader; best texts first, unsafe ones last.

    Example: genre generate --history-text "Storm closes schools" --source article.txt --kind title
    """
    from genre_tf.serving.joining import check_kinds

    check_kinds([kind])  # before a server is looked for
    with open_client(address, timeout_s, tls_ca, tls_cert, tls_key) as client:
        texts = client.generate([read_titles(history_text)], [read_text(source)], [kind], [seed])[0]
    if json:
        print_json({"texts": [asdict(text) for text in texts]})
        return
    for text in texts:
        measures = f"interest {text.interest:.4f}, grounding {text.grounding:.2f}"
        results.print(f"{text.text}\n    {measures}{'' if text.safe else ', unsafe'}", markup=False)
