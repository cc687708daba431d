"""Quality of a run's writer on a split: its texts, their personalisation, and their effect on ranking."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from genre_tf.config import RunConfig
from genre_tf.data.columns import ImpressionExample
from genre_tf.data.counters import Counters
from genre_tf.data.manifest import COUNTERS_FILE
from genre_tf.data.records import read_articles
from genre_tf.data.text_examples import history_titles
from genre_tf.errors import InputError
from genre_tf.evaluation.cold_start import cold_impressions, cold_start, from_interest
from genre_tf.evaluation.generation_report import MIN_ABSTRACT_WORDS, generation_metrics
from genre_tf.evaluation.personalisation import personal_metrics, readers_of_articles
from genre_tf.evaluation.run_models import load_scorers
from genre_tf.evaluation.scored_log import ScoredLog
from genre_tf.evaluation.scoring import ModelScorer, TwoTowerScorer
from genre_tf.evaluation.served_writer import ServedWriter
from genre_tf.evaluation.slices import FEW_CLICKS
from genre_tf.evaluation.text_samples import shown_samples
from genre_tf.generation.safety_classifier import load_classifier
from genre_tf.generation.writer_options import writer_options
from genre_tf.models.checkpoint import WEIGHTS_FILE, load_news_encoder, load_ranker, load_two_tower
from genre_tf.models.generator_checkpoint import load_generator, untrained_generator
from genre_tf.models.writer import Writer


@dataclass(frozen=True)
class WriterEvaluation:
    """Measures the writer of a run.

    Args:
        run: the run folder.
        config: its settings.
        log: the split.
        examples: its impressions.
        clicked: which of their candidates were clicked.
        scorers: the trained models.
        say: takes a line of progress.
    """

    run: Path
    config: RunConfig
    log: ScoredLog
    examples: Sequence[ImpressionExample]
    clicked: Sequence[npt.NDArray[np.bool_]]
    scorers: Mapping[str, ModelScorer]
    say: Callable[[str], None]

    def metrics(self, *, before: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """`generation_metrics` and, if `before` is set, those of the initial generator."""
        found = self._metrics_of(load_generator(self.run))
        untrained = self._untrained() if before else None
        return found, self._metrics_of(untrained) if untrained else {}

    def personal(
        self, most: int, samples: int | None, first: Sequence[str] = ()
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Metrics of texts written for readers of the split, and some samples.

        Args:
            most: maximum number of readers.
            samples: texts per reader, from which the ranking chooses one; None: the served number.
            first: readers who must be among them, and among the samples, if something can be written for
                them.
        """
        readers = readers_of_articles(
            self.log.table, self.examples, self._learned, most, MIN_ABSTRACT_WORDS, first
        )
        if len(readers) < 2:
            self.say("fewer than two readers have articles unknown to the generator; writing nothing")
            return {}, []
        writer = self._served([reader.titles for reader in readers], samples)
        self.say(f"writing {writer.samples} texts for each of {len(readers)} readers and for another reader")
        titles = [title for title in self.log.table.titles if title]
        metrics, found = personal_metrics(writer, readers, titles, self.config.seed)
        return metrics, shown_samples(found, first)

    def cold_start(self) -> dict[str, Any]:
        """The effect of written articles on the ranking for readers with few clicks; empty if none."""
        few, there_are = cold_impressions(self.log)
        if not few:
            return {}
        self.say(f"adding written articles to the histories of {len(few)} impressions with few clicks")
        cold, labels = [self.examples[at] for at in few], [self.clicked[at] for at in few]
        writer = self._served([history_titles(self.log.table, row.history) for row in cold], FEW_CLICKS)
        filled = from_interest(writer, self.log.table)
        found = cold_start(cold, labels, self.scorers, len(self.log.table), filled)
        return {**found, "of_impressions": there_are}

    @cached_property
    def _learned(self) -> frozenset[str]:
        # The counters also include articles that earlier runs showed, and so learned.
        counted = Counters.load(self.run / "prepared" / COUNTERS_FILE).views.keys()
        return frozenset(read_articles(self.run / "prepared").news_ids) | counted

    @cached_property
    def _towers(self) -> TwoTowerScorer:
        loaded = self.scorers.get("two_tower")
        towers = loaded or load_scorers(self.run, ("two_tower",), self.log.table)["two_tower"]
        if not isinstance(towers, TwoTowerScorer):
            raise TypeError(f"the two towers are scored by {type(towers).__name__}")
        return towers

    def _metrics_of(self, parts: Writer) -> dict[str, Any]:
        writing = self.config.generation.writing
        return generation_metrics(parts, self._towers, self.log, self.examples, self._learned, writing)

    def _untrained(self) -> Writer | None:
        """The generator before training; None if its checkpoint is no longer available."""
        try:
            return untrained_generator(self.run, self.config.generation.backbone)
        except InputError as error:
            self.say(f"skipping the generator before training: {error}")
            return None

    def _served(self, histories: Sequence[Sequence[str]], samples: int | None) -> ServedWriter:
        """The writer for readers with these titles, as it is served; None: the served number of samples."""
        shared = load_news_encoder(self.run, self.config)
        parts = load_generator(self.run)
        return ServedWriter(
            parts,
            load_two_tower(self.run, shared=shared),
            load_ranker(self.run, shared=shared),
            histories,
            writer_options(self.config.generation.writing, parts.prompts, samples=samples),
            load_classifier(self.run, self.run / "ranking" / WEIGHTS_FILE),
        )
