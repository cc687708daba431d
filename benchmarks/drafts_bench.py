"""`genre bench drafts`: titles written from abstracts, with and without drafts copied from the abstracts.

How many drafted tokens are kept depends on what the writer has learned: `--run` measures a trained one.
Without `--run` the writers have random weights and keep almost none, which shows the overhead of drafts.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.benchmarks.bench_data import bench_data
from genre_tf.benchmarks.measuring import BenchOptions, Row, compare, rate_of
from genre_tf.config import GenerationConfig, WritingConfig, read_config
from genre_tf.data.articles import ArticleTable
from genre_tf.data.mind import read_split
from genre_tf.errors import FailureError, InputError
from genre_tf.generation.writer import WritingGraph, writer_options
from genre_tf.models.checkpoint import load_generator
from genre_tf.models.new_writer import new_generator
from genre_tf.models.writer import Writer

UNIT = "texts per second"
BATCHES = (1, 8)  # number of readers; each gets as many samples as in serving
DRAFT_TOKENS = (3, 7)
SHAPES = {"3 x 192": (3, 192), "6 x 384": (6, 384)}  # layers and width
LEAST_WORDS = 8  # minimum length of an abstract to write from
_ROUNDS_OF_SOURCES = 4  # requests per measurement, so that no single abstract decides

Ids = npt.NDArray[np.int32]
Write = Callable[[int], Ids]
"""Number of the request -> token ids int32 [batch, samples, longest]."""


def bench(options: BenchOptions) -> list[Row]:
    """Compare writing with and without drafts, at two batch sizes and two draft lengths (`quick`: one).

    Raises:
        InputError: the data set has no abstracts; or the run has no generator, or one that uses beam search.
        FailureError: drafts changed a text.
    """
    rows = []
    count = 1 if options.quick else len(BATCHES)  # each combination traces another graph
    with bench_data(options) as data, TemporaryDirectory(prefix="genre-bench-") as folder:
        sources = abstracts(data, max(BATCHES) * _ROUNDS_OF_SOURCES)
        settings = WritingConfig() if options.run is None else _settings(options.run)
        for name, parts in _writers(options, data, Path(folder)):
            for batch in BATCHES[:count]:
                plain = writing(parts, sources, batch, replace(settings, draft_tokens=0))
                for drafts in DRAFT_TOKENS[:count]:
                    case = f"{name}, batch {batch}, {drafts} ahead"
                    ours = writing(parts, sources, batch, replace(settings, draft_tokens=drafts))
                    rows += _compare(case, ours, plain, batch, options)
    return rows


def abstracts(data: Path, count: int) -> list[str]:
    """Abstracts of the newest split, newest articles first; repeated if there are fewer than `count`.

    Raises:
        InputError: no abstract is long enough.
    """
    split = "dev" if (data / "dev").is_dir() else "train"
    texts = [article.abstract for article in read_split(data, split).articles.values()]
    found = [text for text in texts if len(text.split()) >= LEAST_WORDS][::-1]
    if not found:
        raise InputError(
            f"{data} has no abstract of {LEAST_WORDS} words or more in {split}: choose another --data"
        )
    return [found[at % len(found)] for at in range(count)]


def writing(parts: Writer, sources: list[str], batch: int, settings: WritingConfig) -> Write:
    """A function that writes token ids as the served writer does, for a reader without history.

    Args:
        parts: the loaded writer.
        sources: abstracts.
        batch: rows per request.
        settings: settings of the writer.
    """
    options = writer_options(settings, parts.prompts)
    writer = WritingGraph(parts, options)

    @tf.function(input_signature=[tf.TensorSpec([batch], tf.string)], autograph=False)
    def write(source: Any) -> Any:
        title = tf.fill([batch], "title")
        return writer.decode(tf.fill([batch], ""), source, title, tf.range(batch, dtype=tf.int64)).ids

    def request(number: int) -> Ids:
        start = number % _ROUNDS_OF_SOURCES * batch
        found: Ids = write(tf.constant(list(islice(sources, start, start + batch)))).numpy()
        return found

    return request


def _settings(run: Path) -> WritingConfig:
    """The settings that an export of the run writes with."""
    return read_config(run / "config.toml").generation.writing


def _writers(options: BenchOptions, data: Path, folder: Path) -> Iterator[tuple[str, Writer]]:
    if options.run is not None:
        yield "trained", load_generator(options.run)
        return
    table = ArticleTable.of(read_split(data, "train"))
    for name, (layers, hidden) in SHAPES.items():
        config = GenerationConfig(backbone="new", trainable="all", layers=layers, hidden=hidden)
        if options.quick:
            config = replace(config, layers=1, hidden=16, heads=2, vocabulary_size=300)
        yield f"random {name}", new_generator(config, table, folder / name)


def _compare(case: str, ours: Write, plain: Write, batch: int, options: BenchOptions) -> list[Row]:
    for number in range(_ROUNDS_OF_SOURCES):
        require_same_texts(case, ours(number), plain(number))

    def all_requests(write: Write) -> None:
        for number in range(_ROUNDS_OF_SOURCES):
            write(number)

    def rate(write: Write) -> Any:
        texts = _ROUNDS_OF_SOURCES * batch * plain(0).shape[1]
        return rate_of(lambda: all_requests(write), texts, options)

    # Without warming up: both have just run.
    return compare(case, UNIT, rate(ours), {"plain decoding": rate(plain)}, options, warm=False)


def require_same_texts(case: str, ours: Ids, plain: Ids) -> None:
    """Raise FailureError if drafts changed a text; both arguments are int32 [batch, samples, longest]."""
    if ours.shape != plain.shape or (ours != plain).any():
        raise FailureError(f"{case}: drafts changed the written texts, so the speeds cannot be compared")
