"""`genre ask`: a question answered from the served articles, by a running server."""

from typing import Annotated

import typer

from genre_tf.cli.asking import Address, Json, Rest, Seed, TimeoutS, open_client
from genre_tf.cli.console import print_json, results
from genre_tf.cli.readers import History, HistoryText, Log, User, find_titles
from genre_tf.cli.tls_options import TlsCa, TlsCert, TlsKey
from genre_tf.errors import InputError


def ask(
    question: Annotated[str, typer.Argument(help="What the reader wants to know.")],
    history: History = None,
    history_text: HistoryText = None,
    user: User = None,
    log: Log = None,
    seed: Seed = 0,
    address: Address = None,
    rest: Rest = False,
    timeout_s: TimeoutS = 60.0,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    json: Json = False,
) -> None:
    """Answer a question from the articles closest to it, and name these articles.

    The writer reads titles: with --history or --user they come from the news.tsv files of --log.

    Example: genre ask "Which schools are closed?"
    """
    if not question.strip():
        raise InputError('the question is blank: give one, such as genre ask "What happened in Ravenwater?"')
    titles = find_titles(history, history_text, user, log)
    with open_client(address, rest, timeout_s, tls_ca, tls_cert, tls_key) as client:
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
        results.print(f"{text}\n    {'' if place else 'use this: '}interest {interest:.4f}", markup=False)
    for news_id, title in found.evidence:
        results.print(f"evidence {news_id}: {title}", markup=False)
