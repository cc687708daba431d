"""How a writer in training is judged: perplexity of unseen texts, and headlines to look at."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from genre_tf.config import GenerationConfig
from genre_tf.data.text_examples import TextExample
from genre_tf.evaluation.personalisation import (
    as_markdown,
    readers_of_articles,
    written_for,
)
from genre_tf.evaluation.served_writer import ServedWriter
from genre_tf.generation.writer_options import writer_options
from genre_tf.losses.tokens import token_losses
from genre_tf.models.checkpoint import load_ranker, load_two_tower
from genre_tf.models.text_rows import TextBatching, TextRows
from genre_tf.models.writer import Writer
from genre_tf.training.quality import Quality, judged, shares
from genre_tf.training.stage_data import StageData
from genre_tf.training.stage_files import StageFiles

_COUNTED_TEXTS = 20_000  # enough to know how frequent tokens are
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
    writer = ServedWriter(
        parts,
        load_two_tower(data.run),
        load_ranker(data.run),
        [reader.titles for reader in readers],
        writer_options(settings.writing, parts.prompts),
    )

    def written() -> dict[str, str]:
        """The same readers, sources and seeds at each call."""
        writer.refresh()
        titles, sources = ([getattr(each, name) for each in readers] for name in ("titles", "source"))
        _, served = writer(titles, sources, range(len(readers)))
        return {
            f"written/{row + 1}": as_markdown(written_for(reader, row, served))
            for row, reader in enumerate(readers)
        }

    return written


class Perplexity:
    """Validation: perplexity per token of the target texts, given their context.

    Args:
        writer: the writer, with its weights at the time of each call.
        rows: the validation texts.
        batch_tokens: tokens in a batch.
    """

    def __init__(self, writer: Writer, rows: TextRows, batch_tokens: int) -> None:
        batching = TextBatching(tokens=batch_tokens, context_weight=0.0)
        self.batches = rows.batches(batching).cache()
        self.prompts = rows.prompts

        def losses(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
            found = token_losses(writer, batch, False)
            labels = tf.gather_nd(batch["labels"], tf.where(batch["label_weight"] > 0))
            return found.losses, labels, found.rows

        # Given the shapes of all batches: one trace.
        self.losses = tf.function(losses, input_signature=[self.batches.element_spec], autograph=False)

    def __call__(self) -> dict[str, float]:
        """The "perplexity" per token, and the "loss" in nats per token whose exponential it is."""
        losses = np.concatenate([self.losses(batch)[0].numpy() for batch in self.batches])
        loss = float(losses.mean())
        return {"perplexity": float(np.exp(min(loss, 80.0))), "loss": loss}

    def quality(self, learned: Sequence[str]) -> list[Quality]:
        """The perplexity beside that of a model which only knows how frequent each token is.

        Args:
            learned: target texts of the training, in which tokens are counted.
        """
        ids = self.prompts.tokenizer.encode(tf.constant(list(learned)[:_COUNTED_TEXTS])).flat_values.numpy()
        counts = 1 + np.bincount(ids, minlength=self.prompts.tokenizer.vocabulary_size)
        counts[self.prompts.end_id] += min(len(learned), _COUNTED_TEXTS)
        surprise = -np.log(counts / counts.sum())
        ours, unigram, tokens = [], [], []
        for batch in self.batches:
            losses, labels, rows = (each.numpy() for each in self.losses(batch))
            tokens.append(np.bincount(rows))
            ours.append(np.bincount(rows, losses))
            unigram.append(np.bincount(rows, surprise[labels]))
        each = np.concatenate(tokens)
        values, baseline = (shares(np.concatenate(sums), each) for sums in (ours, unigram))
        found = judged("writer", "perplexity", values, {"unigram": baseline})
        return [] if found is None else [found]
