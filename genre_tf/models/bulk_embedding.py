"""Vectors of every article of a catalogue, in files that any program can read.

A folder has these files: `news_ids.txt`, one id per line; `embeddings-00000-of-00003.npy` and so on, float32
matrices whose rows, one shard after another, belong to the ids; and `manifest.json`. NumPy's own format
without pickles can be read by every language with a reader for arrays, can be memory-mapped, and does not
need TensorFlow.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genre_tf.data.articles import Article, ArticleTable, read_article_file, write_articles
from genre_tf.data.beam.runners import Runner
from genre_tf.data.lines import FaultPolicy, find_file
from genre_tf.data.mind import NEWS, read_news, split_files
from genre_tf.data.prepared import (
    MANIFEST_FILE,
    Manifest,
    file_fingerprint,
    write_manifest,
)
from genre_tf.errors import InputError
from genre_tf.files import whole_folder
from genre_tf.models.checkpoint import BACKBONE_FOLDER, WEIGHTS_FILE, load_ranker, load_two_tower
from genre_tf.models.news_encoder import NewsEncoder

IDS_FILE = "news_ids.txt"

SHARD_ARTICLES = 8192
"""Rows in a file, the smallest unit for a worker: some tens of seconds of work on two cores."""

_KIND = "article embeddings"
_STAGES = {"two_tower": "retrieval", "ranker": "ranking"}


def embed_split(
    run: Path,
    data: Path,
    split: str,
    out: Path,
    *,
    model: str = "two_tower",
    runner: Runner | None = None,
    max_bad_rows: int = 0,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Embed every article of a split's news file, as the verb `embed` does.

    Only the news file of the split, a folder of a data set in MIND's format, is read. The bytes are the same
    with any Beam runner; None: this process, which reports (shards done, all shards). An `out` that this
    function wrote is replaced with `overwrite`.

    Raises:
        InputError: faulty data, no such trained model, or `out` already exists.
        FailureError: `out` cannot be written, or the runner failed.
    """
    if runner is not None:
        runner.require()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        try:
            ours: Any = json.loads((out / MANIFEST_FILE).read_text("utf-8"))["kind"] == _KIND
        except (OSError, ValueError, KeyError, TypeError):
            ours = False
        if not ours:
            raise InputError(f"{out} exists and does not contain article embeddings; give a new folder")
        if not overwrite:
            raise InputError(f"{out} already contains article embeddings; give --overwrite to replace them")
    news = find_file(data / split, NEWS) or split_files(data, split)[0]  # raises: names what is missing
    policy = FaultPolicy.allowing(max_bad_rows)
    articles = ArticleTable(read_news(news, policy).values()).articles[1:]
    pieces = [articles[start : start + SHARD_ARTICLES] for start in range(0, len(articles), SHARD_ARTICLES)]
    with whole_folder(out) as folder:
        ids = "".join(f"{article.news_id}\n" for article in articles)
        (folder / IDS_FILE).write_text(ids, "utf-8")
        if runner is None:
            encoder = _load_encoder(run, model)
            for shard, piece in enumerate(pieces):
                _write_vectors(encoder, piece, folder / _shard_name(shard, len(pieces)))
                if on_progress:
                    on_progress(shard + 1, len(pieces))
        else:
            _embed_with_beam(run, model, pieces, folder, runner)
        manifest = {
            "kind": _KIND,
            "model": model,
            "weights": file_fingerprint(run / _STAGES[model] / WEIGHTS_FILE),
            "news": file_fingerprint(news),
            "articles": len(articles),
            "dimension": int(np.load(folder / _shard_name(0, len(pieces)), mmap_mode="r").shape[1]),
            "bad_rows": policy.bad_rows,
        }
        return write_manifest(manifest, folder)


def _load_encoder(run: Path, model: str) -> NewsEncoder:
    return (load_two_tower if model == "two_tower" else load_ranker)(run).news


def _shard_name(shard: int, shards: int) -> str:
    return f"embeddings-{shard:05d}-of-{shards:05d}.npy"


def _write_vectors(news: NewsEncoder, articles: Sequence[Article], path: Path) -> None:
    """The bytes are the same in any process."""
    np.save(path, news.encode(articles), allow_pickle=False)


def _embed_with_beam(
    run: Path, model: str, pieces: Sequence[Sequence[Article]], folder: Path, runner: Runner
) -> None:
    """Write one file of vectors for each piece of a catalogue, on the workers of a Beam runner.

    The starting machine reads and splits the catalogue, because its rows have an order. A worker reads and
    writes complete shards, so nothing is gathered.
    """
    import apache_beam as beam
    from apache_beam.utils.shared import Shared

    from genre_tf.data.beam.staging import Staging

    staging = Staging(folder, runner.temp_location)
    try:
        shards = []
        for shard, piece in enumerate(pieces):
            articles = folder / f"articles-{shard:05d}.arrow"
            write_articles(articles, piece)
            shards.append((_shard_name(shard, len(pieces)), staging.share(articles)))
        members = ["config.toml", BACKBONE_FOLDER, f"{_STAGES[model]}/{WEIGHTS_FILE}"]
        weights = staging.share_folder(run, members)
        with runner.pipeline() as pipeline:
            (
                pipeline
                | "Shards" >> beam.Create(shards)
                | "Spread" >> beam.Reshuffle()
                | "Embed" >> beam.Map(_embed_shard, weights, model, staging.address, Shared())
            )
        for name, _ in shards:
            staging.collect(name)
        for shard in range(len(pieces)):
            (folder / f"articles-{shard:05d}.arrow").unlink()
    finally:
        staging.close()


def _embed_shard(shard: tuple[str, str], run: str, model: str, out: str, shared: Any) -> None:
    """On a worker: embed a shard (its name, and the address of its articles) into a file in the folder `out`.

    All threads of a worker process share one model.
    """
    from genre_tf.data.beam.staging import local_copy, local_folder, write_whole

    def load() -> NewsEncoder:
        with local_folder(run) as folder:
            return _load_encoder(folder, model)

    name, address = shard
    encoder = shared.acquire(load)
    with local_copy(address) as path:
        articles = read_article_file(path)
    write_whole(out, name, lambda path: _write_vectors(encoder, articles, path))
