"""Evaluates the served `recommend` on all articles that could be shown at the moment of each impression.

The answers come from the same graph that is exported, with an index that has the counters of that moment.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.data.articles import ArticleTable
from genre_tf.data.columns import ImpressionExample
from genre_tf.data.counters import COUNTERS, epoch_seconds
from genre_tf.data.log_counters import UNKNOWN_TIME, LogCounters, earliest
from genre_tf.data.prepared import SPLITS, read_examples
from genre_tf.errors import InputError
from genre_tf.evaluation.click_model import calibration
from genre_tf.evaluation.pool_metrics import (
    BASELINES,
    CUTOFFS,
    SHOWN,
    baseline_scores,
    coverage,
    list_metrics,
    list_qualities,
    rank_metrics,
    ranks_of,
)
from genre_tf.evaluation.scored_log import ScoredLog, counters_before
from genre_tf.evaluation.scoring import RankerScorer, TwoTowerScorer
from genre_tf.evaluation.significance import Measured, Slices, bootstrap_intervals, paired_bootstrap, sliced
from genre_tf.funnel.index import ArticleIndex, Catalogue
from genre_tf.funnel.recommender import Recommender
from genre_tf.funnel.rules import Rules, learned_age_limit
from genre_tf.funnel.served_models import ServedModels, moment_biases
from genre_tf.metrics.ranking import mean_metrics

POOL_RULES = MappingProxyType(
    {
        "split": "every article that the split shows to anyone, even later: one pool for all moments",
        "first_seen": "articles that were shown at or before the moment, according to the log",
        "published": "articles published at or before the moment; if the time is unknown, shown by then",
    }
)
"""Name of a rule -> what is in the pool at a moment, and why."""

POOL_MODELS = ("recommend", "retrieval")
"""The served funnel, and its first stage alone."""

RETRIEVED = max(CUTOFFS)
_COMPARED_METRICS = ("recall@10", "ndcg@10")
_ALWAYS_COMPARED = "clicks_1h"  # the strongest simple rule on MIND
_KEPT = 5  # recommendations of a sampled reader
_MOST_IMPRESSIONS = 20_000  # enough to know recall to about 0.003

Stages = tuple[TwoTowerScorer, RankerScorer]
Rows = npt.NDArray[np.int64]


def learned_limit(run: Path) -> float | None:
    """The age in hours below which 99 % of a run's newest clicks fall; None if no click has an age.

    Only the newest part of the training log is used, because at its beginning all articles seem young.
    """
    blocks = read_examples(run / "prepared", SPLITS[1]).blocks("labels", "counters")
    clicked = [block.counters[block.labels > 0] for block in blocks]
    return learned_age_limit(np.concatenate(clicked)) if clicked else None


class PoolAnswers:
    """The served funnel over all articles of a table, at any moment."""

    def __init__(self, stages: Stages, table: ArticleTable, max_history: int, rules: Rules) -> None:
        towers, ranker = stages
        titles = [" ".join(title.split()) for title in table.titles]
        self.catalogue = Catalogue(
            table.news_ids,
            titles,
            titles,
            towers.vectors,
            ranker.vectors,
            np.zeros((len(table), len(COUNTERS)), np.float32),
            table.categories,
        )
        text = tf.TensorSpec([None], tf.string)
        with tempfile.TemporaryDirectory() as scratch:
            bias = np.zeros(len(table), np.float32)
            self.index = ArticleIndex(self.catalogue, bias, Path(scratch) / "ids.txt", rules.max_age_hours)
            self._models = ServedModels(towers.two_tower, ranker.ranker)
            sizes = {"max_history": max_history, "retrieve": RETRIEVED}
            certain = replace(rules, exploration=0.0)
            served = Recommender(self._models, self.index, k=SHOWN, rules=rules, **sizes)
            whole = Recommender(self._models, self.index, k=RETRIEVED, rules=certain, **sizes)
            self._served = tf.function(served.recommend, input_signature=[text], autograph=False)
            self._lists = tf.function(
                lambda history: (whole.recommend(history)["news_id"], *whole.retrieved(history)),
                input_signature=[text],
                autograph=False,
            )
            self._served(tf.constant([""]))  # the table of ids reads its file here
        self._row_of = {b"": -1} | {
            news_id.encode(): row for row, news_id in enumerate(table.news_ids) if row
        }

    def set_moment(self, counters: npt.NDArray[np.float32], in_pool: npt.NDArray[np.bool_]) -> None:
        """Set the index to a moment: counters float32 [N, 9], and whether articles may be shown, bool [N]."""
        catalogue = replace(self.catalogue, counters=counters.astype(np.float32), withdrawn=~in_pool)
        self.index.update(catalogue, moment_biases(self._models, catalogue.counters))

    def served(self, histories: Sequence[str]) -> tuple[Rows, npt.NDArray[np.float32]]:
        """The answers to `recommend`: rows, -1 for none, and scores: int64 [B, 10] and float32 [B, 10]."""
        answer = self._served(tf.constant(histories))
        return np.stack([self._rows(ids) for ids in answer["news_id"].numpy()]), answer["score"].numpy()

    def lists(self, history: str) -> dict[str, Rows]:
        """The retrieved rows in the order of each of `POOL_MODELS`: int64 [300]; -1 for none."""
        ranked, rows, real = self._lists(tf.constant([history]))
        retrieved = np.full(RETRIEVED, -1)
        retrieved[: rows.shape[1]] = np.where(real.numpy()[0], rows.numpy()[0], -1)
        return {"recommend": self._rows(ranked.numpy()[0]), "retrieval": retrieved}

    def _rows(self, news_ids: npt.NDArray[np.object_]) -> Rows:
        return np.asarray([self._row_of[one] for one in news_ids])


class Moments:
    """Counters and pool at the moment of each impression.

    Args:
        refresh_hours: 0: current counters, as in requests to `recommend_live`; above 0: counters at the last
            refresh of a server that is refreshed at this interval.
    """

    def __init__(
        self,
        run: Path,
        log: ScoredLog,
        examples: Sequence[ImpressionExample],
        rule: str = "split",
        refresh_hours: float = 0.0,
    ) -> None:
        if rule not in POOL_RULES:
            raise InputError(f"the pool rule must be one of {', '.join(POOL_RULES)}; got {rule!r}")
        impressions, table = log.split.impressions, log.table
        self.log, self.examples, self.rule = log, examples, rule
        self._period = round(refresh_hours * 3600)
        self.seconds = np.asarray([epoch_seconds(one.time) for one in impressions], np.int64)
        shown = np.concatenate([example.candidates for example in examples])
        seconds = np.repeat(self.seconds, [len(example.candidates) for example in examples])
        earlier = counters_before(run, impressions).state(table.news_ids)
        self._views = LogCounters(examples, len(table), earlier, table.published)
        self._rows = np.arange(len(table))
        self._shown = np.isin(self._rows, shown)
        self._shown[0] = False
        first = np.full(len(table), UNKNOWN_TIME)
        order = np.argsort(-seconds, kind="stable")  # the earliest is written last
        first[shown[order]] = seconds[order]
        self._available = earliest(earlier.first, first)
        if rule == "published":
            self._available = np.where(table.published != UNKNOWN_TIME, table.published, self._available)
        self.articles = int(self._shown.sum())

    def at(self, number: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Counters float32 [N, 9] and pool bool [N] at the moment of an impression."""
        seconds = int(self.seconds[number])
        as_of = seconds - seconds % self._period if self._period else seconds
        counters = self._views.before(self._rows, as_of)
        if self.rule == "split":
            return counters, self._shown
        # What the impression shows is available, whatever its time says; without any time only that is.
        available = (self._available != UNKNOWN_TIME) & (self._available <= seconds)
        return counters, self._shown & (available | np.isin(self._rows, self.examples[number].candidates))


@dataclass(frozen=True, kw_only=True)
class _Answered:
    """What is known about one impression; -1 in rows: no article."""

    clicked: npt.NDArray[np.int32]  # [clicks], rows
    shown: Rows  # [10], of the answer to `recommend`
    scores: npt.NDArray[np.float32]  # [10]
    counters: npt.NDArray[np.float32]  # [10, 9]
    all_views: float  # of all articles of the pool before the moment
    pool_articles: int
    lists: Mapping[str, Rows]  # see `PoolAnswers.lists`
    ranks: Mapping[str, npt.NDArray[np.float64]]  # for each of `BASELINES` [clicks]
    before: Mapping[str, Rows] | None  # the lists of the models before training, if they are measured


def pool_report(
    moments: Moments,
    stages: Stages,
    untrained: Stages | None,
    slices: Slices,
    max_age_hours: float | None,
    say: Callable[[str], None],
    *,
    kept: Sequence[int] = (),
) -> dict[str, Any]:
    """Measure the whole pool on a log, with the rules that an export has by default.

    Args:
        untrained: the models before training, measured on the same impressions; None: not measured.
        max_age_hours: age limit of the export; see `learned_limit`.

    Returns:
        The result of `pool_section`; "kept", the first recommendations for each of these impressions, best
        first: "title", "category", "score", "clicked"; and with `untrained` "before", model > "all" > metric.
    """
    log, examples = moments.log, moments.examples
    known = np.flatnonzero([(one.labels > 0).any() for one in examples])
    measured = frozenset(known[:: 1 + len(known) // _MOST_IMPRESSIONS].tolist())
    say(f"whole pool: {len(measured)} impressions with a click, {moments.articles} articles")
    rules = Rules(max_age_hours=max_age_hours)
    answers = PoolAnswers(stages, log.table, log.max_history, rules)
    start = PoolAnswers(untrained, log.table, log.max_history, rules) if untrained else None
    _, category_of = np.unique(np.array(log.table.categories), return_inverse=True)
    generator = np.random.default_rng(0)
    order = sorted({*measured, *kept}, key=lambda number: (moments.seconds[number], number))
    answered: dict[int, _Answered] = {}
    for number in order:
        counters, in_pool = moments.at(number)
        history, example = " ".join(log.split.impressions[number].history), examples[number]
        answers.set_moment(counters, in_pool)
        lists, before = answers.lists(history), None
        shown, scores = (part[0] for part in answers.served([history]))
        lists["recommend"][:SHOWN] = shown  # including an article put there by exploration
        if start is not None:
            start.set_moment(counters, in_pool)
            before = start.lists(history)
        random = generator if number in measured else np.random.default_rng()
        answered[number] = _Answered(
            clicked=example.candidates[example.labels > 0],
            shown=shown,
            scores=scores,
            counters=counters[shown],
            all_views=float(counters[in_pool, 1].sum()),
            pool_articles=int(in_pool.sum()),
            lists=lists,
            ranks=_baseline_ranks(example, counters, in_pool, category_of, random),
            before=before,
        )
    rows = [number for number in order if number in measured]
    found = _section(
        [answered[number] for number in rows],
        {name: mask[rows] for name, mask in slices.items()},
        moments,
        stages[0].vectors,
        category_of,
    )
    found["kept"] = [
        [
            {
                "title": log.table.titles[row],
                "category": log.table.categories[row],
                "score": score,
                "clicked": row in answered[number].clicked,
            }
            for row, score in zip(
                answered[number].shown[:_KEPT].tolist(), answered[number].scores.tolist(), strict=False
            )
            if row >= 0
        ]
        for number in kept
    ]
    return found


def _baseline_ranks(
    example: ImpressionExample,
    counters: npt.NDArray[np.float32],
    in_pool: npt.NDArray[np.bool_],
    category_of: npt.NDArray[np.int64],
    generator: np.random.Generator,
) -> dict[str, npt.NDArray[np.float64]]:
    """The ranks of the clicked articles by each rule; infinity outside the pool."""
    clicked, place = example.candidates[example.labels > 0], np.cumsum(in_pool) - 1
    wanted = place[clicked[in_pool[clicked]]]
    read = np.setdiff1d(place[example.history[in_pool[example.history]]], wanted)
    missing = np.full(len(clicked) - len(wanted), np.inf)
    scores = baseline_scores(counters[in_pool], category_of[in_pool], category_of[example.history], generator)
    return {name: np.concatenate([ranks_of(scores[name], wanted, read), missing]) for name in BASELINES}


def _section(
    answered: Sequence[_Answered],
    slices: Slices,
    moments: Moments,
    vectors: npt.NDArray[np.float32],
    category_of: npt.NDArray[np.int64],
) -> dict[str, Any]:
    clicked = [one.clicked for one in answered]
    shown, scores = (np.stack([getattr(one, name) for one in answered]) for name in ("shown", "scores"))
    views, ages = np.moveaxis(np.stack([one.counters for one in answered]), 2, 0)[1:3]
    sizes = np.asarray([one.pool_articles for one in answered])

    def of_models(lists: Sequence[Mapping[str, Rows]]) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
        places = {name: np.stack([each[name] for each in lists]) for name in POOL_MODELS}
        return {name: list_metrics(each, clicked) for name, each in places.items()}

    measured = of_models([one.lists for one in answered])
    measured["recommend"] |= list_qualities(
        shown,
        vectors=vectors,
        category_of=category_of,
        views=views,
        all_views=np.asarray([one.all_views for one in answered]),
        pool_articles=sizes,
        age_hours=np.where((views == 0) & (ages == 0), np.nan, ages),
    )
    measured |= {name: rank_metrics([one.ranks[name] for one in answered]) for name in BASELINES}
    hits = np.stack([np.isin(*pair) for pair in zip(shown, clicked, strict=True)])
    real = shown >= 0
    # How often "a click" (a score of 0.5 or more) and "no click" are right, beside always saying no.
    right = (scores[real] >= 0.5) == hits[real]
    covered = coverage(shown, moments.articles)
    section = pool_section(
        measured,
        slices,
        articles=moments.articles,
        per_moment=sizes,
        rule=moments.rule,
        coverage={"recommend": covered},
        calibration={
            **calibration(scores[real], hits[real]),
            "first": calibration(scores[real[:, 0], 0], hits[real[:, 0], 0]),
            "accuracy": float(right.mean()) if real.any() else None,
            "always_no": float(1.0 - hits[real].mean()) if real.any() else None,
        },
    )
    section["recommend"]["all"]["coverage"] = covered
    before = [one.before for one in answered if one.before is not None]
    if before:
        start = of_models(before)
        section["before"] = {name: {"all": mean_metrics(metrics)} for name, metrics in start.items()}
    return section


def pool_section(
    measured: Measured,
    slices: Slices,
    *,
    articles: int,
    per_moment: npt.NDArray[np.integer],
    rule: str,
    coverage: Mapping[str, float | None],
    calibration: Mapping[str, Any],
) -> dict[str, Any]:
    """The whole-pool part of a report.

    Args:
        measured: "recommend", "retrieval", and baselines by name -> metric -> float64 [impressions], NaN if
            undefined.
        articles: articles that were in the pool at any moment.
        per_moment: int [impressions], articles in the pool at the moment of each impression.

    Returns:
        Rates are fractions: "recommend", "retrieval" (slice > metric > mean), "baselines" (name > slice >
        metric > mean), "coverage" (name > fraction), "intervals" (name > slice > metric > ends of the 95%
        bootstrap interval), "significance" ("ours over theirs" > metric > the fields of
        `significance.Difference`), "slices" (measured impressions in each), "pool" ("articles", "per_moment"
        with "mean", "least" and "most", "rule", "reason", "impressions"), "calibration". None if undefined.
    """
    means = sliced(measured, slices)
    baselines = {name: parts for name, parts in measured.items() if name not in POOL_MODELS}
    ours, columns = measured["recommend"], [(name, key) for name, parts in measured.items() for key in parts]
    values = np.stack([measured[name][metric] for name, metric in columns], axis=1)  # [impressions, columns]
    intervals: dict[str, Any] = {name: {part: {} for part in slices} for name in measured}
    for part, mask in slices.items():
        for (name, metric), ends in zip(columns, bootstrap_intervals(values[mask]), strict=True):
            intervals[name][part][metric] = None if np.isnan(ends).any() else ends.tolist()
    recalls = {name: mean_metrics(metrics)["recall@10"] or 0.0 for name, metrics in baselines.items()}
    significance: dict[str, Any] = {}
    for rival in dict.fromkeys(["retrieval", max(recalls, key=lambda name: recalls[name]), _ALWAYS_COMPARED]):
        found = {key: paired_bootstrap(ours[key], measured[rival][key]) for key in _COMPARED_METRICS}
        parts = {metric: asdict(each) for metric, each in found.items() if each is not None}
        significance[f"recommend over {rival}"] = parts
    defined = ~np.isnan(ours["recall@10"])
    return {
        **{name: means[name] for name in POOL_MODELS},
        "baselines": {name: means[name] for name in baselines},
        "coverage": dict(coverage),
        "intervals": intervals,
        "significance": {title: parts for title, parts in significance.items() if parts},
        "slices": {part: int((mask & defined).sum()) for part, mask in slices.items()},
        "pool": {
            "articles": articles,
            "per_moment": {
                "mean": float(per_moment.mean()),
                "least": int(per_moment.min()),
                "most": int(per_moment.max()),
            },
            "rule": rule,
            "reason": POOL_RULES[rule],
            "impressions": len(per_moment),
        },
        "calibration": dict(calibration),
    }
