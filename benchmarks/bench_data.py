"""The data that benches run on: the user's data set, or a synthetic newsroom."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from genre_tf.benchmarks.measuring import BenchOptions
from genre_tf.synth.newsroom import write_newsroom
from genre_tf.synth.settings import NewsroomSettings

_QUICK = NewsroomSettings(articles=150, readers=20, days=2, impressions=120)


@contextmanager
def bench_data(options: BenchOptions) -> Iterator[Path]:
    """Folder of a MIND-format data set; a newsroom written for the bench is deleted when the context ends."""
    if options.data is not None:
        yield options.data
        return
    with TemporaryDirectory(prefix="genre-bench-") as folder:
        options.say("writing a newsroom")
        write_newsroom(Path(folder) / "newsroom", _QUICK if options.quick else NewsroomSettings())
        yield Path(folder) / "newsroom"
