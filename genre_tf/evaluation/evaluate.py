"""`genre evaluate`: every metric of a run on one split, with baselines and the untrained models."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.backbones.bert import load_bert
from genre_tf.config import RunConfig
from genre_tf.data.articles import ArticleTable
from genre_tf.data.columns import ImpressionExample
from genre_tf.errors import InputError
from genre_tf.evaluation import EvaluationOptions, baselines
from genre_tf.evaluation.click_model import click_probability, click_quality
from genre_tf.evaluation.questions import QuestionRow, question_metrics, read_questions
from genre_tf.evaluation.scored_log import evenly, read_log, seen_in_training, slice_masks
from genre_tf.evaluation.scoring import (
    Measured,
    ModelScorer,
    RankerScorer,
    Scores,
    TwoTowerScorer,
    chosen_models,
    load_scorers,
    open_run,
)
from genre_tf.evaluation.significance import Slices, by_activity, by_category, compared, mean_interval, sliced
from genre_tf.evaluation.whole_pool import Moments, Stages, learned_limit, pool_report
from genre_tf.evaluation.writer_quality import WriterEvaluation
from genre_tf.generation.writer import writer_options
from genre_tf.metrics.ranking import click_ranks, ranking_metrics, recall
from genre_tf.models.checkpoint import BACKBONE_FOLDER, WEIGHTS_FILE
from genre_tf.models.new_writer import with_writing, writer_of

CUTOFFS = (10, 50, 100, 200, 500)
MOST_READERS = 8
LEAST_CLICKS = 3  # with fewer there is hardly a choice of reasons
_FIRST_PLACES = 5
Say = Callable[[str], None]


def evaluate_run(
    run: Path,
    data: Path,
    split: str,
    options: EvaluationOptions | None = None,
    say: Say = print,
    look: Callable[[Measured], None] | None = None,
    train_judges: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Measure a run on a split.

    `train_judges` trains the click models of both halves of the readers where they are missing
    (`genre_tf.training.judges`); without it, those of the run are used if it has them.

    Returns:
        The report, ready for JSON; rates are fractions: split, impressions, without_click (impressions that
        no ranking metric includes), slices (impressions in each), models and baselines (scorer > slice >
        metric), significance (differences in AUC), intervals (scorer > slice > ends of the AUC's 95%
        interval), activity (`by_activity`), categories (`by_category`), click_model (ranker >
        `click_quality`), recommended (`recommended_sample` for some readers; with the pool each also has
        "from_pool", the first recommendations from the whole pool), retrieval (recall@k from texts alone),
        generation, pool (what `recommend` would answer from the whole pool, see `pool_section`), before
        (models, retrieval, pool and generation before training), samples (texts written for some readers),
        and with a file of questions questions (`question_metrics`).
    """
    options = options or EvaluationOptions()
    config = with_writing(run, open_run(run))
    asked = [name.strip() for name in options.models.split(",") if name.strip()]
    names = chosen_models(run, config, asked)
    questions = read_questions(options.questions, options.max_bad_rows) if options.questions else []
    log = read_log(run, config, data, split, max_bad_rows=options.max_bad_rows)
    clicked = log.clicked()
    slices = slice_masks(log.split.impressions, seen_in_training(run / "prepared"))
    without = sum(not row.any() for row in clicked)
    bad_rows, faults = log.split.bad_rows, log.split.faults
    skipped = f" (bad rows skipped: {bad_rows}; first: {faults[0]})" if bad_rows else ""
    size = f"{len(clicked)} impressions of {log.split.name}{skipped}, {len(log.table) - 1} articles"
    say(f"{size}: {', '.join(names)}")
    if without:
        say(f"{without} impressions without a click count as views; AUC, MRR, nDCG and recall leave them out")
    measured = Measured(log, log.examples, clicked, load_scorers(run, names, log.table))
    untrained: dict[str, ModelScorer] = {}
    if options.before:
        say("measuring the same models before training")
        untrained = load_scorers(run, names, log.table, trained=False)
    say("baselines")
    bert = load_bert(str(run / BACKBONE_FOLDER))
    vectors = baselines.title_vectors(bert, log.table.titles, config.news.max_title_tokens)
    rivals = {
        **baselines.simple_baselines(measured.examples, log.table, config.seed),
        "untrained_embeddings": baselines.mean_of_history(measured.examples, vectors),
    }
    shown = _sampled_impressions(measured.examples, clicked)
    report: dict[str, Any] = {
        "split": split,
        "impressions": len(clicked),
        "without_click": without,
        "slices": {name: int(mask.sum()) for name, mask in slices.items()},
        **_scores_report(measured, untrained, rivals, slices, shown),
        "retrieval": retrieval_report(measured.scorers, measured.examples),
        "generation": {},
        "pool": {},
    }
    report["before"] |= {"generation": {}, "pool": {}}
    report["before"]["retrieval"] = retrieval_report(untrained, measured.examples)
    funnel = _funnel(measured.scorers)
    if options.pool != "none" and funnel is not None:
        moments = Moments(run, log, measured.examples, options.pool, options.refresh_hours)
        start = _funnel(untrained)
        _add_pool(pool_report(moments, funnel, start, slices, learned_limit(run), say, kept=shown), report)
    if look is not None:
        look(measured)
    if questions:
        articles = ArticleTable(log.split.articles.values())
        report["questions"] = _questions_report(run, config, articles, questions, say)
    if options.generation:
        _add_texts(WriterEvaluation(run, config, measured, say), options, report, train_judges)
    return dict(finite(report))


def _add_pool(found: dict[str, Any], report: dict[str, Any]) -> None:
    """Add what `pool_report` found to the report, and to its samples the recommendations from the pool."""
    report["before"]["pool"] = found.pop("before", {})
    for sample, from_pool in zip(report["recommended"], found.pop("kept"), strict=True):
        sample["from_pool"] = from_pool
    report["pool"] = found


def _questions_report(
    run: Path, config: RunConfig, table: ArticleTable, questions: Sequence[QuestionRow], say: Say
) -> dict[str, Any]:
    """`question_metrics` of the run's writer, from the articles of the split."""
    writer = writer_of(run, config, table, say)
    if writer is None:
        raise InputError(f"{run} has no writer, which answers need: train one, or leave out --questions")
    options = writer_options(config.generation.writing, writer.prompts)
    return question_metrics(writer, table, questions, options, say)


def _add_texts(
    writer: WriterEvaluation,
    options: EvaluationOptions,
    report: dict[str, Any],
    train_judges: Callable[[], None] | None,
) -> None:
    """Add the quality of the generator and samples of its texts to the report."""
    if writer.writer is None:
        return
    writer.say("generator")
    report["generation"], report["before"]["generation"] = writer.metrics(before=options.before)
    if options.readers and (writer.run / "ranking" / WEIGHTS_FILE).is_file():
        if options.judge and train_judges is not None:
            try:
                train_judges()
            except InputError as error:  # a log of few readers
                writer.say(f"no independent judge: {error}")
        first = [sample["reader"] for sample in report["recommended"]]
        personal = writer.personal(options.readers, options.samples, first)
        report["generation"]["personal"], report["samples"] = personal
        report["generation"]["cold_start"] = writer.cold_start()


def _sampled_impressions(
    examples: Sequence[ImpressionExample], clicked: Sequence[npt.NDArray[np.bool_]]
) -> list[int]:
    """The first impression with a history and a click of some readers, as examples for people."""
    first: dict[str, int] = {}
    for at, example in enumerate(examples):
        if len(example.history) >= LEAST_CLICKS and clicked[at].any():
            first.setdefault(example.user_id, at)
    return evenly(list(first.values()), MOST_READERS)


def _recommended_sample(
    scorer: RankerScorer,
    logits: npt.NDArray[np.float32],
    example: ImpressionExample,
    clicked: npt.NDArray[np.bool_],
    table: ArticleTable,
) -> dict[str, Any]:
    """The best articles of an impression, with the attention over the reader's history.

    Returns:
        "reader", "history" (titles, oldest first), "candidates" (number shown), and "recommended", best
        first: "title", "category", "probability", "clicked", and "weights" over the history, which sum to 1.
    """
    best = np.argsort(-logits, kind="stable")[:_FIRST_PLACES]
    rows = example.candidates[best]
    clicks = tf.constant(scorer.vectors[example.history][None])  # [1, clicks, dimension]
    real = tf.ones(clicks.shape[:2], tf.bool)
    weights, _ = scorer.ranker.attention(clicks, real, tf.constant(scorer.vectors[rows][None]))
    return {
        "reader": example.user_id,
        "history": [table.titles[row] for row in example.history.tolist()],
        "candidates": len(example.candidates),
        "recommended": [
            {
                "title": table.titles[row],
                "category": table.categories[row],
                "probability": float(click_probability(logits[at])),
                "clicked": bool(clicked[at]),
                "weights": [round(float(weight), 4) for weight in of_clicks],
            }
            for at, row, of_clicks in zip(best.tolist(), rows.tolist(), weights.numpy()[0], strict=True)
        ],
    }


def _scores_report(
    measured: Measured,
    untrained: Mapping[str, ModelScorer],
    rivals: Mapping[str, Scores],
    slices: Slices,
    shown: Sequence[int],
) -> dict[str, Any]:
    """The parts that follow from the scores of each impression's candidates."""
    log, examples, clicked, scorers = measured

    def scored(group: Mapping[str, ModelScorer]) -> dict[str, Scores]:
        return {name: [*chain.from_iterable(map(scorer, log.blocks()))] for name, scorer in group.items()}

    scores = scored(scorers)
    models, before, simple = (
        {name: ranking_metrics(of_scorer, clicked) for name, of_scorer in group.items()}
        for group in (scores, scored(untrained), rivals)
    )
    rankers = {name: scorer for name, scorer in scorers.items() if isinstance(scorer, RankerScorer)}
    intervals: dict[str, dict[str, Any]] = {name: {} for name in (*simple, *models)}
    for name, metrics in {**simple, **models}.items():
        for part, mask in slices.items():
            found = mean_interval(metrics["auc"][mask])
            intervals[name][part] = [found["low"], found["high"]] if found else None
    best = list(rankers)[-1:]  # the ranker with counters, if there is one
    return {
        "models": sliced(models, slices),
        "before": {"models": sliced(before, slices)},
        "baselines": sliced(simple, slices),
        "significance": compared(models, before, simple),
        "intervals": intervals,
        "activity": by_activity(
            [len(row.history) for row in log.split.impressions],
            {name: metrics["auc"] for name, metrics in models.items()},
        ),
        "categories": by_category(log.table, examples, clicked, scores),
        "click_model": {name: click_quality(scores[name], clicked) for name in rankers},
        "recommended": [
            _recommended_sample(rankers[name], scores[name][at], examples[at], clicked[at], log.table)
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
