"""A gate for quality: are a writer's headlines fluent, supported by their sources and on their topic?

Each is measured beside the same of real titles, so that the floor fits any newsroom and any language model.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from genre_tf.config import GateConfig, GenerationConfig, RunConfig, WritingConfig
from genre_tf.data.articles import ArticleTable
from genre_tf.data.learning_texts import first_shown_in
from genre_tf.data.prepared import file_fingerprint, read_articles, read_examples
from genre_tf.errors import FailureError
from genre_tf.evaluation.scored_log import evenly
from genre_tf.evaluation.text_measures import Fluency, topic
from genre_tf.evaluation.writer_quality import MIN_ABSTRACT_WORDS, written_titles
from genre_tf.generation.grounding import FUNCTION_WORDS, Grounding
from genre_tf.models.checkpoint import WEIGHTS_FILE, writer_folder
from genre_tf.models.new_writer import resolved_writer
from genre_tf.models.news_encoder import NewsEncoder
from genre_tf.models.writer import Writer
from genre_tf.text.words import length_in_words

REPORT = "writer-gate"  # in `reports`, and so among the metrics of an export's contract
MOST_TEXTS, LEAST_TEXTS = 50, 10
_EMPTY = -11.0  # nats per token of a text without words: about those of random tokens


@dataclass(frozen=True)
class Level:
    """A mean over the headlines that a writer wrote, and over the real titles of the same articles."""

    written: float
    real: float
    least: float  # the floor for the first

    @property
    def passes(self) -> bool:
        """Whether the written headlines reach the floor; a NaN does not."""
        return self.written >= self.least


@dataclass(frozen=True)
class GateReport:
    """Headlines beside real titles: how many of each, and their levels by name."""

    texts: int
    judge: str  # the language model that fluency is measured with; empty: there is none
    levels: dict[str, Level]

    def lines(self) -> list[str]:
        """What was measured, a line for each level."""
        found = [f"{self.texts} headlines beside the real titles of their articles:"]
        for name, level in self.levels.items():
            unit = f", log probability per token under {self.judge}" if name == "fluency" else ""
            found.append(
                f"  {name} {level.written:.2f}, real {level.real:.2f}, floor {level.least:.2f}{unit}"
                + ("" if level.passes else ": too low")
            )
        if not self.judge:
            found.append("  fluency is not measured: no pretrained model of this language is installed")
        return found

    @property
    def failed(self) -> list[str]:
        """The levels below their floor."""
        return [name for name, level in self.levels.items() if not level.passes]


def checked_writer(
    run: Path,
    config: RunConfig,
    writer: Writer,
    news: Callable[[], NewsEncoder],
    say: Callable[[str], None],
) -> GateReport | None:
    """Measure a run's writer on articles of the training days, newest first, and keep the result in the run.

    A kept result of the same weights and settings is returned. `news` loads the news encoder of the two
    towers. None if too few articles have a text to write from.
    """
    file = run / "reports" / f"{REPORT}.json"
    made_from = _made_from(run, config)
    try:
        kept = json.loads(file.read_text("utf-8"))
        if kept.pop("made_from") == made_from:
            levels = {name: Level(**level) for name, level in kept.pop("levels").items()}
            return GateReport(**kept, levels=levels)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass  # none yet, or one that cannot be read
    table = read_articles(run / "prepared")
    rows = gate_articles(run, table)
    if len(rows) < LEAST_TEXTS:
        say(f"too few articles have a text to write from ({len(rows)}): the writer's quality is not measured")
        return None
    say(f"measuring the quality of {len(rows)} headlines")
    titles, sources = ([column[row] for row in rows] for column in (table.titles, table.abstracts))
    written = _headlines(writer, sources, config.generation.writing)
    judge = judge_of(config.generation, table.titles)
    # Loaded only now: a large model, beside the one that has just written.
    fluency = Fluency.of(judge) if judge else None
    grounding = Grounding(writer.common_words or FUNCTION_WORDS)
    found = levels_of(written, titles, sources, news(), fluency, grounding, config.generation.gate)
    report = GateReport(len(rows), judge, found)
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"made_from": made_from, **asdict(report)}, indent=2) + "\n", "utf-8")
    return report


def require_quality(run: Path, report: GateReport) -> None:
    """Refuse a writer below the floor.

    Raises:
        FailureError: some of its levels are too low.
    """
    if report.failed:
        raise FailureError(
            f"the writer of {run} is not exported, because its headlines are too poor "
            f"({', '.join(report.failed)}). Train it again, from a pretrained language model if there is one "
            f"(genre train generation --run {run}), or export it all the same with --allow-poor-writer"
        )


def _headlines(writer: Writer, sources: Sequence[str], writing: WritingConfig) -> list[str]:
    """A headline for each source, as the run would write one."""
    # A beam takes four times as long as a greedy choice, and writes no worse.
    strategy: Literal["sample", "greedy"] = "sample" if writing.strategy == "sample" else "greedy"
    one = replace(writing, samples=1, strategy=strategy, draft_tokens=0, required_words=())
    return written_titles(writer, sources, one).titles


def levels_of(
    written: Sequence[str],
    titles: Sequence[str],
    sources: Sequence[str],
    news: NewsEncoder,
    fluency: Callable[[Sequence[str]], Any] | None,
    grounding: Grounding,
    gate: GateConfig,
) -> dict[str, Level]:
    """The levels of headlines beside the real titles of their sources, with the floor of the settings."""

    def grounded(texts: Sequence[str]) -> float:
        return float(np.mean(grounding(tf.constant(list(texts))[:, None], tf.constant(list(sources)))))

    def fluent(texts: Sequence[str]) -> float:
        said = np.array([bool(text.strip()) for text in texts])
        return float(np.mean(np.where(said, fluency(texts), _EMPTY))) if fluency else 0.0

    def about(texts: Sequence[str]) -> float:
        return float(np.mean(topic(news, texts, sources)))

    found = {}
    if fluency is not None:
        real = fluent(titles)
        found["fluency"] = Level(fluent(written), real, real - gate.fluency_gap)
    real = grounded(titles)
    found["grounding"] = Level(grounded(written), real, real - gate.grounding_gap)
    real, other = about(titles), about([*titles[1:], titles[0]])
    found["topic"] = Level(about(written), real, other + gate.topic_share * (real - other))
    return found


def judge_of(settings: GenerationConfig, titles: Sequence[str]) -> str:
    """The language model that judges fluency: the installed one, or the writer's own; "" if there is none."""
    found = resolved_writer(GenerationConfig(), titles)
    if found.is_new:
        found = resolved_writer(settings, titles)
    return "" if found.is_new or found.backbone == "tiny" else found.backbone


def gate_articles(run: Path, table: ArticleTable) -> list[int]:
    """Rows of at most 50 articles with title and text: first those that only the validation part shows."""
    validation, train = (read_examples(run / "prepared", split) for split in ("validation", "train"))
    unseen = first_shown_in(validation, train)
    fit = [
        row
        for row in range(1, len(table))
        if table.titles[row] and length_in_words(table.abstracts[row]) >= MIN_ABSTRACT_WORDS
    ]
    new, old = ([row for row in fit if (row in unseen) == wanted] for wanted in (True, False))
    chosen = evenly(new, MOST_TEXTS)
    return chosen + evenly(old, MOST_TEXTS - len(chosen))


def _made_from(run: Path, config: RunConfig) -> dict[str, Any]:
    """What a result depends on, in plain values of JSON."""
    weights = writer_folder(run) / WEIGHTS_FILE
    settings = config.generation
    made_from = {
        "weights": file_fingerprint(weights) if weights.is_file() else settings.backbone,
        "writing": asdict(settings.writing),
        "gate": asdict(settings.gate),
    }
    return dict(json.loads(json.dumps(made_from)))
