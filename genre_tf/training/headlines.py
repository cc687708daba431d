"""Sample headlines that a writer in training produces for some readers after each validation."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from genre_tf.config import GenerationConfig
from genre_tf.data.text_examples import TextExample
from genre_tf.evaluation.personalisation import (
    ReaderOfArticle,
    as_markdown,
    readers_of_articles,
    written_for,
)
from genre_tf.evaluation.served_writer import ServedWriter
from genre_tf.generation.writer_options import writer_options
from genre_tf.models.checkpoint import load_ranker, load_two_tower
from genre_tf.models.writer import Writer
from genre_tf.training.stage_data import StageData
from genre_tf.training.stage_files import StageFiles

_LEAST_WORDS = 8  # minimum length of an abstract that a title is written from


def headlines(
    parts: Writer, data: StageData, learned: Iterable[TextExample], settings: GenerationConfig
) -> Callable[[], Mapping[str, str]] | None:
    """Returns a function that writes titles of unlearned articles for held-out readers, as the servable will.

    Args:
        parts: the writer, with its weights at the time of each call.
        data: data of a run.
        learned: training texts; their articles are not shown.
        settings: how to write.

    Returns:
        A function that returns Markdown by name: the source, the real title, and each written title with
        interest and grounding. None if nothing can be shown: there are no such readers, none were requested,
        or no trained ranker can score interest.
    """
    ids = {data.table.news_ids[text.article] for text in learned}
    readers = readers_of_articles(data.table, data.validation, ids, settings.shown_readers, _LEAST_WORDS)
    if not readers or not StageFiles(data.run, "ranking", "").trained.is_file():
        return None
    return Headlines(parts, data.run, readers, settings)


class Headlines:
    """Writes for the same readers, from the same sources and with the same seeds at each call.

    Args:
        parts: the writer.
        run: a run with trained retrieval and ranking.
        readers: the readers and the sources of their texts.
        settings: how to write.
    """

    def __init__(
        self, parts: Writer, run: Path, readers: list[ReaderOfArticle], settings: GenerationConfig
    ) -> None:
        self.readers = readers
        self.writer = ServedWriter(
            parts,
            load_two_tower(run),
            load_ranker(run),
            [reader.titles for reader in readers],
            writer_options(settings.writing, parts.prompts),
        )

    def __call__(self) -> Mapping[str, str]:
        """Markdown of the texts written for each reader, by name."""
        self.writer.refresh()
        titles, sources = ([getattr(each, name) for each in self.readers] for name in ("titles", "source"))
        _, served = self.writer(titles, sources, range(len(self.readers)))
        return {
            f"written/{row + 1}": as_markdown(written_for(reader, row, served))
            for row, reader in enumerate(self.readers)
        }
