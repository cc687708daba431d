"""`genre evaluate`: every metric of a run on one split, with baselines and the untrained models."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from genre_tf.backbones.bert import load_bert
from genre_tf.config import RunConfig
from genre_tf.data.columns import ImpressionExample
from genre_tf.evaluation import baselines
from genre_tf.evaluation.click_model import click_quality
from genre_tf.evaluation.fairness import by_activity, by_category
from genre_tf.evaluation.reasons import recommended_sample, sampled_impressions
from genre_tf.evaluation.scored_log import ScoredLog, read_log, seen_in_training, slice_masks
from genre_tf.evaluation.scoring import (
    Measured,
    ModelScorer,
    RankerScorer,
    Scores,
    TwoTowerScorer,
    chosen_models,
    has_generator,
    load_scorers,
    open_run,
)
from genre_tf.evaluation.significance import Slices, auc_intervals, compared, sliced
from genre_tf.evaluation.whole_pool import Moments, Stages, learned_limit, pool_report
from genre_tf.evaluation.writer_quality import WriterEvaluation
from genre_tf.metrics.ranking import click_ranks, ranking_metrics, recall
from genre_tf.models.checkpoint import BACKBONE_FOLDER, WEIGHTS_FILE, check_towers

CUTOFFS = (10, 50, 100, 200, 500)
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
        pool: which articles are in the whole pool, a name in `POOL_RULES`; None: do not measure it.
        refresh_hours: see `whole_pool.Moments`.
    """

    models: tuple[str, ...] = ()
    before: bool = True
    generation: bool = True
    readers: int = 200
    samples: int | None = None
    max_bad_rows: int = 0
    pool: str | None = "split"
    refresh_hours: float = 0.0


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
        no ranking metric includes), slices (impressions in each), models and baselines (scorer > slice >
        metric), significance (differences in AUC), intervals (scorer > slice > ends of the AUC's 95%
        interval), activity (`by_activity`), categories (`by_category`), click_model (ranker >
        `click_quality`), recommended (`recommended_sample` for some readers; with the pool each also has
        "from_pool", the first recommendations from the whole pool), retrieval (recall@k from texts alone),
        generation, pool (what `recommend` would answer from the whole pool, see `pool_section`), before
        (models, retrieval, pool and generation before training), samples (texts written for some readers).

    Raises:
        InputError: no run, no such split, no labels, a model that the run has not trained, or a generator
            that was trained with other towers.
    """
    options = options or EvaluationOptions()
    config = open_run(run)
    names = chosen_models(run, config, options.models)
    writes = options.generation and has_generator(run)
    if writes:
        check_towers(run)
    log = read_log(run, config, data, split, max_bad_rows=options.max_bad_rows)
    clicked = log.clicked()
    slices = slice_masks(log.split.impressions, seen_in_training(run / "prepared"))
    without = sum(not row.any() for row in clicked)
    say(f"{_size(log)}: {', '.join(names)}")
    if without:
        say(f"{without} impressions without a click count as views; AUC, MRR, nDCG and recall leave them out")
    measured = Measured(log, log.examples(), clicked, load_scorers(run, names, log.table))
    untrained: dict[str, ModelScorer] = {}
    if options.before:
        say("measuring the same models before training")
        untrained = load_scorers(run, names, log.table, trained=False)
    say("baselines")
    shown = sampled_impressions(measured.examples, clicked)
    report: dict[str, Any] = {
        "split": split,
        "impressions": len(clicked),
        "without_click": without,
        "slices": {name: int(mask.sum()) for name, mask in slices.items()},
        **_scores_report(measured, untrained, _baselines(run, config, measured), slices, shown),
        "retrieval": retrieval_report(measured.scorers, measured.examples),
        "generation": {},
        "pool": {},
    }
    before = retrieval_report(untrained, measured.examples)
    report["before"] |= {"retrieval": before, "generation": {}, "pool": {}}
    funnel = _funnel(measured.scorers)
    if options.pool is not None and funnel is not None:
        moments = Moments(run, log, measured.examples, options.pool, options.refresh_hours)
        start = _funnel(untrained)
        found = pool_report(moments, funnel, start, slices, learned_limit(run), say, kept=shown)
        report["before"]["pool"] = found.pop("before", {})
        for sample, from_pool in zip(report["recommended"], found.pop("kept"), strict=True):
            sample["from_pool"] = from_pool
        report["pool"] = found
    if look is not None:
        look(measured)
    if writes:
        _add_texts(WriterEvaluation(run, config, measured, say), options, report)
    return dict(finite(report))


def _scores_report(
    measured: Measured,
    untrained: Mapping[str, ModelScorer],
    baselines: Mapping[str, Scores],
    slices: Slices,
    shown: Sequence[int],
) -> dict[str, Any]:
    """The parts that follow from the scores of each impression's candidates."""
    log, examples, clicked, scorers = measured

    def scored(group: Mapping[str, ModelScorer]) -> dict[str, Scores]:
        return {name: [*chain.from_iterable(map(scorer, log.blocks()))] for name, scorer in group.items()}

    scores = scored(scorers)
    models, before, rivals = (
        {name: ranking_metrics(of_scorer, clicked) for name, of_scorer in group.items()}
        for group in (scores, scored(untrained), baselines)
    )
    rankers = {name: scorer for name, scorer in scorers.items() if isinstance(scorer, RankerScorer)}
    best = list(rankers)[-1:]  # the ranker with counters, if there is one
    return {
        "models": sliced(models, slices),
        "before": {"models": sliced(before, slices)},
        "baselines": sliced(rivals, slices),
        "significance": compared(models, before, rivals),
        "intervals": auc_intervals({**rivals, **models}, slices),
        "activity": by_activity(
            [len(row.history) for row in log.split.impressions],
            {name: metrics["auc"] for name, metrics in models.items()},
        ),
        "categories": by_category(log.table, examples, clicked, scores),
        "click_model": {name: click_quality(scores[name], clicked) for name in rankers},
        "recommended": [
            recommended_sample(rankers[name], scores[name][at], examples[at], clicked[at], log.table)
            for name in best
            for at in shown
        ],
    }


def retrieval_report(
    scorers: Mapping[str, ModelScorer], examples: Sequence[ImpressionExample]
) -> dict[str, Any]:
    """Recall of the two towers in the pool of all articles that the split shows to anyone."""
    towers = scorers.get("two_tower")
    if not isinstance(towers, TwoTowerScorer):
        return {}
    shown = np.unique(np.concatenate([example.candidates for example in examples]))
    shown = shown[shown > 0]
    position = np.full(len(towers.vectors), -1)
    position[shown] = np.arange(len(shown))
    clicked = [position[example.candidates[example.labels > 0]] for example in examples]
    read = [position[example.history] for example in examples]
    ranks = click_ranks(
        towers.user_vectors(examples),
        towers.vectors[shown],
        [row[row >= 0] for row in clicked],
        [row[row >= 0] for row in read],
    )
    return {**recall(ranks, [cutoff for cutoff in CUTOFFS if cutoff < len(shown)]), "pool": len(shown)}


def finite(value: Any) -> Any:
    """The same document with None in place of numbers that JSON does not support."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _funnel(scorers: Mapping[str, ModelScorer]) -> Stages | None:
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


def _add_texts(writer: WriterEvaluation, options: EvaluationOptions, report: dict[str, Any]) -> None:
    """Add the quality of the generator and samples of its texts to the report."""
    writer.say("generator")
    report["generation"], report["before"]["generation"] = writer.metrics(before=options.before)
    if options.readers and (writer.run / "ranking" / WEIGHTS_FILE).is_file():
        first = [sample["reader"] for sample in report["recommended"]]
        personal = writer.personal(options.readers, options.samples, first)
        report["generation"]["personal"], report["samples"] = personal
        report["generation"]["cold_start"] = writer.cold_start()


def _baselines(run: Path, config: RunConfig, measured: Measured) -> dict[str, Scores]:
    table, examples = measured.log.table, measured.examples
    bert = load_bert(str(run / BACKBONE_FOLDER))
    vectors = baselines.title_vectors(bert, table.titles, config.news.max_title_tokens)
    return {
        **baselines.simple_baselines(examples, table, config.seed),
        "untrained_embeddings": baselines.mean_of_history(examples, vectors),
    }
