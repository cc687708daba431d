"""A day of a log replayed against a live server: does it give the answers that `genre evaluate` measured?

The embedded server serves an export, which is refreshed at every full hour with the log up to that hour. For
each impression two requests are sent: `recommend`, with the counters of the last refresh, and
`recommend_live`, with the counters of that moment. The recall of both can be compared with the evaluation.

    python -m genre_tf.benchmarks.pool_replay RUN --data MIND --split dev [--impressions 200] [--json]
"""

import itertools
import json as json_format
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from genre_tf.contract import MOST_LIVE
from genre_tf.data.articles import Article, Impression
from genre_tf.data.counters import COUNTERS, Counters
from genre_tf.data.mind import read_split

HOUR_S = 3600


def replay(
    run: Annotated[Path, typer.Argument(help="Run folder with both trained stages, retrieval and ranking.")],
    data: Annotated[Path, typer.Option(help="MIND-format data set.")],
    split: Annotated[str, typer.Option(help="Split to replay; it must be later than the run's log.")] = "dev",
    impressions: Annotated[int, typer.Option(help="Replay only the first N impressions; 0: all.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Replay a day of impressions against a live server that is refreshed every hour."""
    log = read_split(data, split)
    asked = sorted(log.impressions, key=lambda one: one.time)[: impressions or None]
    asked = [one for one in asked if one.clicked and any(one.clicked)]
    with tempfile.TemporaryDirectory() as scratch:
        found = _served(run, data, log.articles, log.impressions, asked, Path(scratch))
    report = {name: _recall(asked, lists) for name, lists in found.items()}
    report["impressions"] = len(asked)
    if json:
        print(json_format.dumps(report))
        return
    for name, value in report.items():
        print(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")


def _served(
    run: Path,
    data: Path,
    articles: dict[str, Article],
    log: Sequence[Impression],
    asked: Sequence[Impression],
    scratch: Path,
) -> dict[str, list[list[str]]]:
    """Recommended ids for each impression, by signature: `recommend` and `recommend_live`."""
    from genre_tf.serving import Client
    from genre_tf.serving.embedded.server import EmbeddedServer, ServerOptions

    models = scratch / "models"
    _export_the_day(run, data, articles, log, models, scratch)
    counters = _Moments(run, log)
    answers: dict[str, list[list[str]]] = {"recommend": [], "recommend_live": []}
    options = ServerOptions(grpc_port=0, rest_port=0, poll_s=0.2)
    with EmbeddedServer(models, options) as server, Client(server.grpc_address, 60.0) as client:
        waiting: list[Impression] = []
        pending = sorted(log, key=lambda one: one.time)
        for hour, of_hour in itertools.groupby(asked, key=lambda one: _hour(one.time)):
            waiting = [one for one in pending if _hour(one.time) < hour]
            pending = pending[len(waiting) :]
            if waiting:
                _refresh(models, server, waiting, scratch)
            batch = list(of_hour)
            _say(f"hour {hour % 24}: {len(batch)} impressions")
            histories = [list(one.history) for one in batch]
            for some in (histories[start : start + 32] for start in range(0, len(histories), 32)):
                answers["recommend"] += _ids(client.recommend(some))
            for one in batch:
                live = counters.live(one)
                answers["recommend_live"] += _ids(client.recommend_live([list(one.history)], [live]))
    return answers


def _export_the_day(
    run: Path,
    data: Path,
    articles: dict[str, Article],
    log: Sequence[Impression],
    models: Path,
    scratch: Path,
) -> None:
    """Export the run with the articles of the split; articles that were never shown are withdrawn."""
    from genre_tf.export.exporting import ExportOptions, export_run
    from genre_tf.export.refreshing import Changes, refresh
    from genre_tf.export.server_config import write_configuration

    folder = scratch / "articles" / "dev"
    folder.mkdir(parents=True)
    named = {news_id for one in log for ids in (one.history, one.candidates) for news_id in ids}
    lines = (
        "\t".join((one.news_id, one.category, one.subcategory, one.title, one.abstract, "", "", "")) + "\n"
        for one in articles.values()
        if one.news_id in named
    )
    (folder / "news.tsv").write_text("".join(lines), encoding="utf-8")
    export_run(run, models, [folder.parent], ExportOptions(batch_sizes=(1,), allow_poor_writer=True), _say)
    shown = {news_id for one in log for news_id in one.candidates}
    refresh(models, Changes(withdraw=frozenset(named - shown)), _say, batch_sizes=(1,))
    write_configuration(models, ["genre_recommender"], 32)


def _refresh(models: Path, server: Any, log: Sequence[Impression], scratch: Path) -> None:
    from genre_tf.export.refreshing import Changes, refresh
    from genre_tf.serving.operations.model_server import wait_until_served

    file = scratch / "behaviors.tsv"
    file.write_text("".join(_line(one) for one in log), encoding="utf-8")
    done = refresh(models, Changes(behaviors=file), lambda line: None, batch_sizes=(1,))
    wait_until_served(server.grpc_address, "genre_recommender", 120.0, version=int(done.version.name))


class _Moments:
    """Counters of all articles of the day at the time of each impression."""

    def __init__(self, run: Path, log: Sequence[Impression]) -> None:
        self._counters = Counters.load(run / "prepared" / "counters.npz")
        self._log = sorted(log, key=lambda one: one.time)
        self._next = 0
        self._ids = sorted({news_id for one in log for news_id in one.candidates})

    def live(self, impression: Impression) -> dict[str, list[float]]:
        """Counters of up to 2,000 articles, those with the most views in the last hours."""
        while self._log[self._next].time < impression.time:
            self._counters.observe(self._log[self._next])
            self._next += 1
        known = self._counters.features(self._ids, impression.time)
        most = np.argsort(-known[:, COUNTERS.index("views_6h")], kind="stable")[:MOST_LIVE]
        return {self._ids[row]: known[row].tolist() for row in most if known[row, 1] > 0}


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _ids(answers: Sequence[Sequence[Any]]) -> list[list[str]]:
    return [[article.news_id for article in row] for row in answers]


def _recall(asked: Sequence[Impression], lists: Sequence[Sequence[str]]) -> float:
    """recall@10: mean share of the clicked articles of an impression that were recommended."""
    shares = []
    for one, ids in zip(asked, lists, strict=True):
        clicked = {news_id for news_id, click in zip(one.candidates, one.clicked or (), strict=True) if click}
        shares.append(len(clicked & set(ids)) / len(clicked))
    return float(np.mean(shares))


def _hour(time: datetime) -> int:
    return int((time - datetime(1970, 1, 1)).total_seconds()) // HOUR_S


def _line(one: Impression) -> str:
    shown = " ".join(
        f"{news_id}-{int(click)}" for news_id, click in zip(one.candidates, one.clicked or (), strict=True)
    )
    time = one.time.strftime("%m/%d/%Y %I:%M:%S %p")
    return "\t".join((one.impression_id, one.user_id, time, " ".join(one.history), shown)) + "\n"


if __name__ == "__main__":
    typer.run(replay)
