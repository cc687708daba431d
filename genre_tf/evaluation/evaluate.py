"""`genre evaluate`: every metric of a run on one split, with baselines and the untrained models."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from genre_tf.backbones.bert import load_bert
from genre_tf.config import RunConfig
from genre_tf.data.columns import ImpressionExample
from genre_tf.evaluation import baselines
from genre_tf.evaluation.ranking_report import click_report, ranking_report, retrieval_report
from genre_tf.evaluation.reasons import sampled_impressions
from genre_tf.evaluation.report import Slices, finite
from genre_tf.evaluation.run_models import chosen_models, has_generator, load_scorers, open_run
from genre_tf.evaluation.scored_log import ScoredLog, read_log
from genre_tf.evaluation.scoring import (
    ModelScorer,
    RankerScorer,
    Scorer,
    Scores,
    TwoTowerScorer,
    score_blocks,
)
from genre_tf.evaluation.slices import Seen, slice_masks
from genre_tf.evaluation.title_vectors import title_vectors
from genre_tf.evaluation.whole_pool import PoolOptions, pool_report
from genre_tf.evaluation.writer_evaluation import WriterEvaluation
from genre_tf.models.checkpoint import BACKBONE_FOLDER, WEIGHTS_FILE
from genre_tf.models.generator_checkpoint import check_towers

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What to measure in an evaluation.

    Args:
        models: some of `run_models.MODELS`; empty: every model that the run has trained.
        before: also measure the same models before training.
        generation: also measure the generator, if the run has one.
        readers: maximum number of readers to write texts for (`personal_metrics`); each costs as much as two
            requests to a server. 0: write none, and skip the cold start too.
        samples: texts per reader, from which the ranking chooses one; None: the served number.
        max_bad_rows: number of rows of the split that may be skipped.
        pool: how to measure the whole pool; None: not at all.
    """

    models: tuple[str, ...] = ()
    before: bool = True
    generation: bool = True
    readers: int = 200
    samples: int | None = None
    max_bad_rows: int = 0
    pool: PoolOptions | None = PoolOptions()  # noqa: RUF009  (frozen)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The measured models and data, for displays that need more than the report.

    Args:
        log: the split.
        examples: its impressions.
        scorers: the trained models.
    """

    log: ScoredLog
    examples: Sequence[ImpressionExample]
    scorers: Mapping[str, ModelScorer]


def evaluate_run(
    run: Path,
    data: Path,
    split: str,
    options: EvaluationOptions | None = None,
    say: Say = print,
    look: Callable[[Measured], None] | None = None,
) -> dict[str, Any]:
    """Measure a run on a split.

    Args:
        run: the run folder.
        data: folder of a MIND-format data set.
        split: folder of a labelled split in this data set.
        options: what to measure.
        say: takes a line of progress.
        look: receives the models and the data they were measured on, while they are in memory.

    Returns:
        The report, ready for JSON; rates are fractions: split, impressions, without_click (impressions that
        no ranking metric includes), slices (impressions in each), the results of `ranking_report` and
        `click_report`, pool (what `recommend` would answer from the whole pool, see `pool_section`),
        retrieval (recall@k from texts alone), generation, before (models, retrieval, pool and generation
        before training), samples (texts written for some readers). With the pool, each of "recommended" also
        has "from_pool", the first recommendations from the whole pool.

    Raises:
        InputError: no run, no such split, no labels, a model that the run has not trained, or a generator
            that was trained with other towers.
    """
    options = options or EvaluationOptions()
    config, names = _opened(run, options)
    log = read_log(run, config, data, split, max_bad_rows=options.max_bad_rows)
    clicked = log.clicked()
    slices = slice_masks(log.split.impressions, Seen.in_prepared(run / "prepared"))
    examples = log.examples()
    without = sum(not row.any() for row in clicked)
    say(f"{_size(log)}: {', '.join(names)}")
    if without:
        say(f"{without} impressions without a click count as views; AUC, MRR, nDCG and recall leave them out")
    scorers = load_scorers(run, names, log.table)
    untrained: dict[str, ModelScorer] = {}
    if options.before:
        say("measuring the same models before training")
        untrained = load_scorers(run, names, log.table, trained=False)
    say("baselines")
    scores = {
        "models": _scores(scorers, log),
        "before": _scores(untrained, log),
        "baselines": _baselines(run, config, log, examples),
    }
    report: dict[str, Any] = {
        "split": split,
        "impressions": len(examples),
        "without_click": without,
        "slices": {name: int(mask.sum()) for name, mask in slices.items()},
        **ranking_report(scores, clicked, slices, log),
        **click_report(scorers, scores["models"], log, examples, clicked),
        "retrieval": retrieval_report(scorers, examples),
        "generation": {},
        "pool": {},
    }
    report["before"] |= {"retrieval": retrieval_report(untrained, examples), "generation": {}, "pool": {}}
    if options.pool is not None:
        shown = sampled_impressions(examples, clicked)
        _add_pool(run, log, scorers, untrained, slices, shown, options.pool, say, report)
    if look is not None:
        look(Measured(log=log, examples=examples, scorers=scorers))
    if options.generation and has_generator(run):
        _add_texts(WriterEvaluation(run, config, log, examples, clicked, scorers, say), options, report)
    return dict(finite(report))


def _add_pool(
    run: Path,
    log: ScoredLog,
    scorers: Mapping[str, ModelScorer],
    untrained: Mapping[str, ModelScorer],
    slices: Slices,
    shown: Sequence[int],
    options: PoolOptions,
    say: Say,
    report: dict[str, Any],
) -> None:
    """Add what `recommend` would answer; nothing if one of the two stages is not trained."""
    trained = _funnel(scorers)
    if trained is None:
        return
    start = _funnel(untrained)
    found = pool_report(run, log, *trained, slices, options, say, untrained=start, shown=shown)
    report["before"]["pool"] = found.pop("before", {})
    for sample, from_pool in zip(report["recommended"], found.pop("shown"), strict=True):
        sample["from_pool"] = from_pool
    report["pool"] = found


def _funnel(scorers: Mapping[str, ModelScorer]) -> tuple[TwoTowerScorer, RankerScorer] | None:
    """The two stages behind `recommend`; None if one is missing."""
    towers = scorers.get("two_tower")
    ranker = scorers.get("ranker_counters") or scorers.get("ranker")
    if isinstance(towers, TwoTowerScorer) and isinstance(ranker, RankerScorer):
        return towers, ranker
    return None


def _size(log: ScoredLog) -> str:
    split = log.split
    skipped = f" (bad rows skipped: {split.bad_rows}; first: {split.faults[0]})" if split.bad_rows else ""
    return f"{len(split.impressions)} impressions of {split.name}{skipped}, {len(log.table) - 1} articles"


def _opened(run: Path, options: EvaluationOptions) -> tuple[RunConfig, tuple[str, ...]]:
    """Settings and models to measure; wrong input is reported here, before minutes of work."""
    config = open_run(run)
    if options.generation and has_generator(run):
        check_towers(run)
    return config, chosen_models(run, config, options.models)


def _add_texts(writer: WriterEvaluation, options: EvaluationOptions, report: dict[str, Any]) -> None:
    """Add the quality of the generator and samples of its texts to the report."""
    writer.say("generator")
    report["generation"], report["before"]["generation"] = writer.metrics(before=options.before)
    if options.readers and (writer.run / "ranking" / WEIGHTS_FILE).is_file():
        first = [sample["reader"] for sample in report["recommended"]]
        personal = writer.personal(options.readers, options.samples, first)
        report["generation"]["personal"], report["samples"] = personal
        report["generation"]["cold_start"] = writer.cold_start()


def _scores(scorers: Mapping[str, Scorer], log: ScoredLog) -> dict[str, Scores]:
    return {name: list(chain.from_iterable(score_blocks(log, scorer))) for name, scorer in scorers.items()}


def _baselines(
    run: Path, config: RunConfig, log: ScoredLog, examples: Sequence[ImpressionExample]
) -> dict[str, Scores]:
    bert = load_bert(str(run / BACKBONE_FOLDER))
    vectors = title_vectors(bert, log.table.titles, config.news.max_title_tokens)
    return {
        **baselines.simple_baselines(examples, log.table, config.seed),
        "untrained_embeddings": baselines.mean_of_history(examples, vectors),
    }
