"""Bulk embedding on the workers of a Beam runner: each takes shards and loads the model once."""

from collections.abc import Sequence
from pathlib import Path

import apache_beam as beam
from apache_beam.utils.shared import Shared

from genre_tf.data.articles import Article, read_article_file, write_articles
from genre_tf.data.beam.runners import Runner
from genre_tf.data.beam.staging import Staging, local_copy, local_folder, write_whole
from genre_tf.models.bulk_embedding import load_encoder, run_members, shard_name, write_vectors
from genre_tf.models.news_encoder import NewsEncoder


def embed_with_beam(
    run: Path, model: str, pieces: Sequence[Sequence[Article]], folder: Path, runner: Runner
) -> None:
    """Write one file of vectors for each piece of a catalogue, with the same bytes as a single process.

    The starting machine reads and splits the catalogue, because its rows have an order. A worker reads and
    writes complete shards, so nothing is gathered.

    Args:
        run: the run folder.
        model: `two_tower` or `ranker`.
        pieces: the articles of each shard.
        folder: the folder to write to.
        runner: the Beam runner.

    Raises:
        InputError: the runner cannot be used.
        FailureError: the runner failed.
        OSError: the folder cannot be written.
    """
    staging = Staging(folder, runner.temp_location)
    try:
        shards = []
        for shard, piece in enumerate(pieces):
            articles = folder / f"articles-{shard:05d}.arrow"
            write_articles(articles, piece)
            shards.append((shard_name(shard, len(pieces)), staging.share(articles)))
        weights = staging.share_folder(run, run_members(model))
        with runner.pipeline() as pipeline:
            (
                pipeline
                | "Shards" >> beam.Create(shards)
                | "Spread" >> beam.Reshuffle()
                | "Embed" >> beam.ParDo(EmbedShard(weights, model, staging.address))
            )
        for name, _ in shards:
            staging.collect(name)
        for shard in range(len(pieces)):
            (folder / f"articles-{shard:05d}.arrow").unlink()
    finally:
        staging.close()


class EmbedShard(beam.DoFn):
    """Reads the articles of a shard and writes their vectors.

    Args:
        run: address of the run folder.
        model: `two_tower` or `ranker`.
        out: address of the folder to write to.
    """

    def __init__(self, run: str, model: str, out: str) -> None:
        self._run = run
        self._model = model
        self._out = out
        self._shared = Shared()

    def setup(self) -> None:
        """Load the model once for all threads of a worker process."""
        self._encoder: NewsEncoder = self._shared.acquire(self._load)

    def process(self, shard: tuple[str, str]) -> None:
        """Embed one shard."""
        name, address = shard
        with local_copy(address) as path:
            articles = read_article_file(path)
        write_whole(self._out, name, lambda path: write_vectors(self._encoder, articles, path))

    def _load(self) -> NewsEncoder:
        with local_folder(self._run) as run:
            return load_encoder(run, self._model)
