"""`genre recommend`: articles for a reader, from a running server."""

from dataclasses import asdict

from genre_tf.cli.asking import Address, Json, Rest, TimeoutS, open_client
from genre_tf.cli.console import print_json, results
from genre_tf.cli.readers import History, HistoryText, Log, User, report_unknown, required_reader
from genre_tf.cli.tls_options import TlsCa, TlsCert, TlsKey


def recommend(
    history: History = None,
    history_text: HistoryText = None,
    user: User = None,
    log: Log = None,
    address: Address = None,
    rest: Rest = False,
    timeout_s: TimeoutS = 10.0,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    json: Json = False,
) -> None:
    """Recommend articles for a reader, best first.

    Example: genre recommend --history "N55528 N19639"
    """
    reader = required_reader(history, history_text, user, log)
    with open_client(address, rest, timeout_s, tls_ca, tls_cert, tls_key) as client:
        if reader.by_id:
            found = client.recommend([reader.clicks])[0]
            report_unknown(client, reader)
        else:
            found = client.recommend_text([reader.clicks])[0]
    if json:
        print_json({"recommendations": [asdict(article) for article in found]})
        return
    for rank, article in enumerate(found, start=1):
        results.print(f"{rank:3}  {article.score:8.4f}  {article.news_id:10}  {article.title}", markup=False)
